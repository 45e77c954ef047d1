"""Addresses and errors never show a login, a key or a token."""

import random
import string
from functools import partial
from pathlib import Path

import pytest
from conftest import settings_for
from serving import extensions
from serving.cli import app
from serving.errors import ExtensionError, ModelLoadError
from serving.model.loading import load_model
from serving.redaction import first_line, redact

RANDOM = random.Random(0)
SCHEMES = ["http", "https", "file", "s3", "sqlite", "postgresql+psycopg", "mlflow-artifacts"]
NAMES = [
    "sig",
    "token",
    "access_token",
    "password",
    "pwd",
    "key",
    "api_key",
    "client-secret",
    "X-Amz-Signature",
    "X-Amz-Security-Token",
    "X-Amz-Credential",
    "x-goog-signature",
    "AWSAccessKeyId",
]
AROUND = ["{}", "cannot reach {}", "'{}': is no path", "({}), gave up", "first {} then {}"]


def secret(unsafe: str) -> str:
    """Text with confusing characters, of which any part is recognized if it is shown."""
    parts = ["Secret" + "".join(RANDOM.choices(string.ascii_letters, k=6)) for _ in range(3)]
    return "".join(part + RANDOM.choice(unsafe) for part in parts)


def is_clean(text: str) -> bool:
    return "Secret" not in text


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_login_of_a_uri_is_shown(scheme: str, around: str) -> None:
    for _ in range(50):
        login = RANDOM.choice(["user", "", "a@b"]) + ":" + secret("/@:?#&=%+;,")
        if RANDOM.random() < 0.3:
            login = secret(":?#&=%+;,")  # a token instead of a user name
        uri = f"{scheme}://{login}@host:80/path?a=1"
        shown = redact(around.format(uri, uri))
        assert is_clean(shown), uri
        assert f"{scheme}://***@" in shown


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("name", NAMES)
def test_no_secret_of_a_query_is_shown(name: str, around: str) -> None:
    for _ in range(50):
        given = RANDOM.choice([name, name.upper(), name.lower()])
        before = RANDOM.choice(["", "a=1&", "b@c&"])
        login = RANDOM.choice(["", "user:" + secret("/@:?#=") + "@"])
        value = secret("/@:?#=%+;,")
        uri = f"https://{login}host/path?{before}{given}={value}&z=2"
        assert is_clean(redact(around.format(uri, uri))), uri


def test_a_password_that_looks_like_a_query_is_not_shown() -> None:
    assert is_clean(redact("https://user:Secret?token=Secret@host/path"))
    assert is_clean(redact("https://host/path?token=Secret@Secret"))


def test_text_without_a_secret_is_unchanged() -> None:
    for text in (
        "models:/name@champion",
        "s3://bucket/models@2/x",
        "sqlite:////mlflow/mlflow.db",
        "http://127.0.0.1:5000",
        "http://[::1]:5000/path?page=2",
        "recipe.yaml: name: is required",
        "write to ada@example.org",
    ):
        assert redact(text) == text
    shown = redact("'https://host/x?sig=abc&page=2': is no path; see https://u:p@host/y?sig=def.")
    assert shown == "'https://host/x?sig=***&page=2': is no path; see https://***@host/y?sig=***."


def test_a_login_in_a_connection_string_is_not_shown() -> None:
    shown = redact("could not connect: host=db user=ada password=Secret sslmode=require")
    assert shown == "could not connect: host=db user=ada password=*** sslmode=require"


def test_parts_of_the_address_that_a_library_quotes_are_not_shown() -> None:
    uri = "postgresql://user:Secret@Secret/Secret@host/models"
    error = ValueError('could not translate host name "Secret@Secret"')
    assert first_line(error, uri) == 'could not translate host name "***@***"'
    assert redact("Port could not be cast: 'Secret'", uri) == "Port could not be cast: '***'"


@pytest.mark.parametrize("uri", ["file://user:Secret/1@nowhere/x", "http://u:Secret@127.0.0.1:9/x"])
def test_a_model_that_is_not_found_is_told_without_its_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ModelLoadError, match=r"cannot load the model \w+://\*\*\*@") as error:
        load_model(settings_for(uri, tmp_path))
    assert is_clean(str(error.value))


def test_check_shows_no_login(
    model_directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from serving.store.runs import FoundModel
    from serving.store.tracking import TrackingStore

    found = partial(FoundModel, path=model_directory)
    monkeypatch.setattr(TrackingStore, "model", lambda _, uri: found(uri))
    arguments = ["check", "--model-uri", "https://user:Secret@host/irises"]
    app(arguments, standalone_mode=False)
    assert capsys.readouterr().out.startswith("model: https://***@host/irises\n")


def test_an_error_of_the_users_own_code_is_told_without_logins() -> None:
    with pytest.raises(ExtensionError) as error, extensions.blame("load_engine fails"):
        raise OSError("cannot connect to postgresql://user:Secret@db")
    assert str(error.value) == "load_engine fails: OSError: cannot connect to postgresql://***@db"


@pytest.mark.parametrize("unit", [":", "://a:", "token=:", "@", "a"])
def test_a_caller_cannot_make_it_slow(unit: str) -> None:
    """The patterns take quadratic time in the length of a text, so it is cut to a hundredth."""
    assert len(redact("token=" + unit * (1_000_000 // len(unit)))) < 10_000
