"""The user's package `custom`: its additions apply everywhere, and its errors are reported."""

import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from conftest import SAMPLE, settings_for, wait_until_loaded
from fastapi import FastAPI
from fastapi.testclient import TestClient
from serving.api.app import create_app
from serving.config.settings import load_settings
from serving.errors import ExtensionError
from serving.model.hooks import PredictionHooks
from serving.model.loading import load_model

ROW = {name: value for name, value in SAMPLE.items() if name != "plant id"}
PREDICTIONS = [
    pytest.param("/predict", SAMPLE, id="one"),
    pytest.param("/predict/batch", {"samples": [SAMPLE, SAMPLE]}, id="batch"),
    pytest.param("/invocations", {"instances": [ROW]}, id="invocations"),
]


@pytest.fixture
def custom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty package `custom`, ahead of the project's on the path."""
    package = tmp_path / "own" / "custom"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    for name in [name for name in sys.modules if name.partition(".")[0] == "custom"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.chdir(package.parent)
    return package


@pytest.fixture(autouse=True)
def _forget(request: pytest.FixtureRequest) -> Any:
    """Unload the modules, so that no test sees those of another test."""
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "custom"]:
        del sys.modules[name]


def write(package: Path, name: str, code: str) -> None:
    file = package / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(dedent(code).lstrip())


def app_with(model: Path, store: Path) -> FastAPI:
    return create_app(settings_for(model, store))


def client_of(app: FastAPI) -> TestClient:
    return TestClient(app, raise_server_exceptions=False)


@pytest.mark.parametrize(("path", "body"), PREDICTIONS)
def test_dependencies_middleware_and_handlers_hold_for_predictions(
    custom: Path, model_directory: Path, tmp_path: Path, path: str, body: Any
) -> None:
    write(
        custom,
        "api.py",
        """
        from fastapi import Depends, HTTPException, Request
        from fastapi.responses import JSONResponse

        class Closed(Exception):
            pass

        async def check(request: Request):
            match request.headers.get("x-test"):
                case "refuse":
                    raise HTTPException(403, headers={"x-from": "dependency"})
                case "close":
                    raise Closed
                case "crash":
                    raise ZeroDivisionError

        def extend(app):
            app.router.dependencies.append(Depends(check))

            @app.middleware("http")
            async def around(request, call_next):
                if request.headers.get("x-test") == "middleware":
                    return JSONResponse({}, status_code=418)
                response = await call_next(request)
                response.headers["x-around"] = "yes"
                return response

            @app.exception_handler(Closed)
            async def closed(request, exc):
                return JSONResponse({}, status_code=409)

            @app.exception_handler(Exception)
            def crashed(request, exc):
                return JSONResponse({"crashed": type(exc).__name__}, status_code=599)
        """,
    )
    with client_of(app_with(model_directory, tmp_path)) as client:
        wait_until_loaded(client)
        answer = client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-around"] == "yes"
        found = {
            test: client.post(path, json=body, headers={"x-test": test}).status_code
            for test in ("refuse", "close", "crash", "middleware")
        }
        assert found == {"refuse": 403, "close": 409, "crash": 599, "middleware": 418}
        assert client.get("/model", headers={"x-test": "refuse"}).status_code == 403
        crashed = client.post(path, json=body, headers={"x-test": "crash"})
        assert crashed.headers["x-request-id"]
        metrics = client.get("/metrics").text
        assert f'http_requests_total{{method="POST",route="{path}",status="599"}}' in metrics


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("app.add_api_route('/', lambda: 'own')", id="route"),
        pytest.param("app.add_api_route('/{path:path}', lambda path: 'own')", id="any path"),
        pytest.param("app.mount('/', PlainTextResponse('\"own\"'))", id="mount"),
    ],
)
def test_an_own_root_wins_over_the_way_to_the_docs_and_needs_the_key(
    custom: Path,
    model_directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: str,
) -> None:
    imports = "from starlette.responses import PlainTextResponse"
    write(custom, "api.py", f"{imports}\n\n\ndef extend(app):\n    {code}\n")
    monkeypatch.setenv("API_KEY", "correct-horse-battery")
    with client_of(app_with(model_directory, tmp_path)) as client:
        assert client.get("/").status_code == 401
        assert client.get("/", headers={"X-API-Key": "correct-horse-battery"}).json() == "own"
        assert "swagger-ui" in client.get("/docs").text


def test_open_paths_are_open_to_read_alone(
    custom: Path, model_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A route for any path handles the methods that the framework's routes do not."""
    write(
        custom,
        "api.py",
        """
        def extend(app):
            app.add_api_route("/{path:path}", lambda path: "own", methods=["POST"])
        """,
    )
    monkeypatch.setenv("API_KEY", "correct-horse-battery")
    with client_of(app_with(model_directory, tmp_path)) as client:
        for path in ("/", "/docs", "/docs/page.js", "/health", "/metrics"):
            assert client.post(path).status_code == 401, path
            given = client.post(path, headers={"X-API-Key": "correct-horse-battery"})
            assert given.json() == "own", path
            assert client.get(path).status_code == (401 if path == "/" else 200), path


@pytest.mark.parametrize("path", ["/docs", "/docs/page.js"])
def test_an_own_route_in_place_of_the_docs_is_refused(
    custom: Path, model_directory: Path, tmp_path: Path, path: str
) -> None:
    """The route would be open without a key."""
    write(custom, "api.py", f"def extend(app):\n    app.add_api_route('{path}', lambda: 1)\n")
    with pytest.raises(ExtensionError, match=f"GET {path} belongs to the framework"):
        app_with(model_directory, tmp_path)


def test_a_router_a_mount_and_a_route_for_any_path_stand_beside_the_framework(
    custom: Path, model_directory: Path, tmp_path: Path
) -> None:
    write(
        custom,
        "api.py",
        """
        from contextlib import asynccontextmanager
        from fastapi import APIRouter, FastAPI, HTTPException

        opened = []

        @asynccontextmanager
        async def lifespan(app):
            opened.append("pool")
            yield
            opened.clear()

        def extend(app):
            router = APIRouter(prefix="/own", lifespan=lifespan)
            router.add_api_route("/thing", lambda: opened)
            app.include_router(router)

            @app.get("/missing/{code}")
            async def missing(code: int):
                raise HTTPException(code, "no such station")

            inner = FastAPI()
            inner.add_api_route("/", lambda: "inner")
            app.mount("/inner", inner)

            @app.get("/{path:path}")
            async def rest(path: str):
                return path
        """,
    )
    with client_of(app_with(model_directory, tmp_path)) as client:
        wait_until_loaded(client)
        assert client.get("/own/thing").json() == ["pool"]
        missing = client.get("/missing/404")
        assert (missing.status_code, missing.json()["detail"]) == (404, "no such station")
        assert client.get("/missing/x").json()["detail"][0]["loc"] == ["path", "code"]
        assert client.get("/inner/").json() == "inner"
        assert client.get("/what/ever").json() == "what/ever"
        assert client.get("/health").json() == {"status": "ok"}
        assert client.get("/model").json()["engine"]["name"] == "sklearn"
        assert client.post("/predict", json=SAMPLE).status_code == 200


BROKEN = [
    pytest.param("api.py", "def extend(app:\n", r"api\.py:1: .*SyntaxError", id="syntax"),
    pytest.param("api.py", "import nowhere\n", r"api\.py:1: .*nowhere", id="import"),
    pytest.param(
        "api.py", "x = 1\n", r"api\.py: does not define a function extend", id="no-extend"
    ),
    pytest.param("api.py", "def extend():\n    pass\n", r"api\.py:1: .*argument", id="arguments"),
    pytest.param(
        "api.py", "def extend(app):\n    app.nothing()\n", r"api\.py:2: .*'nothing'", id="raises"
    ),
    pytest.param(
        "api.py",
        "def extend(app):\n    app.post('/predict')(lambda: 1)\n",
        r"api\.py:1: the route POST /predict belongs to the framework",
        id="route-of-the-framework",
    ),
    pytest.param(
        "api.py",
        "from fastapi import APIRouter\n"
        "def extend(app):\n"
        "    router = APIRouter()\n"
        "    router.add_api_route('/health', lambda: 1)\n"
        "    app.include_router(router)\n",
        r"api\.py:2: the route GET /health belongs to the framework",
        id="included-route-of-the-framework",
    ),
    pytest.param(
        "api.py",
        "from fastapi.routing import APIRoute\n"
        "class Own(APIRoute): ...\n"
        "def extend(app):\n"
        "    app.router.route_class = Own\n",
        r"api\.py:3: a route class for the whole application is not supported",
        id="route-class",
    ),
    pytest.param("engines.py", "import nowhere\n", r"engines\.py:1: .*nowhere", id="engines"),
    pytest.param(
        "engines.py",
        "x = 1\n",
        r"engines\.py: does not define a function load_engine",
        id="no-engine",
    ),
    pytest.param("prediction.py", "1 / 0\n", r"prediction\.py:1: .*ZeroDivision", id="hook"),
    pytest.param(
        "prediction.py",
        "def before_prediction(rows, context): ...\n",
        r"prediction\.py: defines none of before_predict",
        id="hook-of-another-name",
    ),
    pytest.param(
        "prediction.py",
        "class RequestFields: ...\n",
        r"RequestFields must be a subclass of pydantic\.BaseModel",
        id="fields-of-another-kind",
    ),
]


@pytest.mark.parametrize(("file", "code", "message"), BROKEN)
def test_a_broken_module_stops_the_start_and_is_named(
    custom: Path, model_directory: Path, tmp_path: Path, file: str, code: str, message: str
) -> None:
    write(custom, file, code)
    with pytest.raises(ExtensionError, match=message) as caught:
        app_with(model_directory, tmp_path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("custom/")


HOOKS = """
    from datetime import date
    from pydantic import BaseModel, Field
    from serving.errors import Refused

    class RequestFields(BaseModel):
        scale: float = Field(1.0, gt=0)
        day: date | None = Field(None, strict=False)

    class ResponseFields(BaseModel):
        caller: str
        seen: float

    async def before_predict(rows, context):
        if "x-stop" in context.headers:
            raise Refused("stopped", status=402)
        for row in rows:
            row["petal length (cm)"] *= row["scale"]
        return rows

    def after_predict(answers, rows, context):
        for answer, row in zip(answers, rows):
            answer["caller"] = context.headers.get("x-caller", "nobody")
            answer["seen"] = row["petal length (cm)"]
        return answers
"""


def test_hooks_see_rows_and_headers_and_declare_their_fields(
    custom: Path, model_directory: Path, tmp_path: Path
) -> None:
    write(custom, "prediction.py", HOOKS)
    with client_of(app_with(model_directory, tmp_path)) as client:
        wait_until_loaded(client)
        plain = client.post("/predict", json=SAMPLE).json()
        assert (plain["prediction"], plain["caller"], plain["seen"]) == ("setosa", "nobody", 1.4)
        long = SAMPLE | {"scale": 5}
        answer = client.post("/predict", json=long, headers={"X-Caller": "me"}).json()
        assert (answer["prediction"], answer["caller"]) == ("versicolor", "me")
        assert answer["entities"] == {"plant id": 7}
        batch = client.post("/predict/batch", json={"samples": [SAMPLE, long]}).json()
        found = [one["prediction"] for one in batch["predictions"]]
        assert found == ["setosa", "versicolor"]
        rows = client.post("/invocations", json={"instances": [ROW, ROW | {"scale": 5}]})
        assert rows.json() == {"predictions": found}

        dated = client.post("/predict", json=SAMPLE | {"day": "2026-01-31"})
        assert dated.status_code == 200, dated.text
        assert client.post("/predict", json=SAMPLE | {"day": "31.1."}).status_code == 422
        refused = client.post("/predict", json=SAMPLE, headers={"x-stop": "1"})
        assert (refused.status_code, refused.json()["detail"]) == (402, "stopped")
        wrong = client.post("/predict", json=SAMPLE | {"scale": 0})
        assert wrong.json()["errors"][0]["pointer"] == "/scale"
        assert client.post("/predict", json=SAMPLE | {"scal": 1}).status_code == 422
        schemas = client.get("/openapi.json").json()["components"]["schemas"]
        assert "scale" in schemas["PredictionRequest"]["properties"]
        assert {"caller", "seen"} <= schemas["PredictionResponse"]["properties"].keys()


def test_what_a_lifespan_opens_is_there_for_async_hooks_on_one_loop(
    custom: Path, model_directory: Path, tmp_path: Path
) -> None:
    write(
        custom,
        "api.py",
        """
        import asyncio
        from contextlib import asynccontextmanager
        from fastapi import APIRouter

        opened = {}

        @asynccontextmanager
        async def lifespan(app):
            await asyncio.sleep(0.5)
            opened["loop"] = asyncio.get_running_loop()
            yield

        def extend(app):
            app.include_router(APIRouter(lifespan=lifespan))
        """,
    )
    write(
        custom,
        "prediction.py",
        """
        import asyncio
        from custom.api import opened

        async def before_predict(rows, context):
            assert asyncio.get_running_loop() is opened["loop"]
            return rows
        """,
    )
    with client_of(app_with(model_directory, tmp_path)) as client:
        wait_until_loaded(client)
        assert client.post("/predict", json=SAMPLE).status_code == 200


@pytest.mark.parametrize("error", ["next(iter(()))", "raise TimeoutError"])
def test_what_a_hook_raises_is_a_failure_of_the_server(
    custom: Path, model_directory: Path, tmp_path: Path, error: str
) -> None:
    code = f"""
        def before_predict(rows, context):
            if "x-fail" in context.headers:
                {error}
            return rows
    """
    write(custom, "prediction.py", code)
    with client_of(app_with(model_directory, tmp_path)) as client:
        wait_until_loaded(client)
        assert client.post("/predict", json=SAMPLE, headers={"x-fail": "1"}).status_code == 500
        assert client.post("/predict", json=SAMPLE).status_code == 200


def test_a_dependency_may_read_the_body(
    custom: Path, model_directory: Path, tmp_path: Path
) -> None:
    write(
        custom,
        "api.py",
        """
        from fastapi import Depends, Request

        async def read(request: Request):
            await request.body()

        def extend(app):
            app.router.dependencies.append(Depends(read))
        """,
    )
    with client_of(app_with(model_directory, tmp_path)) as client:
        wait_until_loaded(client)
        assert client.post("/predict", json=SAMPLE).status_code == 200
        assert client.post("/predict", content=b" " * 10_000_001).status_code == 413


def test_a_caller_cannot_make_up_metrics_below_a_mount(
    custom: Path, model_directory: Path, tmp_path: Path
) -> None:
    write(
        custom,
        "api.py",
        """
        from starlette.staticfiles import StaticFiles

        def extend(app):
            app.mount("/static", StaticFiles(directory="."))
        """,
    )
    with client_of(app_with(model_directory, tmp_path)) as client:
        assert client.get("/static/made-up").status_code == 404
        assert "made-up" not in client.get("/metrics").text


def test_only_an_unknown_path_is_called_unknown(
    custom: Path, model_directory: Path, tmp_path: Path
) -> None:
    write(
        custom,
        "api.py",
        """
        from fastapi import APIRouter, HTTPException
        from starlette.staticfiles import StaticFiles

        def extend(app):
            def find(name: str):
                raise HTTPException(404)

            app.add_api_route("/things/{name}", find)
            router = APIRouter(prefix="/own")
            router.add_api_route("/things/{name}", find)
            app.include_router(router)
            app.mount("/static", StaticFiles(directory="."))
        """,
    )
    with client_of(app_with(model_directory, tmp_path)) as client:
        for path in ("/things/a", "/own/things/a", "/static/a"):
            answer = client.get(path)
            assert (answer.status_code, answer.json()["detail"]) == (404, "Not Found"), path
        for path in ("/thing", "/own/thing", "/own"):
            assert client.get(path).json()["detail"].startswith("there is no such path; /docs")


WRONG_HOOKS = [
    pytest.param("return rows[1:]", r"prediction\.py:\d+: before_predict returned 0 rows for 1"),
    pytest.param("return rows[0]", r"before_predict must return a list of dictionaries"),
    pytest.param("return [{} for _ in rows]", "a row has no column 'plant id'"),
    pytest.param("return rows['x']", r"prediction\.py:2: .*TypeError"),
]


@pytest.mark.parametrize(("line", "message"), WRONG_HOOKS)
def test_a_hook_that_fails_on_the_example_is_reported_at_startup(
    custom: Path, model_directory: Path, tmp_path: Path, line: str, message: str
) -> None:
    write(custom, "prediction.py", f"def before_predict(rows, context):\n    {line}\n")
    settings = settings_for(model_directory, tmp_path)
    with pytest.raises(ExtensionError, match=message):
        load_model(settings, hooks=PredictionHooks.load(settings))


def test_a_field_that_is_a_column_is_refused(
    custom: Path, model_directory: Path, tmp_path: Path
) -> None:
    code = """
        from pydantic import BaseModel, Field

        class RequestFields(BaseModel):
            length: float = Field(alias="petal length (cm)")
    """
    write(custom, "prediction.py", code)
    settings = settings_for(model_directory, tmp_path)
    with pytest.raises(ExtensionError, match=r"RequestFields: the field 'petal length \(cm\)' al"):
        load_model(settings, hooks=PredictionHooks.load(settings))


def test_an_own_engine_comes_first(custom: Path, model_directory: Path, tmp_path: Path) -> None:
    code = """
        import numpy as np
        from serving.engines.base import Engine, Predictions

        class Constant(Engine):
            name = "constant"

            def reader(self, columns):
                return len

            def predict(self, table):
                return Predictions(np.full(table, "setosa", dtype=object))

            def describe(self):
                return {"name": self.name, "estimator": "none"}

        def load_engine(stored):
            return Constant() if stored.is_sklearn else None
    """
    write(custom, "engines.py", code)
    model = load_model(settings_for(model_directory, tmp_path))
    assert model.describe()["engine"]["name"] == "constant"
    sample = model.request_schema.model_validate(SAMPLE)
    assert model.answer([sample])[0].model_dump()["prediction"] == "setosa"

    write(custom, "engines.py", "def load_engine(stored):\n    return 1\n")
    del sys.modules["custom.engines"]
    with pytest.raises(ExtensionError, match=r"engines\.py:1: load_engine must return"):
        load_model(settings_for(model_directory, tmp_path))


SETTINGS = """
    from pydantic_settings import SettingsConfigDict
    from serving.config.settings import Section

    class CustomSettings(Section):
        model_config = SettingsConfigDict(env_prefix="CUSTOM_")
        limit: int
        name: str = "x"
"""


def test_own_settings(custom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("custom: {limit: 3}\n")
    with pytest.raises(Exception, match=r"custom: there is no class CustomSettings"):
        load_settings(config)
    write(custom, "settings.py", SETTINGS)
    assert load_settings(config).custom.limit == 3
    monkeypatch.setenv("CUSTOM_LIMIT", "5")
    assert load_settings(config).custom.limit == 5
    monkeypatch.setenv("CUSTOM_LIMIT", "many")
    with pytest.raises(Exception, match=r"environment variable CUSTOM_LIMIT: .*integer"):
        load_settings(config)
    monkeypatch.delenv("CUSTOM_LIMIT")
    for content, message in (
        ("custom: {limit: 1, limt: 2}", r"custom\.limt: unknown key; known keys: limit, name"),
        ("custom: {limit: many}", r"custom\.limit: .*integer"),
        ("serving: {}", r"custom\.limit: is required"),
    ):
        config.write_text(content)
        with pytest.raises(Exception, match=message):
            load_settings(config)
