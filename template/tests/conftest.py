"""What the tests share. This file is the template's; yours go into files of their own beside it."""

import os

import pytest

from serving.config.settings import (
    CorsSettings,
    LoggingSettings,
    MLflowSettings,
    ServingSettings,
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that renews the committed OpenAPI documents."""
    parser.addoption(
        "--renew-openapi", action="store_true", help="write recipes/*.openapi.json anew"
    )


@pytest.fixture(autouse=True, scope="session")
def _clean_environment() -> object:
    """Let nothing that is set on this machine change what a test sees."""
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
