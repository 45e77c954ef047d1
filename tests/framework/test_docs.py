"""`/docs`: Swagger UI from the server's own files, and what is open without a key."""

import asyncio
import gzip
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from conftest import settings_for, wait_until_loaded
from fastapi.testclient import TestClient
from serving.api import docs
from serving.api.app import create_app
from serving.contract.schema import APISchemaGenerator

KEY = "correct-horse-battery"
SWAGGER_UI = "/docs/swagger-ui-bundle.js"


@pytest.fixture
def locked(
    model_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TestClient]:
    """A client of an API that needs a key."""
    monkeypatch.setenv("API_KEY", KEY)
    monkeypatch.setenv("API_KEY_HEADER", "X-Token")
    with TestClient(create_app(settings_for(model_directory, tmp_path))) as client:
        wait_until_loaded(client)
        yield client


def test_the_page_refers_to_nothing_but_files_of_this_server(client: TestClient) -> None:
    page = client.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    referred = re.findall(r'(?:src|href)="([^"]*)"', page.text)
    assert SWAGGER_UI.removeprefix("/") in referred
    for name in referred:
        answer = client.get(f"/{name}")
        assert (answer.status_code, len(answer.content) > 0) == (200, True), name
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<script>|<style>| on\w+=| style=", page.text)


def test_files_are_compressed_kept_and_asked_for_again(client: TestClient) -> None:
    original = files("fastapi_swagger.resources").joinpath("swagger-ui-bundle.js").read_bytes()
    with client.stream("GET", SWAGGER_UI) as answer:
        raw = b"".join(answer.iter_raw())
    assert answer.headers["content-encoding"] == "gzip"
    assert len(raw) == int(answer.headers["content-length"]) < len(original) / 3
    assert gzip.decompress(raw) == original
    assert answer.headers.get_list("cache-control") == ["no-cache"]
    again = client.get(SWAGGER_UI, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = client.get(SWAGGER_UI, headers={"If-None-Match": '"another"'})
    assert other.status_code == 200


def test_head_has_no_body(client: TestClient) -> None:
    for path in (SWAGGER_UI, "/docs"):
        answer = client.head(path)
        assert (answer.status_code, answer.content) == (200, b"")
        assert int(answer.headers["content-length"]) > 0


def test_what_is_not_a_file_of_the_page_is_not_found(client: TestClient) -> None:
    for path in (
        "/docs/",
        "/docs/__init__.py",
        "/docs/page.html",
        "/docs/../docs/__init__.py",
        "/docs/%2e%2e/app.py",
        "/docs/..%2fapp.py",
        "/docs//etc/passwd",
        "/docs/oauth2-redirect",
    ):
        assert client.get(path).status_code == 404, path


def test_with_a_key_the_page_is_open_and_the_document_is_not(locked: TestClient) -> None:
    page = locked.get("/")
    assert page.url.path == "/docs"
    assert 'data-key-header="X-Token"' in page.text
    assert KEY not in page.text
    for path in docs.PATHS:
        assert locked.get(path).status_code == 200, path
    for path in (
        "/openapi.json",
        "/docs/",
        "/docs/nothing",
        "/docs/../openapi.json",
        "/docs/%2e%2e/openapi.json",
        "/docs;/openapi.json",
    ):
        assert locked.get(path).status_code == 401, path
    answer = locked.get("/openapi.json", headers={"X-Token": KEY})
    assert "/docs" not in "".join(answer.json()["paths"])
    assert "/" not in answer.json()["paths"]


def test_the_root_leads_to_the_page_and_is_counted(client: TestClient) -> None:
    answer = client.get("/?a=b", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (307, "docs")
    assert client.post("/").status_code == 405
    text = client.get("/metrics").text
    assert 'http_requests_total{method="GET",route="/",status="307"}' in text


def test_stalled_downloads_do_not_block_predictions(client: TestClient) -> None:
    """Too many concurrent downloads get a 503, and each holds one piece in memory."""
    app: Any = client.app
    held: list[int] = []

    async def flood() -> list[int]:
        statuses: list[int] = []
        enough = asyncio.Event()

        async def download() -> None:
            first = True

            async def send(message: Any) -> None:
                nonlocal first
                if message["type"] == "http.response.start":
                    statuses.append(message["status"])
                elif first and message.get("more_body"):
                    first = False
                    held.append(len(message["body"]))
                    await enough.wait()  # reads no more

            scope = {
                "type": "http",
                "method": "GET",
                "path": SWAGGER_UI,
                "query_string": b"",
                "root_path": "",
                "headers": [],
            }

            async def receive() -> Any:
                await enough.wait()

            await app(scope, receive, send)

        tasks = [asyncio.create_task(download()) for _ in range(docs.MOST_DOWNLOADS + 5)]
        while len(statuses) < len(tasks):
            await asyncio.sleep(0.01)
        enough.set()
        await asyncio.gather(*tasks)
        return statuses

    assert client.portal is not None
    statuses = client.portal.call(flood)
    assert statuses.count(503) == 5
    assert statuses.count(200) == docs.MOST_DOWNLOADS
    assert set(held) == {docs.PIECE_BYTES}
    assert client.get(SWAGGER_UI).status_code == 200  # after they are gone


@pytest.mark.parametrize(
    ("metadata", "description"),
    [
        ({"description": "Which iris?"}, "Which iris?"),
        ({"description": " "}, None),
        ({"description": 3}, None),
        (None, None),
    ],
)
def test_the_document_says_what_is_served(metadata: Any, description: str | None) -> None:
    recipe: dict[str, Any] = {
        "name": "irises",
        "task_choice": "classification",
        "data": {"data_interface": {"feature_columns": ["a"], "target_column": "b"}},
        "model": {"class_path": "sklearn.linear_model.LogisticRegression"},
        "metadata": metadata,
    }
    info = APISchemaGenerator(recipe, None).generate_openapi_spec()["info"]
    expected = "Task: classification. Model: sklearn.linear_model.LogisticRegression."
    assert (info["title"], info["description"]) == ("irises", description or expected)
