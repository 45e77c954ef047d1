"""`mmp init-recipe`."""

import re
from importlib.util import find_spec
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from serving.errors import RecipeError


def run(
    data: Annotated[
        Path,
        typer.Option(
            "--data", "--data-path", "-d", envvar="DATA_PATH", help="CSV or Parquet file."
        ),
    ],
    target: Annotated[str | None, typer.Option("--target", "-t", help="Column to predict.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write.  [default: recipes/NAME.yaml]"),
    ] = None,
) -> None:
    """Write a recipe for a table of yours.

    Guesses the roles and the types of the columns, and says in comments why.
    """
    from serving.training.drafting import draft

    name = re.sub(r"[^\w-]+", "-", (output or data).stem).strip("-") or "recipe"
    path = output or Path("recipes") / f"{name}.yaml"
    if path.suffix not in (".yaml", ".yml"):
        raise RecipeError(f"{path}: the file name must end in .yaml or .yml (--output)")
    if target and path.exists():
        raise RecipeError(f"{path}: exists already; give another file with --output")
    found = draft(data, target, name, compiles=find_spec("serving.compilation") is not None)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(found.text)
    except OSError as exc:
        raise RecipeError(f"{path}: cannot be written: {exc.strerror or exc} (--output)") from None
    print(f"recipe: {path}")
    print(f"task: {found.task} of {target}")
    print(f"features: {len(found.features)}")
    print(f"entities: {', '.join(found.entities) or 'none'}")
    for column, reason in found.left_out.items():
        print(f"left out: {column}: {reason}")
    print(f"\nNext: uv run mmp train -r {quote(str(path))}")
