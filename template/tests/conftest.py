"""Shared fixtures of the template's tests. Put your own tests and fixtures into other files."""

import os

import pytest

from serving.config.settings import (
    CorsSettings,
    LoggingSettings,
    MLflowSettings,
    ServingSettings,
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that updates the committed OpenAPI documents."""
    parser.addoption("--renew-openapi", action="store_true", help="update recipes/*.openapi.json")


@pytest.fixture(autouse=True, scope="session")
def _clean_environment() -> object:
    """Remove environment variables of this machine that would change the settings in tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CONFIG_PATH", raising=False)
        for section in (ServingSettings, CorsSettings, MLflowSettings, LoggingSettings):
            prefix = section.model_config.get("env_prefix", "")
            for name in section.model_fields:
                patch.delenv(f"{prefix}{name}".upper(), raising=False)
        for name in os.environ:
            if name.startswith("CUSTOM_"):
                patch.delenv(name)
        yield
