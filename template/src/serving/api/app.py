"""The HTTP application: one model, its routes, and what surrounds every request."""

import contextlib
import os
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute, Match, Mount

from serving import extensions
from serving.api import docs, openapi, predictions, problem, routes
from serving.api.middleware import PROBES, ApiKeyMiddleware, RequestMiddleware
from serving.config.settings import Settings, load_settings
from serving.engines.loading import own_loader
from serving.errors import ExtensionError
from serving.runtime.service import Service
from serving.telemetry.logging import configure_logging

SWITCH_SECONDS = 0.001
"""How long a thread may keep the interpreter when another thread wants it.

A small request needs the interpreter several times. While another thread works on a large request,
each of these waits would take five times as long with Python's default. A shorter interval costs
throughput."""


def create_app(settings: Settings | None = None) -> FastAPI:
    """Make the application; uvicorn calls this in every worker process.

    Raises `ExtensionError` when the user's own code cannot be used.
    """
    settings = settings or load_settings()
    configure_logging(settings.logging)
    sys.setswitchinterval(SWITCH_SECONDS)
    if settings.serving.engine != "onnx":  # ONNX needs no other engine
        own_loader()  # a mistake in it stops the start, not only the loading of the model
    service = Service(settings)

    # FastAPI looks for OpenTelemetry providers on every request, which takes a tenth of its time.
    observed = any(name.startswith("OTEL_") for name in os.environ)
    app = FastAPI(
        title="Model API",
        docs_url=None,  # serving.api.docs serves its own page, which needs no internet
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,  # what generated clients call it
        telemetry={"tracing": observed, "metrics": observed, "logs": observed},
    )
    app.state.service = service
    app.state.settings = settings
    problem.install(app)
    users = _extend(app)
    predictions.add_routes(app.router, service)
    app.include_router(routes.model(service))
    app.include_router(routes.probes(service))
    docs.add_routes(app, settings.serving)
    _order(app, users)
    open_paths = PROBES | docs.PATHS
    if docs.add_redirect(app):  # after the user's routes, which take precedence
        open_paths |= {"/"}
    _add_lifespan(app, service)
    _add_middleware(app, service, open_paths)
    openapi.install(app, service)
    return app


def _extend(app: FastAPI) -> list[BaseRoute]:
    """Let `custom/api.py` extend the application, and return the routes that it has added.

    It runs before the framework adds its routes, so that dependencies and the like that it adds to
    the application's router apply to all of them. It also runs before the framework adds its
    middleware, which therefore wraps the user's middleware.
    """
    module = extensions.load("api")
    if module is None:
        return []
    extend = extensions.function(module, "extend")
    before = list(app.router.routes)
    with extensions.blame("extend(app) fails", extend):
        extend(app)
    if app.router.route_class is not APIRoute:
        raise ExtensionError(
            f"{extensions.location(extend)}: a route class for the whole application is not "
            "supported; use middleware, or an APIRouter of your own"
        )
    added = [route for route in app.router.routes if route not in before]
    for method, paths in (
        ("POST", predictions.PATHS),
        ("GET", (*routes.PATHS, *sorted(docs.PATHS))),
    ):
        for path in paths:
            if any(_answers(route, path, method) for route in added):
                raise ExtensionError(
                    f"{extensions.location(extend)}: the route {method} {path} belongs to the "
                    "framework; choose another path"
                )
    return added


def _answers(route: BaseRoute, path: str, method: str) -> bool:
    """Whether a route matches exactly this path; a route with path parameters does not count."""
    if isinstance(route, Mount):
        return route.path == path
    scope = {"type": "http", "path": path, "method": method, "root_path": "", "headers": []}
    match, found = route.matches(scope)
    return match is Match.FULL and not found.get("path_params")


def _order(app: FastAPI, users: Sequence[BaseRoute]) -> None:
    """Match the prediction routes first, because each earlier route costs time; the user's last."""

    def rank(route: BaseRoute) -> int:
        if isinstance(route, predictions.PredictionRoute):
            return 0
        return 2 if route in users else 1

    app.router.routes.sort(key=rank)


def _add_lifespan(app: FastAPI, service: Service) -> None:
    """Load the model inside the user's lifespan, so that the warm-up can use what that opens."""
    users = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
        async with users(app) as state, service.running():
            yield state

    app.router.lifespan_context = lifespan


def _add_middleware(app: FastAPI, service: Service, open_paths: frozenset[str]) -> None:
    """Add the middleware, innermost first; `open_paths` need no key."""
    serving = service.settings.serving
    if serving.api_key:
        key = serving.api_key.get_secret_value()
        app.add_middleware(
            ApiKeyMiddleware, header=serving.api_key_header, key=key, open_paths=open_paths
        )
    if serving.cors.enabled:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=serving.cors.allow_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Content-Type", "X-Request-ID", serving.api_key_header],
            expose_headers=["X-Request-ID", "Retry-After"],
        )
    app.add_middleware(RequestMiddleware, service=service)
