"""What a run of batch inference did."""

import resource
import sys
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Summary:
    """The figures of a run."""

    rows: int
    """Rows of the input, rejected ones included."""
    rejected: int
    seconds: float
    engine: str
    model: str
    """The address of the model, without secrets."""
    model_id: str
    output: str
    rejected_output: str | None
    """The file of the rejected rows; None if no row was rejected."""
    resumed_rows: int = 0
    """Rows that an earlier run had already predicted."""
    peak_memory_mb: float | None = None
    """The most memory of this process and of its workers together; None on a cluster."""

    @property
    def rows_per_second(self) -> float:
        """Without the rows of an earlier run."""
        return (self.rows - self.resumed_rows) / max(self.seconds, 1e-9)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        figures = asdict(self)
        for name in ("seconds", "peak_memory_mb"):
            figures[name] = round(figures[name], 3) if figures[name] else figures[name]
        return figures | {"rows_per_second": round(self.rows_per_second)}

    def __str__(self) -> str:
        parts = [f"{_rows(self.rows - self.rejected)} predicted: {self.output}"]
        if self.resumed_rows:
            parts.append(f"{_rows(self.resumed_rows)} already there")
        if self.rejected:
            where = f": {self.rejected_output}" if self.rejected_output else ""
            parts.append(f"{_rows(self.rejected)} rejected{where}")
        figures = f"{self.seconds:.1f} s, {self.rows_per_second:,.0f} rows/s"
        if self.peak_memory_mb:
            figures += f", {self.peak_memory_mb:,.0f} MB"
        parts.append(f"{figures}, engine {self.engine}, model {self.model_id}")
        return "\n".join(parts)


def _rows(count: int) -> str:
    return f"{count:,} row" if count == 1 else f"{count:,} rows"


def peak_memory_mb() -> float:
    """The peak memory of this process and of its ended child processes, in MB (1e6 bytes)."""
    unit = 1 if sys.platform == "darwin" else 1024
    own, children = (
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return (own + children) * unit / 1e6
