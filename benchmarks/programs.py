"""The measured programs: one file each, whose head (PEP 723) says what it needs and how it runs.

`[tool.bench]` in the head has the fields of the program. `variants` overrides some of them, and
may add words to fill into the command.
"""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar


@dataclass(frozen=True)
class Program:
    """What servers and programs for batches have in common."""

    key: str
    """The name that `SYSTEMS=` selects it by."""
    title: str
    command: tuple[str, ...]
    """Words; {model}, {file} (of the program), {here} (its directory) and others are filled in."""
    kind: str = "peer"
    """`ours`, `peer` or `ceiling`."""
    env: str = ""
    """The virtual environment, which several programs may share."""
    file: Path = Path()
    dependencies: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)

    def filled(self, command: Sequence[str], **words: object) -> list[str]:
        """The command with its words filled in."""
        here = {"here": self.file.parent, "file": self.file}
        return [word.format(**here, **self.words, **words) for word in command]


Kind = TypeVar("Kind", bound=Program)


def read_programs(directory: Path, kind: type[Kind]) -> list[Kind]:
    """Every program that has a file in the directory, in the order of their names."""
    return [program for file in sorted(directory.glob("*.py")) for program in _read(file, kind)]


def read_head(file: Path) -> dict[str, Any]:
    """The metadata at the head of a script (PEP 723); empty if there is none."""
    found = re.search(r"^# /// script\n(.*?)^# ///$", file.read_text(), re.M | re.S)
    return tomllib.loads(re.sub(r"^# ?", "", found[1], flags=re.M)) if found else {}


def _read(file: Path, kind: type[Kind]) -> list[Kind]:
    head = read_head(file)
    if not head:
        return []
    bench: dict[str, Any] = head["tool"]["bench"]
    overrides = head["tool"].get("uv", {}).get("override-dependencies", ())
    known = {one.name for one in fields(kind)}
    programs = []
    for variant in bench.pop("variants", [{}]):
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in {**bench, **variant}.items()
        }
        words = {name: given.pop(name) for name in list(given) if name not in known}
        given["dependencies"] = tuple(head["dependencies"])
        given["overrides"] = tuple(overrides)
        given.setdefault("key", re.sub(r"[^a-z0-9.]+", "-", given["title"].lower()).strip("-"))
        given.setdefault("env", file.stem)
        programs.append(kind(file=file, words=words, **given))
    return programs
