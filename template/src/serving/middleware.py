"""What happens around every request, as plain ASGI: `BaseHTTPMiddleware` costs too much."""

import hmac
import logging
import re
import time
import uuid
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving import metrics
from serving.observability import log_failure, request_id
from serving.problem import ProblemError
from serving.service import Service

logger = logging.getLogger("serving.access")

PROBES = frozenset({"/health", "/ready", "/ping", "/metrics"})
"""Asked every few seconds by machines that have no key."""

_METHODS = frozenset({"GET", "HEAD", "POST", "OPTIONS", "PUT", "PATCH", "DELETE"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_SECURITY_HEADERS = {
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class RequestMiddleware:
    """Gives a request its id, its answer safe headers, and both a log record and metrics.

    An id that the caller sent as `X-Request-ID` is kept, when it is 1 to 128 letters, digits,
    dots, dashes and underscores. What the application did not catch ends here as a 500.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        identity = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        token = request_id.set(identity)
        started = time.perf_counter()
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = identity
                headers.update(_SECURITY_HEADERS)
                if self.service.draining:
                    headers["connection"] = "close"  # the next request goes to another server
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        except Exception as exc:
            log_failure(logger, logging.ERROR, "the server failed", exc)
            if status:
                raise  # half of an answer is out; all that is left is to cut the connection
            failure = ProblemError(
                HTTPStatus.INTERNAL_SERVER_ERROR, "the server failed; its log says why"
            )
            await failure.response()(scope, receive, send_with_headers)
        finally:
            self._record(scope, status, time.perf_counter() - started)
            request_id.reset(token)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        # The route, not the path: a caller must not be able to make up metrics or log lines.
        # FastAPI's own pages are plain routes, whose path is fixed.
        own_page = scope["path"] if "endpoint" in scope else "unknown"
        route = getattr(scope.get("route"), "path", own_page)
        method = scope["method"] if scope["method"] in _METHODS else "other"
        metrics.REQUESTS.labels(method, route, str(status)).inc()
        metrics.DURATION.labels(route).observe(seconds)
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


class ApiKeyMiddleware:
    """Answers 401 to requests without the key, but for probes, and before their body is read."""

    def __init__(self, app: ASGIApp, header: str, key: str) -> None:
        self.app = app
        self.header = header
        self.key = key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in PROBES:
            given = Headers(scope=scope).get(self.header, "").encode("latin-1")
            if not hmac.compare_digest(given, self.key):
                refused = ProblemError(
                    HTTPStatus.UNAUTHORIZED,
                    f"the header {self.header} must hold the API key",
                    headers={"WWW-Authenticate": f'ApiKey header="{self.header}"'},
                )
                await refused.response()(scope, receive, send)
                return
        await self.app(scope, receive, send)
