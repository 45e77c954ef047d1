"""The measured programs that predict a file; see `Program` for their heads."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.programs import Program, read_programs

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Batch(Program):
    """A program that predicts a file; {input}, {output} and {master} (Spark) are filled in."""

    inputs: tuple[str, ...] = ()
    """The inputs that it is measured with: `parquet`, `csv` and `wide`."""
    output: str = ""
    """The name of its output; empty: `answers` in the input's format."""
    is_spark: bool = False
    is_yardstick: bool = False
    """Others on one machine, or others on Spark, are compared with it."""
    groups: tuple[str, ...] = ()
    """Ours: the project's dependency groups that are installed."""


def read_batches() -> list[Batch]:
    """Every program that has a file here; those that others are compared with come first."""
    return sorted(read_programs(HERE, Batch), key=lambda program: not program.is_yardstick)
