"""The measured servers; see `Program` for their heads."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.programs import Program, read_programs

HERE = Path(__file__).parent


@dataclass(frozen=True)
class System(Program):
    """A server, or a script in place of one; {port} and {data} are filled in."""

    path: str = ""
    """The path for predictions; empty: not a server, it prints a `load.Result` itself."""
    answer: tuple[str | int, ...] = ()
    """The position of the label in an answer; empty: its answer is constant."""
    form: str = "row"
    """The form of a request's body; see `body`."""
    prepare: tuple[str, ...] = ()
    """A command that runs once before the server."""
    own_model: bool = False
    """It trains its own model, which may differ from ours on some rows."""
    compiled: bool = False
    """It needs the compiled form of our model."""
    profiled: bool = False
    """The parts of its requests are also measured, in process."""
    columns: int = 10
    clients: tuple[int, ...] = (1, 8, 32)
    rates: tuple[int, ...] = (50,)
    """Arrivals per second of the open loops."""


def read_systems() -> list[System]:
    """Every server that has a file here, in the order of their names."""
    return read_programs(HERE, System)


def body(form: str, columns: Sequence[str], values: Sequence[str]) -> str:
    """A request's body for one row.

    Args:
        form: `row` (an object), `rows` and `dataframe_records` (a list of one object under that
            name) or `v2` (the Open Inference Protocol, with a tensor per column).
        columns: their names.
        values: one JSON value each; a value that does not begin with `"` is a number.
    """
    if form == "v2":
        tensors = ", ".join(map(_tensor, columns, values))
        return f'{{"parameters": {{"content_type": "pd"}}, "inputs": [{tensors}]}}'
    pairs = (f"{json.dumps(name)}: {value}" for name, value in zip(columns, values, strict=True))
    row = "{" + ", ".join(pairs) + "}"
    return row if form == "row" else f'{{"{form}": [{row}]}}'


def _tensor(name: str, value: str) -> str:
    kind = '"BYTES", "parameters": {"content_type": "str"}' if value[0] == '"' else '"FP64"'
    return f'{{"name": "{name}", "shape": [1, 1], "datatype": {kind}, "data": [{value}]}}'
