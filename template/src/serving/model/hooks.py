"""The user's code before and after the model: `custom/prediction.py`."""

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel

from serving import extensions
from serving.config.settings import Settings
from serving.errors import ExtensionError

MODULE = "prediction"

Result = TypeVar("Result")

Record = dict[str, Any]
"""The values of a row, or of an answer, by name."""

_NAMES = ("before_predict", "after_predict", "RequestFields", "ResponseFields")


@dataclass(frozen=True)
class PredictionContext:
    """What a hook may know about the request."""

    settings: Settings
    headers: Mapping[str, str] = field(default_factory=dict)
    """The request's headers, with names in lower case; empty for batch inference and while the
    model is warmed up."""


@dataclass
class PredictionHooks:
    """The hooks that the user's module defines; missing ones do nothing."""

    settings: Settings
    request_fields: type[BaseModel] | None
    """Fields that each sample of a request has besides the model's columns."""
    response_fields: type[BaseModel] | None
    """Fields that each answer has besides the framework's own."""
    _before: Callable[..., Any] | None
    _after: Callable[..., Any] | None
    loop: asyncio.AbstractEventLoop | None = None
    """The loop of all `async def` hooks: a client that they keep is bound to one loop."""

    @classmethod
    def load(cls, settings: Settings) -> "PredictionHooks | None":
        """Import the user's module; None if there is none.

        Raises `ExtensionError` if it cannot be imported or defines no hook.
        """
        module = extensions.load(MODULE)
        if module is None:
            return None
        found = [getattr(module, name, None) for name in _NAMES]
        where = extensions.location(module)
        if not any(found):
            raise ExtensionError(f"{where}: defines none of {', '.join(_NAMES)}")
        before, after, *fields = found
        for name, one in zip(_NAMES[2:], fields, strict=True):
            if one is not None and not (isinstance(one, type) and issubclass(one, BaseModel)):
                raise ExtensionError(f"{where}: {name} must be a subclass of pydantic.BaseModel")
        for name, one in zip(_NAMES[:2], (before, after), strict=True):
            if one is not None and not inspect.isfunction(one):
                raise ExtensionError(f"{where}: {name} must be a function")
        request_fields, response_fields = fields
        return cls(settings, request_fields, response_fields, before, after)

    def context(self, headers: Mapping[str, str] | None = None) -> PredictionContext:
        """Make the context for hooks; without headers if there is no request."""
        return PredictionContext(self.settings, headers or {})

    async def before(self, rows: list[Record], context: PredictionContext) -> list[Record]:
        """Let the user's code change rows before the model sees them.

        Raises what the user's code raises, and `ExtensionError` if the number of rows changed.
        """
        if self._before is None:
            return rows
        return _checked(self._before, await _call(self._before, rows, context), len(rows))

    async def after(
        self, answers: list[Record], rows: Sequence[Record], context: PredictionContext
    ) -> list[Record]:
        """Let the user's code change answers; `rows` are the rows that the model saw.

        Raises as `before` does.
        """
        if self._after is None:
            return answers
        changed = await _call(self._after, answers, rows, context)
        return _checked(self._after, changed, len(rows))

    def run(self, hook: Coroutine[Any, Any, Result]) -> Result:
        """Wait for `before` or `after`; must not be called on an event loop."""
        if self.loop is None:
            self.loop = asyncio.new_event_loop()
        if self.loop.is_running():  # the server's
            return asyncio.run_coroutine_threadsafe(hook, self.loop).result()
        return self.loop.run_until_complete(hook)

    def check(self, exc: Exception) -> None:
        """Raise `ExtensionError` if an exception comes from the user's code."""
        if extensions.place(exc):
            with extensions.blame("it fails on the model's example"):
                raise exc


async def _call(hook: Callable[..., Any], *arguments: Any) -> Any:
    """Run `async def` on the event loop and `def` in a thread, as FastAPI does."""
    if inspect.iscoroutinefunction(hook):
        return await hook(*arguments)
    return await asyncio.to_thread(_call_plain, functools.partial(hook, *arguments))


def _call_plain(hook: Callable[[], Any]) -> Any:
    try:
        return hook()
    except StopIteration as exc:  # a future cannot carry it: the caller would wait for ever
        raise RuntimeError("StopIteration") from exc


def _checked(hook: Callable[..., Any], rows: Any, count: int) -> list[Record]:
    name = f"{extensions.location(hook)}: {hook.__name__}"
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ExtensionError(f"{name} must return a list of dictionaries")
    if len(rows) != count:
        raise ExtensionError(f"{name} returned {len(rows)} rows for {count}")
    return rows
