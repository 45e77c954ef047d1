"""Markdown tables of the results of `make bench-batch`."""

import statistics
from typing import Any

from benchmarks.report import megabytes, number, table

LIBRARIES = (
    *("mlflow", "mlflow-skinny", "numpy", "onnxruntime", "pandas", "pyarrow", "pyspark"),
    "scikit-learn",
)
"""The libraries whose versions are listed."""
INPUTS = {
    "parquet": "Parquet, 8 columns",
    "csv": "CSV, 8 columns",
    "wide": "Parquet, 100 columns",
}

Figures = dict[str, Any]
"""A `batch.Figures` as JSON."""


def tables(results: dict[str, Any]) -> str:
    """One table for each input on one machine, one for Spark, and notes."""
    measured = [one for one in results["figures"] if not one["failure"]]
    parts = []
    for name, title in INPUTS.items():
        for is_spark in (False, True):
            chosen = [
                one for one in measured if (one["input"], one["is_spark"]) == (name, is_spark)
            ]
            if chosen:
                parts.append(_table(f"Spark: {title}" if is_spark else title, chosen))
    return "\n\n".join([*parts, _notes(results)])


def line(one: Figures) -> str:
    """The figures of one program on one input in words, to show progress."""
    if one["failure"]:
        return f"  {one['title']}: FAILED: {one['failure']}"
    values = [f"{_rows_per_second(one)} rows/s", f"{number(_seconds(one))} s"]
    return f"  {one['title']}: {', '.join(values)}, {megabytes(one['memory'])}"


def _table(title: str, measured: list[Figures]) -> str:
    counts = sorted({one["rows"] for one in measured})
    head = f"{title}, {' / '.join(f'{count / 1e6:g} M' for count in counts)} rows"
    yardsticks = {one["rows"]: one for one in measured if one["is_yardstick"]}
    ratio = next((f"x {one['title']}" for one in yardsticks.values()), "ratio")
    by_title: dict[str, dict[int, Figures]] = {}
    for one in measured:
        by_title.setdefault(one["title"], {})[one["rows"]] = one
    rows = []
    for name, found in by_title.items():
        at = [found.get(count) for count in counts]
        rows.append(
            [
                name,
                " / ".join(_rows_per_second(one) if one else "-" for one in at),
                " / ".join(_ratio(one, yardsticks) if one else "-" for one in at),
                " / ".join(number(_seconds(one)) if one else "-" for one in at),
                " / ".join(megabytes(one["memory"]) if one else "-" for one in at),
                "label, probabilities" if next(iter(found.values()))["probabilities"] else "label",
            ]
        )
    return table([head, "rows/s", ratio, "seconds", "memory", "answers"], rows)


def _notes(results: dict[str, Any]) -> str:
    by_versions: dict[str, list[str]] = {}
    for title, versions in results["versions"].items():
        known = (f"{name} {versions[name]}" for name in LIBRARIES if name in versions)
        by_versions.setdefault(", ".join(known), []).append(title)
    lines = [
        f"Machine: {results['machine']}.",
        *(
            f"{', '.join(titles)}: Python {results['python']}, {libraries}."
            for libraries, titles in by_versions.items()
        ),
        *(
            f"{one['title']}, {INPUTS[one['input']]}, {one['rows']:,} rows: not measured: "
            f"{one['failure'].replace('|', '/')}"
            for one in results["figures"]
            if one["failure"]
        ),
    ]
    return "\n".join(f"- {line}" for line in lines)


def _seconds(one: Figures) -> float:
    return float(statistics.median(one["seconds"]))


def _rows_per_second(one: Figures) -> str:
    """Three significant digits."""
    value = one["rows"] / _seconds(one)
    return f"{float(f'{value:.3g}'):,.0f}"


def _ratio(one: Figures, yardsticks: dict[int, Figures]) -> str:
    if one["rows"] not in yardsticks:
        return "-"
    return f"{_seconds(yardsticks[one['rows']]) / _seconds(one):.1f}"
