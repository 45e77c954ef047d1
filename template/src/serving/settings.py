"""Where the project runs: `configs/*.yaml`, overridden by environment variables.

A command-line option sets the environment variable of the same meaning before the settings are
read, so the order everywhere is option > environment > config file > default, also in the worker
processes of a server.
"""

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from serving import yaml_file
from serving.errors import ConfigError

DEFAULT_CONFIG = Path("configs/development.yaml")


class _Section(BaseSettings):
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


class MLflowSettings(_Section):
    """Where runs and models are kept: `MLFLOW_TRACKING_URI`, `MLFLOW_EXPERIMENT_NAME`."""

    model_config = SettingsConfigDict(env_prefix="MLFLOW_")

    tracking_uri: str = Field(default="sqlite:///mlflow.db", min_length=1)
    experiment_name: str = Field(default="default", min_length=1)


class ServingSettings(_Section):
    """What is served and where: `MODEL_RUN_ID` or `MODEL_URI`, `HOST`, `PORT`, `WORKERS`."""

    model_run_id: str | None = None
    model_uri: str | None = None
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    workers: int = Field(default=1, ge=1)

    @property
    def model(self) -> str:
        """The MLflow URI of the model to serve.

        Raises `ConfigError` when none is named, or two are.
        """
        if self.model_run_id and self.model_uri:
            raise ConfigError(
                "both a run (MODEL_RUN_ID, --run-id) and a model (MODEL_URI, --model-uri) "
                "are named; keep one"
            )
        if self.model_run_id:
            return f"runs:/{self.model_run_id}/model"
        if self.model_uri:
            return self.model_uri
        raise ConfigError(
            "no model is named; give --run-id RUN_ID (MODEL_RUN_ID), which 'mmp train' prints, "
            "or --model-uri URI (MODEL_URI), for example models:/name@champion"
        )


class LoggingSettings(_Section):
    """What is logged on stderr: `LOG_LEVEL`."""

    model_config = SettingsConfigDict(env_prefix="LOG_")

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @field_validator("level", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value


class EnvironmentSettings(BaseModel):
    """A name for this configuration, for people."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = "local"


class Settings(BaseModel):
    """All sections of a config file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    environment: EnvironmentSettings = EnvironmentSettings()
    mlflow: MLflowSettings = Field(default_factory=MLflowSettings)
    serving: ServingSettings = Field(default_factory=ServingSettings)
    logging: LoggingSettings = Field(default_factory=LoggingSettings)

    @field_validator("mlflow", "serving", "logging", mode="before")
    @classmethod
    def _no_arguments_of_pydantic_settings(cls, section: Any) -> Any:
        for key in section if isinstance(section, dict) else ():
            if str(key).startswith("_"):
                raise ValueError(f"{key}: unknown key")
        return section


def load_settings(path: Path | None = None) -> Settings:
    """Read the config file at `path`, `CONFIG_PATH` or `configs/development.yaml`.

    Raises `ConfigError` with one sentence that names the file, the key and the rule.
    """
    for section in (MLflowSettings, ServingSettings, LoggingSettings):
        try:
            section()  # the environment alone, so that its mistakes are not blamed on the file
        except ValidationError as exc:
            prefix = section.model_config.get("env_prefix", "")
            problem = yaml_file.first_problem(exc, section)
            key, _, rule = problem.partition(":")
            raise ConfigError(f"environment variable {prefix}{key.upper()}:{rule}") from None
    path = path or Path(os.environ.get("CONFIG_PATH") or DEFAULT_CONFIG)
    return yaml_file.load(path, Settings, ConfigError)
