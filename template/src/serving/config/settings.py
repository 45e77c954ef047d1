"""Where the project runs: `configs/*.yaml`, overridden by environment variables.

A command-line option sets the corresponding environment variable before the settings are read. So
the order is option > environment > config file > default everywhere, including the worker processes
of a server.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    SecretStr,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from serving import extensions
from serving.config import yaml_file
from serving.errors import ConfigError, ExtensionError

DEFAULT_CONFIG = Path("configs/development.yaml")

EngineChoice = Literal["auto", "native", "onnx"]


class Section(BaseSettings):
    """Part of a config file; a set, non-empty environment variable overrides its key."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_ignore_empty=True, protected_namespaces=()
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return env_settings, init_settings


class MLflowSettings(Section):
    """Where runs and models are stored: `MLFLOW_TRACKING_URI`, `MLFLOW_EXPERIMENT_NAME`."""

    model_config = SettingsConfigDict(env_prefix="MLFLOW_")

    tracking_uri: str = Field(
        default="sqlite:///mlflow.db", min_length=1, description="Tracking server, or a local store"
    )
    experiment_name: str = Field(
        default="default",
        min_length=1,
        description="Experiment that training logs to, and in which `latest` is looked up",
    )


class CorsSettings(Section):
    """Which origins may call the API from a browser: `CORS_ENABLED`, `CORS_ALLOW_ORIGINS`."""

    model_config = SettingsConfigDict(env_prefix="CORS_")

    enabled: bool = Field(default=False, description="Let pages from other origins call the API")
    allow_origins: Annotated[list[str], NoDecode] = Field(
        default=["*"], description="Allowed origins; separated by commas in the variable"
    )

    @field_validator("allow_origins", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return [one.strip() for one in value.split(",") if one.strip()]


class ServingSettings(Section):
    """What is served, where, and within which limits. The limits apply to each worker."""

    model_run_id: str | None = Field(
        default=None,
        description="Run whose model is served; `latest` is the latest finished run of the "
        "experiment",
    )
    model_uri: str | None = Field(
        default=None, description="URI of the model to serve, instead of a run"
    )
    engine: EngineChoice = Field(
        default="auto",
        description="`onnx`: the compiled model; `native`: the model itself; `auto`: the compiled "
        "one if there is one",
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on")
    port: int = Field(default=8000, ge=1, le=65535, description="Port to listen on")
    workers: int = Field(default=1, ge=1, description="Server processes")
    allow_other_versions: bool = Field(
        default=False,
        description="Load a model even if another major version of one of its libraries is "
        "installed",
    )
    load_timeout_seconds: FiniteFloat = Field(
        default=300,
        ge=0,
        description="How long to retry loading, for example while the store is down",
    )
    unknown_fields: Literal["forbid", "ignore"] = Field(
        default="forbid", description="`forbid` or `ignore` fields that the model does not know"
    )
    max_body_bytes: int = Field(
        default=10_000_000,
        ge=1,
        description="Largest request body (413); all large bodies together may have 8 times as "
        "much (503)",
    )
    max_batch_rows: int = Field(
        default=10_000,
        ge=1,
        description="Most samples in a batch (422); 10 times as many may be in progress (503)",
    )
    max_shared_rows: int = Field(
        default=256,
        ge=1,
        description="Most rows of waiting requests that share one call of the model; larger "
        "requests are predicted in slices",
    )
    max_concurrent_requests: int = Field(
        default=100,
        ge=1,
        description="Most predictions in progress or waiting, counted separately for small and "
        "large requests; more are refused (503)",
    )
    request_timeout_seconds: FiniteFloat = Field(
        default=30,
        gt=0,
        description="Longest time until the body has arrived (408) and the answer is ready (504)",
    )
    exit_after_seconds: FiniteFloat | None = Field(
        default=None,
        gt=0,
        description="A call of the model that takes longer ends the process with status 1, so that "
        "its supervisor restarts it; not set: never",
    )
    drain_seconds: FiniteFloat = Field(
        default=2,
        ge=0,
        description="After SIGTERM: how long /ready answers 503 before connections are refused",
    )
    shutdown_timeout_seconds: int = Field(
        default=20, ge=1, description="After that: how long requests in progress may take"
    )
    api_key: SecretStr | None = Field(
        default=None,
        description="Key of at least 16 characters that callers must send; probes, metrics and the "
        "page /docs need none",
    )
    api_key_header: str = Field(
        default="X-API-Key", pattern=r"^[A-Za-z0-9-]+$", description="Header that holds the key"
    )
    metrics_enabled: bool = Field(default=True, description="Serve /metrics")
    cors: CorsSettings = Field(default_factory=CorsSettings)

    @field_validator("api_key", mode="before")
    @classmethod
    def _fits_into_a_header(cls, value: Any) -> Any:
        # Checked here, because Pydantic's own message would quote the key.
        if value is None:
            return value
        if not isinstance(value, str) or len(value) < 16:
            raise ValueError("must be text of at least 16 characters")
        if value != value.strip():
            raise ValueError("must not start or end with a space or a line break")
        if not (value.isascii() and value.isprintable()):
            raise ValueError("must consist of printable ASCII characters, like any header value")
        return value

    @field_validator("cors", mode="before")
    @classmethod
    def _no_arguments_of_pydantic_settings(cls, section: Any) -> Any:
        return _checked(section)

    def require_named_model(self) -> None:
        """Raise `ConfigError` unless exactly one model is given."""
        if self.model_run_id and self.model_uri:
            raise ConfigError(
                "both a run (MODEL_RUN_ID, --run-id) and a model (MODEL_URI, --model-uri) "
                "are given; keep one"
            )
        if not self.model_run_id and not self.model_uri:
            raise ConfigError(
                "no model is given; use --run-id RUN_ID (MODEL_RUN_ID), which 'mmp train' "
                "prints and 'mmp runs' lists, --run-id latest, or --model-uri URI (MODEL_URI), "
                "for example models:/name@champion"
            )

    @property
    def model(self) -> str:
        """The URI of the model to serve, for messages; raises like `require_named_model`.

        The model of a run may have a name other than `model`; `serving.store.finding` finds it.
        """
        self.require_named_model()
        return self.model_uri or f"runs:/{self.model_run_id}/model"


class LoggingSettings(Section):
    """What is logged to stderr, and how: `LOG_LEVEL`, `LOG_FORMAT`."""

    model_config = SettingsConfigDict(env_prefix="LOG_")

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO",
        description="`DEBUG` (also requests of probes), `INFO`, `WARNING` or `ERROR`",
    )
    format: Literal["text", "json"] = Field(
        default="text", description="`text` for people, `json` for machines"
    )

    @field_validator("level", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @field_validator("format", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value


class DatabaseSettings(Section):
    """How to reach the database: `DATA_SOURCE_CONNECTION_URI`, `DATA_SOURCE_QUERY_TIMEOUT`."""

    model_config = SettingsConfigDict(env_prefix="DATA_SOURCE_")

    connection_uri: SecretStr | None = Field(
        default=None,
        description="URI of the database of queries and tables, "
        "`postgresql://USER:PASSWORD@HOST:5432/DATABASE`",
    )
    query_timeout: FiniteFloat | None = Field(
        default=None,
        gt=0,
        description="Seconds that PostgreSQL may take for the next rows of a query; not set: any "
        "time",
    )

    @field_validator("connection_uri", mode="before")
    @classmethod
    def _is_a_uri(cls, value: Any) -> Any:
        # Checked here, because Pydantic's own message would quote the password.
        if value is not None and not (isinstance(value, str) and "://" in value):
            raise ValueError("must be a URI such as postgresql://USER:PASSWORD@HOST:5432/DATABASE")
        return value


class DataSourceSettings(BaseModel):
    """Where queries are run and tables are written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = "database"
    adapter_type: Literal["sql"] = "sql"
    config: DatabaseSettings = Field(default_factory=DatabaseSettings)

    @field_validator("config", mode="before")
    @classmethod
    def _no_arguments_of_pydantic_settings(cls, section: Any) -> Any:
        return _checked(section)


class EnvironmentSettings(BaseModel):
    """A human-readable name for this configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = "local"


class Settings(BaseModel):
    """All sections of a config file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    environment: EnvironmentSettings = EnvironmentSettings()
    mlflow: MLflowSettings = Field(default_factory=MLflowSettings)
    serving: ServingSettings = Field(default_factory=ServingSettings)
    logging: LoggingSettings = Field(default_factory=LoggingSettings)
    data_source: DataSourceSettings = Field(default_factory=DataSourceSettings)
    custom: Any = Field(default=None, description="An instance of the user's `CustomSettings`")

    @field_validator("mlflow", "serving", "logging", "custom", mode="before")
    @classmethod
    def _no_arguments_of_pydantic_settings(cls, section: Any) -> Any:
        return _checked(section)

    @model_validator(mode="after")
    def _custom_is_known(self) -> Self:
        if self.custom is not None and type(self) is Settings:
            raise ValueError("custom: there is no class CustomSettings in src/custom/settings.py")
        return self


def _checked(section: Any) -> Any:
    """Refuse keys that pydantic-settings would take for its own arguments."""
    for key in section if isinstance(section, dict) else ():
        if str(key).startswith("_"):
            raise ValueError(f"{key}: unknown key")
    return section


def _own_section() -> type[Section] | None:
    """The class `CustomSettings` in `custom/settings.py`."""
    module = extensions.load("settings")
    if module is None:
        return None
    section = getattr(module, "CustomSettings", None)
    if not (isinstance(section, type) and issubclass(section, Section)):
        where = extensions.location(module)
        raise ExtensionError(
            f"{where}: does not define a class CustomSettings(serving.config.settings.Section)"
        )
    return section


def load_settings(path: Path | None = None) -> Settings:
    """Read the config file at `path`, `CONFIG_PATH` or `configs/development.yaml`.

    Raises `ConfigError` with one sentence that names the file, the key and the rule, and
    `ExtensionError` when the user's own section cannot be used.
    """
    sections: list[type[Section]] = [
        MLflowSettings,
        CorsSettings,
        ServingSettings,
        LoggingSettings,
        DatabaseSettings,
    ]
    model = Settings
    if own := _own_section():
        sections.append(own)
        custom: Any = (own, Field(default={}, validate_default=True))
        model = create_model("Settings", __base__=Settings, custom=custom)
    for section in sections:
        try:
            section()  # the environment alone, so that errors in it are not reported for the file
        except ValidationError as exc:
            if all(error["type"] == "missing" for error in exc.errors()):
                continue  # the file may have the key
            prefix = section.model_config.get("env_prefix", "")
            problem = yaml_file.first_problem(exc, section)
            key, _, rule = problem.partition(":")
            raise ConfigError(f"environment variable {prefix}{key.upper()}:{rule}") from None
    path = path or Path(os.environ.get("CONFIG_PATH") or DEFAULT_CONFIG)
    return yaml_file.load(path, model, ConfigError)
