"""The measured systems: one file each, whose head (PEP 723) says what it needs and how it runs.

`[tool.bench]` in the head has the fields of `System`. `variants` overrides some of them, and may
add words to fill into the command.
"""

import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


@dataclass(frozen=True)
class System:
    """A server, or a script in place of one."""

    key: str
    """The name that `SYSTEMS=` selects it by."""
    title: str
    command: tuple[str, ...]
    """Words; {port}, {model}, {file} (of the system), {here} and others are filled in."""
    path: str = ""
    """The path for predictions; empty: not a server, it prints a `load.Result` itself."""
    answer: tuple[str | int, ...] = ()
    """The position of the label in an answer; empty: its answer is constant."""
    form: str = "row"
    """The form of a request's body; see `body`."""
    kind: str = "peer"
    """`ours`, `peer` or `ceiling`."""
    env: str = ""
    """The virtual environment, which several systems may share."""
    dependencies: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    prepare: tuple[str, ...] = ()
    """A command that runs once before the server."""
    environment: dict[str, str] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
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

    def filled(self, command: Sequence[str], **words: object) -> list[str]:
        """The command with its words filled in."""
        here = {"here": HERE, "file": HERE / f"{self.env}.py"}
        return [word.format(**here, **self.words, **words) for word in command]


def read_systems() -> list[System]:
    """Every system that has a file here, in the order of their names."""
    return [system for file in sorted(HERE.glob("*.py")) for system in _read(file)]


def read_head(file: Path) -> dict[str, Any]:
    """The metadata at the head of a script (PEP 723); empty if there is none."""
    found = re.search(r"^# /// script\n(.*?)^# ///$", file.read_text(), re.M | re.S)
    return tomllib.loads(re.sub(r"^# ?", "", found[1], flags=re.M)) if found else {}


def _read(file: Path) -> list[System]:
    head = read_head(file)
    if not head:
        return []
    bench: dict[str, Any] = head["tool"]["bench"]
    overrides = head["tool"].get("uv", {}).get("override-dependencies", ())
    known = {one.name for one in fields(System)}
    systems = []
    for variant in bench.pop("variants", [{}]):
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in {**bench, **variant}.items()
        }
        words = {name: given.pop(name) for name in list(given) if name not in known}
        given["dependencies"] = tuple(head["dependencies"])
        given["overrides"] = tuple(overrides)
        key = re.sub(r"[^a-z0-9.]+", "-", given["title"].lower()).strip("-")
        systems.append(System(key=key, env=file.stem, words=words, **given))
    return systems


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
