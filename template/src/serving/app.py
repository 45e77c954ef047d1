"""The HTTP application: loads the model at start and serves it."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Annotated, Any, Literal, TypeVar

import anyio
import anyio.to_thread
from fastapi import Depends, FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ValidationError

from serving import problem
from serving.errors import ContractError, ServingError
from serving.model import ServedModel, load_model
from serving.observability import configure_logging
from serving.settings import Settings, load_settings

logger = logging.getLogger("serving")

Schema = TypeVar("Schema", bound=BaseModel)


class Health(BaseModel):
    """The process lives."""

    status: Literal["ok"] = "ok"


class Ready(BaseModel):
    """A model is loaded, warmed up and its contract holds."""

    status: Literal["ready"] = "ready"
    model_version: str


class Service:
    """What the routes share: the model, or the reason why there is none."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.model: ServedModel | None = None
        self.reason = "the model is being loaded"
        # scikit-learn holds the interpreter: calls side by side only slow each other down.
        self._one_call = anyio.CapacityLimiter(1)

    async def load(self) -> None:
        """Load the model in a thread; on failure keep the reason, for `/ready` and the log."""
        try:
            self.model = await anyio.to_thread.run_sync(load_model, self.settings)
        except ContractError as exc:
            self.reason = str(exc)
            logger.error("not ready: %s", exc)
        except ServingError as exc:
            # Where models are kept is no caller's business.
            self.reason = "the model could not be loaded; the server's log says why"
            logger.error("not ready: %s", exc)
        except Exception:
            self.reason = "the model could not be loaded; the server's log says why"
            logger.exception("not ready")
        else:
            logger.info("ready: %s, version %s", self.model.uri, self.model.version)

    def require_model(self) -> ServedModel:
        """The model.

        Raises `ProblemError` with status 503 and the reason when there is none.
        """
        if self.model is None:
            raise problem.ProblemError(
                HTTPStatus.SERVICE_UNAVAILABLE, self.reason, headers={"Retry-After": "5"}
            )
        return self.model

    async def answer(self, model: ServedModel, samples: list[BaseModel]) -> list[BaseModel]:
        """Predict off the event loop.

        Raises `ProblemError` with status 500 when the model fails.
        """
        try:
            return await anyio.to_thread.run_sync(model.answer, samples, limiter=self._one_call)
        except Exception:
            logger.exception("the model failed")
            raise problem.ProblemError(
                HTTPStatus.INTERNAL_SERVER_ERROR, "the model failed; the server's log says why"
            ) from None


def create_app(settings: Settings | None = None) -> FastAPI:
    """Make the application; uvicorn calls this in every worker process."""
    settings = settings or load_settings()
    configure_logging(settings.logging)
    service = Service(settings)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # In the background, so that /health and /ready answer while the model loads.
        loading = asyncio.create_task(service.load())
        yield
        loading.cancel()

    app = FastAPI(title="Model API", lifespan=lifespan, redoc_url=None)
    problem.install(app)
    _add_routes(app, service)
    _describe_with_model(app, service)
    return app


def _add_routes(app: FastAPI, service: Service) -> None:
    Served = Annotated[ServedModel, Depends(service.require_model)]

    @app.get("/health", tags=["probes"], summary="The process lives")
    async def health() -> Health:
        return Health()

    @app.get(
        "/ready",
        tags=["probes"],
        summary="A model is loaded, warmed up and its contract holds",
        responses=problem.documented(HTTPStatus.SERVICE_UNAVAILABLE),
    )
    async def ready(model: Served) -> Ready:
        return Ready(model_version=model.version)

    @app.get(
        "/model",
        tags=["model"],
        summary="What is being served",
        responses=problem.documented(HTTPStatus.SERVICE_UNAVAILABLE),
    )
    async def model(model: Served) -> dict[str, Any]:
        return model.describe()

    @app.post("/predict", tags=["model"], summary="Predict one sample", **_body("Prediction"))
    async def predict(model: Served, request: Request) -> Response:
        sample = _parse(model.request_schema, await request.body())
        [answer] = await service.answer(model, [sample])
        return _json(answer)

    @app.post(
        "/predict/batch",
        tags=["model"],
        summary="Predict many samples; answers come in their order",
        **_body("BatchPrediction"),
    )
    async def predict_batch(model: Served, request: Request) -> Response:
        batch: Any = _parse(model.batch_request_schema, await request.body())
        answers = await service.answer(model, batch.samples)
        return _json(model.batch_response_schema.model_validate({"predictions": answers}))


def _parse(schema: type[Schema], body: bytes) -> Schema:
    """Validate a body straight from its bytes: strict JSON rules, and no detour over dicts."""
    try:
        return schema.model_validate_json(body)
    except ValidationError as exc:
        raise problem.invalid_request(exc) from None


def _json(answer: BaseModel) -> Response:
    return Response(answer.model_dump_json(by_alias=True), media_type="application/json")


def _body(name: str) -> dict[str, Any]:
    """OpenAPI of a route whose schemas are the model's: references, resolved once it is loaded."""

    def content(schema: str) -> dict[str, Any]:
        return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}

    return {
        "response_class": Response,
        "responses": {
            200: {"description": "The answer", "content": content(f"{name}Response")},
            **problem.documented(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                HTTPStatus.INTERNAL_SERVER_ERROR,
                HTTPStatus.SERVICE_UNAVAILABLE,
            ),
        },
        "openapi_extra": {"requestBody": {"required": True, "content": content(f"{name}Request")}},
    }


def _describe_with_model(app: FastAPI, service: Service) -> None:
    """Serve an OpenAPI document with the model's own columns."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema:
            return app.openapi_schema
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas |= problem.schemas()
        if service.model is not None:
            app.openapi_schema = service.model.schemas.generate_openapi_spec(document)
            return app.openapi_schema
        unknown = {"type": "object", "description": f"Not known yet: {service.reason}"}
        for name in ("Prediction", "BatchPrediction"):
            schemas |= {f"{name}Request": unknown, f"{name}Response": unknown}
        return document

    app.openapi = openapi  # type: ignore[method-assign]
