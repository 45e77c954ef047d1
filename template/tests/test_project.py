"""This project's configs, Dockerfile and own code.

This file belongs to the template: `copier update` replaces it. Put your own tests into other files.
"""

import importlib.util
import pkgutil
import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from serving.api.app import create_app
from serving.config.settings import load_settings
from serving.extensions import PACKAGE

PROJECT = Path(__file__).parents[1]
CONFIGS = sorted((PROJECT / "configs").glob("*.y*ml"))
DOCKERFILE = (PROJECT / "Dockerfile").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.stem))
def test_config_is_valid(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in re.findall(r"\$\{(\w+)\}", path.read_text(encoding="utf-8")):
        monkeypatch.setenv(name, "1")  # variables without a default
    load_settings(path)


def test_own_code_loads() -> None:
    if importlib.util.find_spec(PACKAGE):
        package = importlib.import_module(PACKAGE)
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    app = create_app(load_settings(PROJECT / "configs" / "development.yaml"))
    assert TestClient(app).get("/health").json() == {"status": "ok"}


def test_image_runs_as_an_unprivileged_user_and_has_a_health_check() -> None:
    users = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)
    assert users, "the Dockerfile sets no USER"
    assert re.fullmatch(r"[1-9]\d*:0", users[-1]), f"USER {users[-1]} must be a number, not root"
    assert re.search(r"^HEALTHCHECK ", DOCKERFILE, re.MULTILINE)


def test_dockerfile_copies_existing_files_and_no_secrets() -> None:
    for words in re.findall(r"^COPY (?!--)(.+) \S+$", DOCKERFILE, re.MULTILINE):
        for source in words.split():
            assert any(PROJECT.glob(source)) or "[" in source, f"COPY {source}: no such file"
    settings = re.findall(r"^(?:ARG|ENV) (.+)$", DOCKERFILE, re.MULTILINE)
    found = [line for line in settings if re.search(r"PASSWORD|SECRET|TOKEN|API_KEY", line)]
    assert not found, f"secrets stay in the layers of an image: {found}"
