"""Markdown tables of the results of `make bench`."""

import math
import os
import platform
import re
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.load import Result

YARDSTICK = "mlflow-models-serve"
WIDE = 10
"""Results with more columns than this have their own table."""
LIBRARIES = (
    *("bentoml", "fastapi", "litserve", "mlflow", "mlflow-skinny", "mlserver"),
    *("mlserver-mlflow", "mlserver-sklearn", "modern-ml-pipeline", "numpy", "onnxruntime"),
    *("pandas", "pydantic", "scikit-learn", "skl2onnx", "starlette", "uvicorn", "uvloop"),
)
"""The libraries whose versions are listed."""

System = dict[str, Any]
"""A `serving.Figures` as JSON."""


def tables(results: dict[str, Any]) -> str:
    """Everything that was measured."""
    measured = [one for one in results["systems"] if not one["failure"]]
    narrow = [one for one in measured if one["columns"] <= WIDE]
    wide = [one for one in measured if one["columns"] > WIDE]
    parts = [_overview(narrow), _open(narrow)]
    if wide:
        base = [one for one in narrow if any(one["key"] == w["key"].split("-")[0] for w in wide)]
        parts.append(_wide([*base, *wide]))
    parts += [
        "<details><summary>Every load of every system</summary>",
        _everything(measured),
        "</details>",
        _notes(results),
    ]
    return "\n\n".join(part for part in parts if part)


def profile(results: dict[str, Any]) -> str:
    """Where the time of one request goes, by engine."""
    ours = [one for one in results["systems"] if one["parts"]]
    head = ["µs per request", *(one["title"] for one in ours)]
    if not ours:
        return ""
    parts = [one["parts"] for one in ours]
    rows = [[name, *(number(part[name]) for part in parts)] for name in parts[0]]
    whole = [sum(part.values()) for part in parts]
    rows.append(["**the application**", *(f"**{number(value)}**" for value in whole)])
    alone = [_closed(one, 1) for one in ours]
    server = [
        number(load.p50 * 1000 - value) if load else "-"
        for load, value in zip(alone, whole, strict=True)
    ]
    rows.append(["uvicorn, sockets, load generator", *server])
    return table(head, rows)


def summary(results: dict[str, Any]) -> str:
    """A short table for people in a hurry: ratios to `mlflow models serve`."""
    measured = [one for one in results["systems"] if not one["failure"] and one["columns"] <= WIDE]
    by_key = {one["key"]: one for one in measured}
    yardstick = _closed(by_key[YARDSTICK], 32) if YARDSTICK in by_key else None
    head = ["", "requests/s", "of MLflow's", "p95", "memory", "ready"]
    rows = []
    for one in sorted(measured, key=_rate, reverse=True):
        at = _closed(one, 32)
        if one["kind"] == "ceiling" or at is None:
            continue
        ratio = f"{at.per_second / yardstick.per_second:.1f} x" if yardstick else ""
        rows.append(
            [
                one["title"],
                number(at.per_second),
                ratio,
                f"{number(at.p95)} ms",
                megabytes(one["memory"]),
                _seconds(one["ready"]),
            ]
        )
    return table(head, rows)


def line(result: Result) -> str:
    """One result in words, to show progress."""
    parts = [f"{number(result.per_second)} requests/s", f"p50 {number(result.p50)} ms"]
    parts += [f"p95 {number(result.p95)} ms", f"p99 {number(result.p99)} ms"]
    if trouble := _trouble(result):
        parts.append(f"errors: {trouble}")
    return f"{_load(result)}: {', '.join(parts)}"


# -------------------------------------------------------------------------------- tables


def _overview(systems: list[System]) -> str:
    counts = (1, 8, 32)
    each = " / ".join(map(str, counts))
    head = [
        f"{each} clients, closed loop",
        "requests/s",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "errors",
        "memory",
        "ready",
        "environment",
    ]
    rows = []
    for one in systems:
        loads = [_closed(one, clients) for clients in counts]
        found = [load for load in loads if load]
        rows.append(
            [
                one["title"],
                *(
                    " / ".join(number(getattr(load, name)) if load else "-" for load in loads)
                    for name in ("per_second", "p50", "p95", "p99")
                ),
                _errors(found),
                megabytes(one["memory"]),
                _seconds(one["ready"]),
                megabytes(one["size"]),
            ]
        )
    return table(head, rows)


def _open(systems: list[System]) -> str:
    head = ["open loop", "arrivals/s", "answers/s", "p50 ms", "p95 ms", "p99 ms", "errors"]
    rows = [
        [
            one["title"],
            f"{load.rate:g}",
            *(number(value) for value in (load.per_second, load.p50, load.p95, load.p99)),
            _errors([load]),
        ]
        for one in systems
        for load in _loads(one)
        if load.mode == "open"
    ]
    return table(head, rows) if rows else ""


def _wide(systems: list[System]) -> str:
    head = ["columns", "", "requests/s at 1 / 32 clients", "p95 ms", "memory", "ready"]
    rows = []
    for one in sorted(systems, key=lambda one: (one["columns"], one["key"])):
        loads = [load for clients in (1, 32) if (load := _closed(one, clients))]
        rows.append(
            [
                str(one["columns"]),
                one["title"].partition(",")[0],
                " / ".join(number(load.per_second) for load in loads),
                " / ".join(number(load.p95) for load in loads),
                megabytes(one["memory"]),
                _seconds(one["ready"]),
            ]
        )
    return table(head, rows)


def _everything(systems: list[System]) -> str:
    head = ["", "load", "requests/s", "p50 ms", "p95 ms", "p99 ms", "worst ms", "errors"]
    rows = []
    for one in systems:
        for load in _loads(one):
            values = (load.per_second, load.p50, load.p95, load.p99, load.worst)
            rows.append([one["title"], _load(load), *map(number, values), _trouble(load) or "0"])
    return table(head, rows)


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _notes(results: dict[str, Any]) -> str:
    lines = [
        f"Machine: {results['machine']}; load generator and server share it.",
        f"Each load: {results['warm_up']:g} s of warm-up, then {results['seconds']:g} s; "
        f"ready: the median of {max(len(s['ready']) for s in results['systems'])} starts.",
        *(
            f"{', '.join(titles)}: Python {results['python']}, {libraries}."
            for libraries, titles in _by_versions(results["systems"]).items()
        ),
        *(
            f"{one['title']} is not measured: {one['failure'].replace('|', '/')}"
            for one in results["systems"]
            if one["failure"]
        ),
        *(
            f"{one['title']}, parts of a request: not measured: "
            f"{one['not_profiled'].replace('|', '/')}"
            for one in results["systems"]
            if one["not_profiled"]
        ),
    ]
    return "\n".join(f"- {line}" for line in lines)


def _by_versions(systems: list[System]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in systems:
        if one["versions"] and one["columns"] <= WIDE:
            known = (
                f"{name} {one['versions'][name]}" for name in LIBRARIES if name in one["versions"]
            )
            found.setdefault(", ".join(known), []).append(one["title"])
    return found


# -------------------------------------------------------------------------------- values


def _loads(system: System) -> list[Result]:
    return [load if isinstance(load, Result) else Result(**load) for load in system["loads"]]


def _closed(system: System, clients: int) -> Result | None:
    for load in _loads(system):
        if load.mode == "closed" and load.clients == clients:
            return load
    return None


def _rate(system: System) -> float:
    """Requests per second at 32 clients."""
    at = _closed(system, 32)
    return at.per_second if at else 0


def number(value: float) -> str:
    """Two significant digits below ten, otherwise a whole number."""
    if math.isnan(value):
        return "-"
    if value >= 9.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 0.95 else f"{value:.2f}"


def megabytes(value: int | None) -> str:
    return f"{value / 1e6:,.0f} MB" if value else "-"


def _seconds(starts: list[float]) -> str:
    return f"{statistics.median(starts):.1f} s" if starts else "-"


def _load(result: Result) -> str:
    """Name the load."""
    if result.mode == "open":
        return f"{result.rate:g}/s"
    return f"{result.clients} client{'s' * (result.clients > 1)}"


def _errors(loads: list[Result]) -> str:
    return " / ".join(str(sum(load.errors.values()) + load.unanswered) for load in loads)


def _trouble(result: Result) -> str:
    """The errors, by status or kind."""
    counts = dict(result.errors)
    if result.unanswered:
        counts["unanswered"] = result.unanswered
    return ", ".join(f"{name}: {count}" for name, count in sorted(counts.items()))


# --------------------------------------------------------------------- where it is written


def machine() -> str:
    """The machine of the measurement."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    processor = found[1] if found else platform.processor() or "unknown"
    system = platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores ({processor}), {memory:.0f} GB of memory, {system}, {platform.machine()}"


def put(file: Path, mark: str, text: str) -> None:
    """Replace the text between the marks in a file.

    Raises `SystemExit` if the marks are missing.
    """
    begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    content = file.read_text()
    before, found, rest = content.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise SystemExit(f"{file}: the marks {begin} and {end} are missing")
    file.write_text(f"{before}{begin}\n{text}\n{end}{after}")
