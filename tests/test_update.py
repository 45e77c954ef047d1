"""`copier update` between two versions of the template keeps everything of the user's."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from helpers import (
    ALL_STAGES,
    STAGE_SETS,
    commit_all,
    contents,
    copier,
    copy_template,
    data_options,
    git,
)

ANCHOR = "  # Your own dependencies go below this line.\n"
Start = Callable[..., Path]


def replace(path: Path, old: str, new: str, count: int = -1) -> None:
    """Replace text in a file that must contain it."""
    text = path.read_text(encoding="utf-8")
    assert old in text, f"{path} has no {old!r}"
    path.write_text(text.replace(old, new, count), encoding="utf-8")


def append(path: Path, text: str) -> None:
    """Append text to a file, or create it."""
    path.parent.mkdir(exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A template with two tags: v1 unchanged, v2 with changes in every kind of file."""
    template = copy_template(tmp_path_factory.mktemp("versions"))
    commit_all(template, tag="v1.0.0")

    pyproject = template / "template" / "pyproject.toml.jinja"
    # In every group, a dependency next to the line below which the user adds their own.
    replace(pyproject, ANCHOR, '  "packaging>=24",\n' + ANCHOR)
    replace(pyproject, '"pyyaml>=6,<7"', '"pyyaml>=6.0.2,<7"')
    append(template / "template" / "src" / "serving" / "__init__.py", "\n# Changed in v2.\n")
    append(template / "template" / "src" / "serving" / "new_in_v2.py", '"""New in v2."""\n')
    append(template / "template" / "recipes" / "new_in_v2.yaml", "name: new_in_v2\n")
    for name in ("recipes", "data", "configs"):
        for path in (template / "template" / name).rglob("*"):
            if path.is_file():
                append(path, "# Changed in v2.\n")
    commit_all(template, tag="v2.0.0")
    return template


@pytest.fixture
def start(versions: Path, tmp_path: Path) -> Start:
    """Copy v1, commit it, and return the project."""

    def copy(**answers: object) -> Path:
        project = tmp_path / "project"
        options = (*data_options(**answers), "--vcs-ref", "v1.0.0")
        copier("copy", "--quiet", "--defaults", *options, versions, project, cwd=tmp_path)
        commit_all(project)
        return project

    return copy


def update(project: Path, *options: str) -> None:
    """Update the project to the newest tag, without conflicts."""
    commit_all(project)
    copier("update", "--defaults", "--quiet", *options, cwd=project)
    git("diff", "--check", cwd=project)
    assert not list(project.rglob("*.rej"))


@pytest.mark.parametrize("stages", STAGE_SETS, ids="+".join)
def test_unedited_project_becomes_a_fresh_one(
    start: Start, versions: Path, tmp_path: Path, stages: tuple[str, ...]
) -> None:
    answers = {"stages": stages, "project_name": 'It\'s a "test" & 펭귄 🐧'}
    project = start(**answers)
    update(project)

    fresh = tmp_path / "fresh"
    options = ("--quiet", "--defaults", *data_options(**answers))
    copier("copy", *options, versions, fresh, cwd=tmp_path)

    def templates_own(root: Path) -> dict[str, bytes]:
        users = ("recipes/", "data/", "sql/", "configs/")
        return {name: raw for name, raw in contents(root).items() if not name.startswith(users)}

    assert templates_own(project) == templates_own(fresh)
    remembered = yaml.safe_load((project / ".copier-answers.yml").read_text(encoding="utf-8"))
    assert remembered["_commit"] == "v2.0.0"
    assert remembered["project_name"] == answers["project_name"]


def test_what_the_user_wrote_survives(start: Start) -> None:
    project = start()
    append(project / "recipes" / "penguins.yaml", "# Mine.\n")
    append(project / "recipes" / "mine.yaml", "name: mine\n")
    append(project / "data" / "penguins.csv", "mine\n")
    append(project / "sql" / "mine.sql", "SELECT 1;\n")
    configs = sorted((project / "configs").glob("*.yaml"))
    for config in configs:
        append(config, "# Mine.\n")
    replace(project / "pyproject.toml", ANCHOR, ANCHOR + '  "mine>=1",\n')
    append(project / "src" / "serving" / "mine.py", '"""Mine."""\n')
    mine = contents(project)
    update(project)

    now = contents(project)
    for name in ("recipes/", "data/", "sql/", "configs/", "src/serving/mine.py"):
        users = {path: raw for path, raw in mine.items() if path.startswith(name)}
        assert users
        assert {path: raw for path, raw in now.items() if path.startswith(name)} == users
    pyproject = now["pyproject.toml"].decode()
    merged = f'  "packaging>=24",\n{ANCHOR}  "mine>=1",\n'
    assert pyproject.count(merged) == mine["pyproject.toml"].decode().count('"mine>=1"') > 1
    assert '"pyyaml>=6.0.2,<7"' in pyproject
    assert "src/serving/new_in_v2.py" in now


def test_deleted_example_stays_deleted(start: Start) -> None:
    project = start()
    (project / "recipes" / "penguins.yaml").unlink()
    (project / "data" / "penguins.csv").unlink()
    update(project)
    assert not (project / "recipes" / "penguins.yaml").exists()
    assert not (project / "data" / "penguins.csv").exists()


def test_hidden_answers_are_remembered(start: Start) -> None:
    given = {"api_port": 8123, "image_uid": 4242, "project_slug": "own-slug"}
    project = start(**given)
    update(project)
    answers = yaml.safe_load((project / ".copier-answers.yml").read_text(encoding="utf-8"))
    assert answers.items() >= given.items()


def test_stage_can_be_removed_and_added_later(start: Start) -> None:
    project = start()
    before = contents(project).keys()
    update(project, *data_options(stages=["api"]))
    removed = before - contents(project).keys()
    assert any(path.startswith("src/serving/training/") for path in removed)
    assert not any(path.startswith(("recipes/", "data/", "configs/")) for path in removed)

    update(project, "--vcs-ref", "v2.0.0", *data_options(stages=ALL_STAGES))
    assert before <= contents(project).keys()
