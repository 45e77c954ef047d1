"""One row of the benchmark's table, as people write it for FastAPI and BentoML."""

from pydantic import BaseModel


class Row(BaseModel):
    mean_radius: float
    mean_texture: float
    mean_perimeter: float
    mean_area: float
    mean_smoothness: float
    mean_compactness: float
    mean_concavity: float
    mean_concave_points: float
    mean_symmetry: float
    mean_fractal_dimension: str
