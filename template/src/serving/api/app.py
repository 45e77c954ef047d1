"""The HTTP application: one model, its routes, and what is around every request."""

import contextlib
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.middleware.cors import CORSMiddleware

from serving.api import problem, routes
from serving.api.middleware import ApiKeyMiddleware, RequestMiddleware
from serving.config.settings import Settings, load_settings
from serving.runtime.service import Service
from serving.telemetry.logging import configure_logging


def create_app(settings: Settings | None = None) -> FastAPI:
    """Make the application; uvicorn calls this in every worker process."""
    settings = settings or load_settings()
    configure_logging(settings.logging)
    service = Service(settings)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(title="Model API", lifespan=lifespan, redoc_url=None, redirect_slashes=False)
    app.state.service = service
    problem.install(app)
    app.include_router(routes.predictions(service))
    app.include_router(routes.model(service))
    app.include_router(routes.probes(service))
    _add_middleware(app, service)
    _describe_with_model(app, service)
    return app


def _add_middleware(app: FastAPI, service: Service) -> None:
    """What is added last is outermost."""
    serving = service.settings.serving
    app.add_middleware(routes.Predictions, service=service)
    if serving.api_key:
        key = serving.api_key.get_secret_value()
        app.add_middleware(ApiKeyMiddleware, header=serving.api_key_header, key=key)
    if serving.cors.enabled:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=serving.cors.allow_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Content-Type", "X-Request-ID", serving.api_key_header],
            expose_headers=["X-Request-ID", "Retry-After"],
        )
    app.add_middleware(RequestMiddleware, service=service)


def _describe_with_model(app: FastAPI, service: Service) -> None:
    """Serve an OpenAPI document with the model's own columns."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema:
            return app.openapi_schema
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        components = document.setdefault("components", {})
        schemas = components.setdefault("schemas", {})
        schemas |= problem.schemas()
        if service.settings.serving.api_key:
            _describe_key(document, service.settings.serving.api_key_header)
        if service.model is not None:
            app.openapi_schema = service.model.schemas.generate_openapi_spec(document)
            return app.openapi_schema
        unknown = {"type": "object", "description": f"Not known yet: {service.reason}"}
        for name in ("Prediction", "BatchPrediction", "Invocation"):
            schemas |= {f"{name}Request": unknown, f"{name}Response": unknown}
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _describe_key(document: dict[str, Any], header: str) -> None:
    scheme = {"type": "apiKey", "in": "header", "name": header}
    document["components"]["securitySchemes"] = {"key": scheme}
    document["security"] = [{"key": []}]
    unauthorized = problem.documented(HTTPStatus.UNAUTHORIZED)
    for path in document["paths"].values():
        for operation in path.values():
            if "security" not in operation:
                operation["responses"] |= {str(code): one for code, one in unauthorized.items()}
