"""The routes for operators: probes, metrics and the model being served."""

from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, Field

from serving.api import problem
from serving.model.served import ServedModel
from serving.runtime.service import Service
from serving.store.environment import installed
from serving.telemetry import metrics

PATHS = ("/health", "/ready", "/ping", "/metrics", "/model", "/version", "/openapi.json")
"""GET routes of the framework, including FastAPI's document; `serving.api.docs` adds more."""


class Health(BaseModel):
    """The process is running."""

    status: Literal["ok"] = "ok"


class Ready(BaseModel):
    """A model is loaded, warmed up and its contract holds."""

    status: Literal["ready"] = "ready"
    model_version: str | None = Field(
        description="Name and version in the model registry, NAME/VERSION; null for a model that "
        "was not loaded from the registry"
    )


def probes(service: Service) -> APIRouter:
    """The routes that monitoring systems poll; they need no key."""
    router = APIRouter(tags=["probes"])
    unready = problem.documented(HTTPStatus.SERVICE_UNAVAILABLE)
    open_to_all: dict[str, Any] = {"openapi_extra": {"security": []}}

    @router.head("/health", include_in_schema=False)
    @router.get("/health", summary="The process is running", **open_to_all)
    async def health() -> Health:
        return Health()

    @router.head("/ready", include_in_schema=False)
    @router.get(
        "/ready",
        summary="A model is loaded, warmed up and its contract holds",
        responses=unready,
        **open_to_all,
    )
    async def ready() -> Ready:
        return Ready(model_version=service.require_ready().version)

    @router.head("/ping", include_in_schema=False)
    @router.get(
        "/ping",
        summary="Like /ready, in MLflow's protocol",
        response_class=Response,
        responses=unready,
        **open_to_all,
    )
    async def ping() -> Response:
        service.require_ready()
        return Response()

    if service.settings.serving.metrics_enabled:

        @router.get(
            "/metrics",
            summary="Metrics for Prometheus",
            response_class=Response,
            responses={200: {"content": {"text/plain": {}}}},
            **open_to_all,
        )
        async def prometheus() -> Response:
            return Response(metrics.latest(), media_type=metrics.CONTENT_TYPE)

    return router


def model(service: Service) -> APIRouter:
    """The routes that describe the model being served."""
    router = APIRouter(tags=["model"])
    Served = Annotated[ServedModel, Depends(service.require_model)]
    # MLflow is not imported: that takes seconds, and a compiled model does not need it.
    mlflow_version = installed("mlflow") or installed("mlflow-skinny") or "none"

    @router.get(
        "/model",
        summary="What is being served",
        responses=problem.documented(HTTPStatus.SERVICE_UNAVAILABLE),
    )
    async def describe(model: Served) -> dict[str, Any]:
        return model.describe()

    @router.get(
        "/version",
        summary="The version of MLflow, in its protocol",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def version() -> Response:
        return Response(mlflow_version, media_type="text/plain")

    return router
