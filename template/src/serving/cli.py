"""The `mmp` command. Every public module in `serving.commands` is one of its subcommands.

Command modules import their dependencies inside functions, so that `mmp --help` is fast.
"""

import contextlib
import importlib
import pkgutil
import signal
import sys
from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperGroup

from serving import commands, extensions
from serving.errors import ExtensionError, ServingError
from serving.redaction import redact

_UsageError: Any = typer.BadParameter.__base__
"""A command-line error. Typer does not export it, and it bundles its own copy of Click."""


class _Commands(TyperGroup):
    """The commands. Command-line errors are reported in one sentence, like all others."""

    def make_context(self, info_name: Any, args: list[str], *rest: Any, **extra: Any) -> Any:
        if not args:  # prints the help
            return super().make_context(info_name, args, *rest, **extra)
        with _one_sentence():
            return super().make_context(info_name, args, *rest, **extra)

    def invoke(self, ctx: Any) -> Any:
        with _one_sentence():
            return super().invoke(ctx)


@contextlib.contextmanager
def _one_sentence() -> Iterator[None]:
    try:
        yield
    except _UsageError as exc:
        raise ServingError(_sentence(exc)) from None


def _sentence(exc: Any) -> str:
    option, similar = getattr(exc, "option_name", None), getattr(exc, "possibilities", None)
    if similar:
        return f"there is no option {option}; did you mean {similar[0]}?"
    if option and exc.ctx and exc.ctx.parent is None:
        return f"{option} must follow the command: mmp COMMAND {option}"
    message = exc.format_message().partition(", unable to parse")[0].rstrip(".")
    for pydantics, ours in (
        ("Input should be", "must be"),
        ("Value error, ", ""),
        (". Did you", "; did you"),
    ):
        message = message.replace(pydantics, ours)
    message = f"{message[0].lower()}{message[1:]}"
    if message.endswith("?") or exc.ctx is None:
        return message
    return f"{message}; '{exc.ctx.command_path} --help' shows its options"


app = typer.Typer(
    name="mmp",
    cls=_Commands,
    help="Machine learning from recipe to predictions.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _root() -> None:
    """Keep the command names even if there is only one command."""


for _module in pkgutil.iter_modules(commands.__path__):
    if not _module.name.startswith("_"):
        _command = importlib.import_module(f"{commands.__name__}.{_module.name}")
        app.command(_module.name.replace("_", "-"))(_command.run)


def _add_own_commands() -> None:
    """Add the commands in the user's package `custom.commands` in the same way.

    Raises `ExtensionError` for a command that cannot be used.
    """
    package = extensions.load("commands")
    if package is None:
        return
    if not hasattr(package, "__path__"):
        raise ExtensionError(f"{extensions.location(package)}: must be a directory of modules")
    taken = {command.name for command in app.registered_commands}
    for module in pkgutil.iter_modules(package.__path__):
        if module.name.startswith("_"):
            continue
        command = extensions.load(f"commands.{module.name}")
        assert command is not None
        name = module.name.replace("_", "-")
        if name in taken:
            where = extensions.location(command)
            raise ExtensionError(f"{where}: the command '{name}' already exists; rename the file")
        app.command(name)(extensions.function(command, "run"))


def main() -> None:
    """Run the command line; a user's mistake ends with one sentence and exit status 2."""
    # PID 1 of a container ignores SIGTERM unless it sets a handler.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        _add_own_commands()
        app(prog_name="mmp")
    except ServingError as exc:
        print(f"mmp: {redact(str(exc))}", file=sys.stderr)
        sys.exit(exc.status)
