"""Middleware for every request, in plain ASGI because `BaseHTTPMiddleware` costs too much."""

import asyncio
import hmac
import inspect
import logging
import os
import re
import time
from collections.abc import Callable
from contextvars import Context, copy_context
from functools import cache, partial
from http import HTTPStatus

from prometheus_client import Counter, Histogram
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.api import docs
from serving.api.problem import ProblemError
from serving.runtime.service import Service
from serving.telemetry import metrics
from serving.telemetry.logging import log_failure, request_id

logger = logging.getLogger("serving.access")

PROBES = frozenset({"/health", "/ready", "/ping", "/metrics"})
"""Paths that monitoring systems without a key request every few seconds."""

_METHODS = frozenset({"GET", "HEAD", "POST", "OPTIONS", "PUT", "PATCH", "DELETE"})
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_SAFE_HEADERS = [
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
]
_UNCACHED = [(b"cache-control", b"no-store"), *_SAFE_HEADERS]


class RequestMiddleware:
    """Gives each request an id, safe response headers, a log record and metrics.

    The id is the caller's `X-Request-ID` if that has 1 to 128 letters, digits, dots, dashes and
    underscores. Exceptions that the application does not catch become a 500 here.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app = app
        self.service = service
        self._ended: list[tuple[Context, Callable[[], None]]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        identity = _identity(scope)
        token = request_id.set(identity.decode())
        started = time.perf_counter()
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    *(_SAFE_HEADERS if scope["path"] in docs.FILES else _UNCACHED),
                    (b"x-request-id", identity),
                ]
                if self.service.draining:  # the next request goes to another server
                    MutableHeaders(scope=message)["connection"] = "close"
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        except Exception as exc:
            log_failure(logger, logging.ERROR, "the server failed", exc)
            if status:
                raise  # part of the response has been sent, so only the connection can be cut
            response = await _answer_failure(Request(scope, receive), exc)
            await response(scope, receive, send_with_headers)
        finally:
            ended = partial(_record, scope, status, time.perf_counter() - started)
            context = copy_context()  # has the id, and the trace if there is one
            request_id.reset(token)
            # Recorded after the responses of this loop iteration are sent: callers do not wait for
            # the log, and a series of records costs half as much as single ones.
            if not self._ended:
                loop = asyncio.get_running_loop()
                loop.call_soon(loop.call_soon, self._tell)
            self._ended.append((context, ended))

    def _tell(self) -> None:
        all_ended, self._ended = self._ended, []
        for context, record in all_ended:
            context.run(record)


async def _answer_failure(request: Request, exc: Exception) -> Response:
    """The response of the user's own handler of `Exception`, or else a problem document.

    Starlette would call that handler outside all middleware, and its response would have neither
    id nor metrics.
    """
    handlers = request.app.exception_handlers
    handler = handlers.get(Exception) or handlers.get(500)
    if handler is None:
        detail = "the server failed; its log says why"
        return ProblemError(HTTPStatus.INTERNAL_SERVER_ERROR, detail).response()
    response: Response
    if inspect.iscoroutinefunction(handler):
        response = await handler(request, exc)
    else:
        response = await run_in_threadpool(handler, request, exc)
    return response


_PLAIN_ROUTES = docs.PATHS | {"/", "/openapi.json"}
_POLICY_VIOLATION = 1008  # RFC 6455, section 7.4.1


def _identity(scope: Scope) -> bytes:
    """The caller's id of the request, or a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            return value if _REQUEST_ID.fullmatch(value) else _new_identity()
    return _new_identity()


def _new_identity() -> bytes:
    return os.urandom(16).hex().encode()


def _record(scope: Scope, status: int, seconds: float) -> None:
    # The route, not the path: callers must not be able to create metrics or log lines.
    # For plain routes the scope does not have the route.
    plain = scope["path"] if scope["path"] in _PLAIN_ROUTES else "unknown"
    route = getattr(scope.get("route"), "path", plain)
    method = scope["method"] if scope["method"] in _METHODS else "other"
    requests, duration = _series(method, route, status)
    requests.inc()
    duration.observe(seconds)
    level = logging.DEBUG if scope["path"] in PROBES else logging.INFO
    if logger.isEnabledFor(level):
        milliseconds = round(seconds * 1000, 1)
        logger.log(
            level,
            "%s %s %s %s ms",
            method,
            route,
            status or "no answer",
            milliseconds,
            extra={
                "method": method,
                "route": route,
                "status": status,
                "duration_ms": milliseconds,
            },
        )


@cache  # methods, routes and statuses are few
def _series(method: str, route: str, status: int) -> tuple[Counter, Histogram]:
    return metrics.REQUESTS.labels(method, route, str(status)), metrics.DURATION.labels(route)


class ApiKeyMiddleware:
    """Answers 401 to requests without the key before their body is read.

    A GET request to exactly one of `open_paths` needs no key.
    """

    def __init__(self, app: ASGIApp, header: str, key: str, open_paths: frozenset[str]) -> None:
        self.app = app
        self.header = header
        self.key = key.encode()
        self.open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and not self._is_open(scope):
            given = Headers(scope=scope).get(self.header, "").encode("latin-1")
            if not hmac.compare_digest(given, self.key):
                refused = ProblemError(
                    HTTPStatus.UNAUTHORIZED,
                    f"the header {self.header} must hold the API key",
                    headers={"WWW-Authenticate": f'ApiKey header="{self.header}"'},
                )
                if scope["type"] == "websocket":
                    await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
                else:
                    await refused.response()(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _is_open(self, scope: Scope) -> bool:
        """GET and HEAD only: the user may have a route for other methods on the same path."""
        return scope["path"] in self.open_paths and scope.get("method") in ("GET", "HEAD")
