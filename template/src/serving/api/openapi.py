"""The OpenAPI document, with the model's own columns."""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from serving.api import problem
from serving.runtime.service import Service


def install(app: FastAPI, service: Service) -> None:
    """Serve an OpenAPI document, with the model's schemas once the model is loaded."""

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
