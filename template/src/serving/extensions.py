"""The user's package `custom`, beside this one; its modules are discovered by name.

The project's `docs/customization.md` describes each module with an example. An error in one of them
stops the start with one sentence that names the file and the line.
"""

import contextlib
import hashlib
import importlib
import importlib.util
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from serving.errors import ExtensionError
from serving.redaction import redact

PACKAGE = "custom"

MODULES = ("settings", "api", "prediction", "engines")
"""The modules that a server looks for."""


def load(name: str) -> ModuleType | None:
    """Import the module `custom.<name>`; None if the project has no such module.

    Raises `ExtensionError` when it exists but cannot be imported.
    """
    with blame(f"{PACKAGE}.{name} cannot be imported"):
        for module in (PACKAGE, f"{PACKAGE}.{name}"):
            if importlib.util.find_spec(module) is None:
                return None
        return importlib.import_module(f"{PACKAGE}.{name}")


def found() -> list[str]:
    """The modules of `MODULES` that the project has."""
    return [name for name in MODULES if load(name)]


def fingerprint() -> str | None:
    """A digest of the package's Python files; None if the project has none."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None:
        return None
    digest = hashlib.sha256()
    for directory in spec.submodule_search_locations or ():
        for file in sorted(Path(directory).rglob("*.py")):
            digest.update(f"{file.relative_to(directory)}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def function(module: ModuleType, name: str) -> Callable[..., Any]:
    """Return a function of a module by name.

    Raises `ExtensionError` when the module does not have it.
    """
    found = getattr(module, name, None)
    if not callable(found):
        raise ExtensionError(f"{location(module)}: does not define a function {name}")
    return found  # type: ignore[no-any-return]  # callable(): Any


@contextlib.contextmanager
def blame(what: str, function: Callable[..., Any] | None = None) -> Iterator[None]:
    """Turn any exception of the user's code into one sentence.

    Args:
        what: what failed, for the sentence.
        function: the user's function that is called. It is named if no frame of the exception is
            in the user's code, because then its parameters are wrong.

    Raises `ExtensionError` with file, line and reason.
    """
    try:
        yield
    except ExtensionError:
        raise
    except Exception as exc:
        where = place(exc) or (location(function) if function else None)
        lines = redact(str(exc)).strip().splitlines()
        reason = f"{type(exc).__name__}: {lines[0]}" if lines else type(exc).__name__
        prefix = f"{where}: " if where else ""
        raise ExtensionError(f"{prefix}{what}: {reason}") from exc


def location(thing: Any) -> str:
    """The file, and the line of a function, relative to the working directory."""
    code = getattr(thing, "__code__", None)
    if code is not None:
        return f"{_relative(code.co_filename)}:{code.co_firstlineno}"
    return _relative(getattr(thing, "__file__", None) or thing.__name__)


def place(exc: BaseException) -> str | None:
    """File and line of the innermost frame in the user's package; None without such a frame."""
    if isinstance(exc, SyntaxError) and exc.filename:
        return f"{_relative(exc.filename)}:{exc.lineno}"
    package = importlib.util.find_spec(PACKAGE)
    roots = [Path(root) for root in (package.submodule_search_locations or [])] if package else []
    for frame in reversed(traceback.extract_tb(exc.__traceback__)):
        if any(Path(frame.filename).is_relative_to(root) for root in roots):
            return f"{_relative(frame.filename)}:{frame.lineno}"
    return None


def _relative(file: str) -> str:
    with contextlib.suppress(ValueError):
        return str(Path(file).relative_to(Path.cwd()))
    return file
