"""Fixtures: an isolated environment, the template as a repository, rendered projects."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import plumbum
import pytest
from framework.postgresql import PostgreSQL, running_postgresql
from helpers import assert_questions, copy_template, uv
from pytest_copie.plugin import Copie
from serving import train

Render = Callable[..., Path]


@pytest.fixture(scope="session", autouse=True)
def _own_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Isolate the tests from the caller's configuration of git, Copier and Python."""
    home = tmp_path_factory.mktemp("settings")
    gitconfig = home / "gitconfig"
    gitconfig.write_text(
        "[user]\n\tname = Tester\n\temail = tester@example.org\n[safe]\n\tdirectory = *\n"
    )
    (home / "copier.yml").write_text("{}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GIT_CONFIG_GLOBAL", str(gitconfig))
        patch.setenv("GIT_CONFIG_NOSYSTEM", "1")
        patch.setenv("COPIER_SETTINGS_PATH", str(home / "copier.yml"))
        # mypy spends most of its time on libraries, which are the same in every project.
        patch.setenv("MYPY_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "mypy"))
        for name in ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "UV_PYTHON", "UV_PROJECT"):
            patch.delenv(name, raising=False)
        # Copier runs git with plumbum, which copies the environment when it is imported.
        with plumbum.local.env():
            plumbum.local.env.clear()
            plumbum.local.env.update(os.environ)
            yield


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working tree as a clean repository with one commit; tests must not change it."""
    return copy_template(tmp_path_factory.mktemp("template"))


@pytest.fixture(scope="session")
def render(copie_session: Copie, template: Path) -> Render:
    """Render the template with the given answers, once for each set of answers.

    pytest-copie ignores unknown answers and swallows exceptions; here both fail. It also always
    trusts the template, so test_answers.py tests the real command.
    """
    rendered: dict[str, Path] = {}

    def render_once(**answers: Any) -> Path:
        assert_questions(answers)
        key = repr(sorted(answers.items()))
        if key not in rendered:
            answers = {k: list(v) if isinstance(v, tuple) else v for k, v in answers.items()}
            result = copie_session.copy(answers, template_dir=template)
            assert result.exception is None, result.exception
            assert result.project_dir is not None
            rendered[key] = result.project_dir
        return rendered[key]

    return render_once


@pytest.fixture(scope="session")
def project(render: Render) -> Path:
    """An installed project with all stages; tests may train in it, but not change its files."""
    project = render(project_name="Shared")
    uv("sync", "--quiet", cwd=project)
    return project


@pytest.fixture(scope="session")
def penguins(project: Path) -> str:
    """The run id of the example; its recipe compiles the model."""
    return train(project)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A real server, which the tests share."""
    with running_postgresql() as server:
        yield server
