"""The HTTP application: one model, its routes, and what is around every request."""

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

A small request needs it several times. Beside a thread that works on a large one it would wait ten
times as long each time by default."""


def create_app(settings: Settings | None = None) -> FastAPI:
    """Make the application; uvicorn calls this in every worker process.

    Raises `ExtensionError` when the user's own code cannot be used.
    """
    settings = settings or load_settings()
    configure_logging(settings.logging)
    sys.setswitchinterval(SWITCH_SECONDS)
    if settings.serving.engine != "onnx":  # which asks no other engine
        own_loader()  # what is wrong with it stops the start, not only the loading of the model
    service = Service(settings)

    # FastAPI looks for providers of OpenTelemetry at every request, which costs a tenth of it.
    observed = any(name.startswith("OTEL_") for name in os.environ)
    app = FastAPI(
        title="Model API",
        docs_url=None,  # serving.api.docs has its own, which needs no internet
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
    if docs.add_redirect(app):  # after the user's routes, as theirs come first
        open_paths |= {"/"}
    _add_lifespan(app, service)
    _add_middleware(app, service, open_paths)
    openapi.install(app, service)
    return app


def _extend(app: FastAPI) -> list[BaseRoute]:
    """Let `custom/api.py` add to the application, and return the routes that it has added.

    It comes before the routes of the framework, so that what it gives the application's router,
    such as dependencies, holds for all of them; and before the framework's middleware, which is
    therefore around it.
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
    """Whether a route is for exactly this path; one that takes any path stands back."""
    if isinstance(route, Mount):
        return route.path == path
    scope = {"type": "http", "path": path, "method": method, "root_path": "", "headers": []}
    match, found = route.matches(scope)
    return match is Match.FULL and not found.get("path_params")


def _order(app: FastAPI, users: Sequence[BaseRoute]) -> None:
    """Ask the routes that predict first, as each route before costs time, and the user's last."""

    def rank(route: BaseRoute) -> int:
        if isinstance(route, predictions.PredictionRoute):
            return 0
        return 2 if route in users else 1

    app.router.routes.sort(key=rank)


def _add_lifespan(app: FastAPI, service: Service) -> None:
    """Load the model within the user's lifespans: what they open is there for the warm-up."""
    users = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
        async with users(app) as state, service.running():
            yield state

    app.router.lifespan_context = lifespan


def _add_middleware(app: FastAPI, service: Service, open_paths: frozenset[str]) -> None:
    """What is added last is outermost; for `open_paths` no key is needed."""
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
