"""`/docs`: Swagger UI, served from local files, so that it works without internet.

Nothing here is secret, and all of it is open without a key. The page asks for the key and sends it
to read the OpenAPI document.
"""

import asyncio
import gzip
import hashlib
from html import escape
from importlib.resources import files
from string import Template

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from serving.config.settings import ServingSettings
from serving.errors import Overloaded

PAGE = "/docs"

_SWAGGER_UI = "fastapi_swagger.resources"
_FILES = {
    "swagger-ui-bundle.js": (_SWAGGER_UI, "text/javascript"),
    "swagger-ui.css": (_SWAGGER_UI, "text/css"),
    "favicon-32x32.png": (_SWAGGER_UI, "image/png"),
    "page.js": (__name__, "text/javascript"),
    "page.css": (__name__, "text/css"),
}
"""The package and the media type of each file. The names are fixed routes: no file path is ever
built from a caller's input."""

FILES = frozenset(f"{PAGE}/{name}" for name in _FILES)
"""The URL paths of the files."""

PATHS = FILES | {PAGE}

PIECE_BYTES = 65_536
"""Files are sent in pieces of this size, so that a slow caller keeps little in memory."""

MOST_DOWNLOADS = 50
"""Most files that are sent at a time; more are refused (503)."""

_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",  # icons in Swagger UI's style sheet
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)


def add_routes(app: FastAPI, settings: ServingSettings) -> None:
    """Add the page and its files as plain routes, without the application's dependencies.

    The OpenAPI document does not list them.
    """
    template = Template(files(__name__).joinpath("page.html").read_text(encoding="utf-8"))
    header = settings.api_key_header if settings.api_key else ""
    html = template.substitute(key_header=escape(header))

    async def page(_: Request) -> Response:
        policy = {"Content-Security-Policy": _SECURITY_POLICY}
        return Response(html, media_type="text/html", headers=policy)

    app.router.routes.append(Route(PAGE, page, include_in_schema=False))
    downloads = asyncio.Semaphore(MOST_DOWNLOADS)
    for name, (package, media_type) in _FILES.items():
        file = _File(package, name, media_type, downloads)
        app.router.routes.append(Route(f"{PAGE}/{name}", file.answer, include_in_schema=False))


def add_redirect(app: FastAPI) -> bool:
    """Redirect `/` to the page, unless the user has a route there; return whether it does."""
    scope = {"type": "http", "path": "/", "method": "GET", "root_path": "", "headers": []}
    if any(route.matches(scope)[0] is not Match.NONE for route in app.router.routes):
        return False

    async def redirect(_: Request) -> Response:
        return RedirectResponse(PAGE.removeprefix("/"))

    app.router.routes.append(Route("/", redirect, include_in_schema=False))
    return True


class _File:
    """A file that is read and compressed once, off the event loop, when it is first asked for."""

    def __init__(
        self, package: str, name: str, media_type: str, downloads: asyncio.Semaphore
    ) -> None:
        self._package = package
        self._name = name
        self._media_type = media_type
        self._downloads = downloads
        self._lock = asyncio.Lock()
        self._content = b""
        self._tag = ""

    async def answer(self, request: Request) -> Response:
        """The file, or 304 if the caller has it already."""
        async with self._lock:
            if not self._tag:
                await run_in_threadpool(self._read)
        headers = {
            "Cache-Control": "no-cache",  # cached, but revalidated: an update is seen at once
            "ETag": self._tag,
        }
        known = request.headers.get("if-none-match", "")
        if self._tag in [tag.strip() for tag in known.split(",")]:
            return Response(status_code=304, headers=headers)
        # Every browser accepts it, and slow callers fill less of the kernel's buffers.
        headers["Content-Encoding"] = "gzip"
        return _Pieces(self._content, headers, self._media_type, self._downloads)

    def _read(self) -> None:
        plain = files(self._package).joinpath(self._name).read_bytes()
        self._content = gzip.compress(plain)
        # Weak, because a proxy may compress the file differently.
        self._tag = f'W/"{hashlib.sha256(plain).hexdigest()[:32]}"'


class _Pieces(Response):
    """Content shared by all callers, sent in pieces as fast as each caller reads it."""

    def __init__(
        self,
        content: bytes,
        headers: dict[str, str],
        media_type: str,
        downloads: asyncio.Semaphore,
    ) -> None:
        super().__init__(content, headers=headers, media_type=media_type)
        self._downloads = downloads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raise `Overloaded` before sending anything, if too many files are being sent."""
        if self._downloads.locked():
            raise Overloaded("too many files are being sent")
        async with self._downloads:
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            content = b"" if scope["method"] == "HEAD" else memoryview(self.body)
            for start in range(0, len(content), PIECE_BYTES):
                piece = bytes(content[start : start + PIECE_BYTES])
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                await asyncio.sleep(0)  # lets the transport write it
            await send({"type": "http.response.body"})
