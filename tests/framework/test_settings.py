"""Settings: environment > config file > default."""

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import PROJECT
from pydantic import BaseModel
from serving.config.settings import (
    CorsSettings,
    DatabaseSettings,
    LoggingSettings,
    MLflowSettings,
    ServingSettings,
    Settings,
    load_settings,
)
from serving.errors import ConfigError

SECTIONS: dict[str, type[BaseModel]] = {
    "serving": ServingSettings,
    "serving.cors": CorsSettings,
    "mlflow": MLflowSettings,
    "logging": LoggingSettings,
    "data_source.config": DatabaseSettings,
}


def write(path: Path, content: str) -> Path:
    file = path / "config.yaml"
    file.write_text(content, encoding="utf-8")
    return file


def test_the_environment_overrides_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, "serving: {port: 9000, host: '::1'}\nmlflow: {tracking_uri: a}")
    monkeypatch.setenv("PORT", "7000")
    monkeypatch.setenv("HOST", "")  # empty means not set
    monkeypatch.setenv("LOG_LEVEL", "debug")
    settings = load_settings(path)
    assert (settings.serving.port, settings.serving.host) == (7000, "::1")
    assert (settings.mlflow.tracking_uri, settings.logging.level) == ("a", "DEBUG")


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    assert load_settings(write(tmp_path, "")) == Settings()


@pytest.mark.parametrize("name", ["development", "production"])
def test_the_projects_own_files_are_valid(name: str) -> None:
    path = PROJECT / "configs" / f"{name}.yaml"
    assert load_settings(path).environment.name == name


def test_a_config_path_can_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONFIG_PATH", str(write(tmp_path, "serving: {port: 9000}")))
    assert load_settings().serving.port == 9000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("serving: {prt: 1}", "serving.prt: unknown key; known keys: model_run_id, model_uri"),
        ("serving: {port: 0}", "serving.port: must be greater than or equal to 1 (is 0)"),
        ("logging: {level: LOUD}", "logging.level: must be 'DEBUG'"),
        ("serving: {_cli_parse_args: true}", "_cli_parse_args: unknown key"),
        ("database: {}", "database: unknown key; known keys: environment, mlflow"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_settings(write(tmp_path, content))
    assert message in str(error.value)


def test_a_mistake_in_the_environment_is_not_blamed_on_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORT", "http")
    with pytest.raises(ConfigError, match=r"^environment variable PORT: .*'http'"):
        load_settings(write(tmp_path, ""))


def test_a_key_is_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "hunter2")
    with pytest.raises(ConfigError, match="API_KEY: must be text of at least 16") as error:
        load_settings(write(tmp_path, ""))
    assert "hunter2" not in str(error.value)
    monkeypatch.setenv("API_KEY", "hunter2" * 3)
    assert "hunter2" not in repr(load_settings(write(tmp_path, "")))


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("a key of some length\n", "must not start or end with a space or a line break"),
        (" a key of some length", "must not start or end with a space or a line break"),
        ("a key of some length\t", "must not start or end with a space or a line break"),
        ("a key of\nsome length", "must consist of printable ASCII characters"),
        ("a key of\x1bsome length", "must consist of printable ASCII characters"),
        ("ein Schlüssel von einiger Länge", "must consist of printable ASCII characters"),
    ],
)
def test_a_key_that_no_header_can_hold_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, message: str
) -> None:
    in_file = write(tmp_path, f"serving: {{api_key: {json.dumps(key)}}}")
    with pytest.raises(ConfigError, match=rf"serving\.api_key: {message}") as error:
        load_settings(in_file)
    assert key.strip() not in str(error.value)
    monkeypatch.setenv("API_KEY", key)
    with pytest.raises(ConfigError, match=f"environment variable API_KEY: {message}") as error:
        load_settings(write(tmp_path, ""))
    assert key.strip() not in str(error.value)


def test_an_empty_key_is_refused_in_a_file_and_not_set_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"serving\.api_key: must be text of at least 16"):
        load_settings(write(tmp_path, "serving: {api_key: ''}"))
    monkeypatch.setenv("API_KEY", "")
    assert load_settings(write(tmp_path, "")).serving.api_key is None


def test_a_database_is_named_as_in_modern_ml_pipeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(
        tmp_path,
        "data_source: {name: PostgreSQL, adapter_type: sql, config: {"
        'connection_uri: "postgresql://${DB_USER:me}:${DB_PASSWORD}@localhost:5432/mine", '
        "query_timeout: 300}}",
    )
    monkeypatch.setenv("DB_PASSWORD", "hunter2")
    settings = load_settings(path)
    config = settings.data_source.config
    assert config.connection_uri is not None
    assert config.connection_uri.get_secret_value() == "postgresql://me:hunter2@localhost:5432/mine"
    assert config.query_timeout == 300
    assert "hunter2" not in repr(settings)
    monkeypatch.setenv("DATA_SOURCE_CONNECTION_URI", "sqlite:///other.db")
    config = load_settings(path).data_source.config
    assert config.connection_uri is not None
    assert config.connection_uri.get_secret_value() == "sqlite:///other.db"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("adapter_type: storage", "data_source.adapter_type: must be 'sql' (is 'storage')"),
        ("uri: sqlite://", "data_source.uri: unknown key; known keys: name, adapter_type, config"),
        ("config: {base_path: ./data}", "data_source.config.base_path: unknown key; known keys: c"),
        ("config: {connection_uri: hunter2}", "data_source.config.connection_uri: must be a URI"),
        ("config: {query_timeout: 0}", "data_source.config.query_timeout: must be greater than 0"),
    ],
)
def test_a_mistake_in_the_database_is_named(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_settings(write(tmp_path, f"data_source: {{{content}}}"))
    assert message in str(error.value)
    assert "hunter2" not in str(error.value)


def test_exactly_one_model_is_named(tmp_path: Path) -> None:
    def model(content: str) -> str:
        return load_settings(write(tmp_path, f"serving: {{{content}}}")).serving.model

    assert model("model_run_id: abc") == "runs:/abc/model"
    assert model("model_uri: models:/a@b") == "models:/a@b"
    with pytest.raises(ConfigError, match="no model is given"):
        model("")
    with pytest.raises(ConfigError, match="keep one"):
        model("model_run_id: abc, model_uri: models:/a@b")


def described() -> Iterator[tuple[str, str, str, str]]:
    """Yield the variable, key in the file, default and description of every setting."""
    for section, model in SECTIONS.items():
        for name, field in model.model_fields.items():
            if field.description is None:
                continue  # a section
            default: object = field.get_default()
            if isinstance(default, bool):
                default = str(default).lower()
            shown = "" if default is None else str(default).strip("[]").replace("'", "")
            variable = f"{model.model_config.get('env_prefix', '')}{name}".upper()
            yield variable, f"{section}.{name}", shown, field.description


def test_the_docs_describe_every_setting() -> None:
    page = (PROJECT / "docs/settings.md").read_text(encoding="utf-8")
    row = r"^\| `([A-Z_]+)` \|[^|]*\| `([a-z_.]+)` \| (?:`([^`|]*)` )?\| ([^|]+) \|$"
    assert re.findall(row, page, re.MULTILINE) == list(described())


@pytest.mark.parametrize(("variable", "key"), [row[:2] for row in described()])
def test_the_variable_of_a_setting_is_read(
    variable: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value is either refused with the variable's name, or used."""
    monkeypatch.setenv(variable, "-4711-")
    path, said = write(tmp_path, ""), f"environment variable {variable}: "
    with contextlib.suppress(ConfigError):
        value: object = load_settings(path)
        for part in key.split("."):
            value = getattr(value, part)
        assert "-4711-" in (value if isinstance(value, list) else str(value))
        return
    with pytest.raises(ConfigError, match=f"^{said}"):
        load_settings(path)
