"""The `mmp` command. Every public module in `serving.commands` is one of its commands.

Command modules import what they need inside their function, so that `mmp --help` is quick.
"""

import importlib
import pkgutil
import signal
import sys

import typer

from serving import commands, extensions
from serving.errors import ExtensionError, ServingError
from serving.redaction import redact

app = typer.Typer(
    name="mmp",
    help="Machine learning from a recipe to predictions.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _root() -> None:
    """Keep the commands' names even when there is only one."""


for _module in pkgutil.iter_modules(commands.__path__):
    if not _module.name.startswith("_"):
        _command = importlib.import_module(f"{commands.__name__}.{_module.name}")
        app.command(_module.name.replace("_", "-"))(_command.run)


def _add_own_commands() -> None:
    """Add the commands of the user's package `custom.commands`, in the same way.

    Raises `ExtensionError` for one that cannot be used.
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
            raise ExtensionError(f"{where}: there is a command '{name}' already; rename the file")
        app.command(name)(extensions.function(command, "run"))


def main() -> None:
    """Run the command line; a mistake of the user ends with one sentence and exit status 2."""
    # As PID 1 of a container a process has to say itself that SIGTERM ends it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        _add_own_commands()
        app()
    except ServingError as exc:
        print(f"mmp: {redact(str(exc))}", file=sys.stderr)
        sys.exit(2)
