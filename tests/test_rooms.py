"""Imports between the packages of `src/serving/` (here: rooms) go one way."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import ROOT

PACKAGE = ROOT / "template" / "src" / "serving"

# Each room, and the other rooms that it may import.
BASIC = {"errors", "redaction", "extensions", "config"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "redaction": set(),
    "extensions": {"errors", "redaction"},
    "config": {"errors", "redaction", "extensions"},
    "causal": set(),
    "forecasting": set(),
    "telemetry": BASIC,
    "contract": BASIC,
    "store": BASIC | {"contract"},
    "data": BASIC | {"contract"},
    "engines": BASIC | {"contract", "store"},
    "model": BASIC | {"contract", "store", "engines"},
    "inference": BASIC | {"contract", "store", "data", "engines", "model"},
    "compilation": BASIC
    | {"causal", "forecasting", "contract", "store", "data", "engines", "model"},
    "training": BASIC
    | {"causal", "forecasting", "contract", "store", "data", "engines", "model", "compilation"},
    "runtime": BASIC | {"telemetry", "contract", "store", "engines", "model"},
    "api": BASIC | {"telemetry", "contract", "store", "engines", "model", "runtime"},
    "healthcheck": set(),
}
MAY_IMPORT["commands"] = set(MAY_IMPORT)
MAY_IMPORT["cli"] = {"errors", "redaction", "extensions", "commands"}
MAY_IMPORT["__main__"] = {"cli"}


def imports(file: Path) -> Iterator[str]:
    """Yield the rooms that a module imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                modules = [alias.name for alias in names]
            case ast.ImportFrom(module="serving", names=names):
                modules = [f"serving.{alias.name}" for alias in names]
            case ast.ImportFrom(module=str(module)):
                modules = [module]
            case _:
                continue
        for module in modules:
            package, _, rest = module.partition(".")
            if package == "serving":
                yield rest.partition(".")[0]


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_a_room_imports_only_what_is_below_it(room: str) -> None:
    files = [*PACKAGE.glob(f"{room}/**/*.py"), *PACKAGE.glob(f"{room}.py")]
    assert files, f"{room} does not exist"
    for file in files:
        wrong = set(imports(file)) - MAY_IMPORT[room] - {room}
        assert not wrong, f"{file.relative_to(PACKAGE)} imports {sorted(wrong)}"


def test_every_room_is_listed() -> None:
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert rooms - {"__init__", "__pycache__"} == set(MAY_IMPORT)


def test_the_rooms_have_an_order() -> None:
    """The imports between rooms have no cycle."""
    order: list[str] = []
    while len(order) < len(MAY_IMPORT):
        free = [room for room in MAY_IMPORT if room not in order and MAY_IMPORT[room] <= {*order}]
        assert free, f"an import cycle among {sorted(set(MAY_IMPORT) - set(order))}"
        order += free
