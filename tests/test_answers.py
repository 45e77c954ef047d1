"""The real `copier copy`, without --trust: what it accepts, refuses and says."""

import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import ALL_STAGES, AWKWARD_NAMES, STAGE_SETS, copier, data_options, git

LONG = "x" * 61

# Question, answer, and the message after "Validation error for question '...': ".
REFUSED: list[tuple[str, Any, str]] = [
    ("project_name", "", "'' is blank; give the project a name, for example: Penguin Classifier"),
    ("project_name", "  ", "'  ' is blank; give the project a name, for example: Penguin Cl"),
    ("project_name", " x", "' x' starts or ends with a blank; remove it, for example: x"),
    ("project_name", "x ", "'x ' starts or ends with a blank; remove it, for example: x"),
    ("project_name", LONG, f"'{LONG}' has 61 characters; use at most 60, for example: Pengui"),
    ("project_name", "a\nb", r"'a\nb' has a line break or another control character; use one"),
    ("project_name", "a\x1b[0m", r"'a\x1b[0m' has a line break or another control character;"),
    ("project_name", "a\u2028b", r"'a\u2028b' has a line break or another control character;"),
    ("project_name", "a\\b", r"'a\\b' has a backslash; use any other character, for example: a/b"),
    (
        "project_name",
        "FastAPI",
        "'FastAPI' would name the package 'fastapi', like a package that it installs, and a "
        "package cannot depend on itself; use another name, for example: FastAPI Service",
    ),
    ("project_name", "scikit learn", "'scikit learn' would name the package 'scikit-learn', li"),
    ("project_name", "mlflow", "'mlflow' would name the package 'mlflow', like a package that"),
    ("stages", "[training]", "['training'] lacks 'api'; serving a model is what the project is"),
    ("stages", "[]", "[] lacks 'api'; serving a model is what the project is for, so keep it, "),
    ("project_slug", "Has Blank", "'Has Blank' is not allowed as a package and image name: use"),
    ("project_slug", "a--b", "'a--b' is not allowed as a package and image name: use"),
    ("project_slug", "x" * 41, f"'{'x' * 41}' is not allowed as a package and image name: use"),
    ("project_slug", "pandas", "'pandas' is the name of a package that the project installs, an"),
    ("description", "a\nb", r"'a\nb' has a line break or another control character; use one lin"),
    ("author_name", "A, B", "'A, B' has a comma; name one author or team, for example: Ada Love"),
    ("author_email", "ada", "'ada' is not an e-mail address: leave it empty, or use one such as"),
    ("api_port", 80, "port 80 is not allowed: use 1024 to 65535, for example 8000"),
    ("api_port", 65536, "port 65536 is not allowed: use 1024 to 65535, for example 8000"),
    ("mlflow_port", 8000, "8000 is taken by api_port; use another port, for example: 8001"),
    ("image_uid", 0, "the user id of an unprivileged user (0 is root) must be 1 to 2147483647"),
    (
        "image_size_budget_mb",
        5,
        "the size of an image in MB must be 100 to 100000, not 5; for example",
    ),
]


@pytest.mark.parametrize(
    ("question", "answer", "message"),
    REFUSED,
    ids=[f"{question}-{number}" for number, (question, *_) in enumerate(REFUSED)],
)
def test_bad_answer_is_refused_with_its_message(
    template: Path, tmp_path: Path, question: str, answer: Any, message: str
) -> None:
    options = data_options(**{question: answer})
    result = copier("copy", "--defaults", *options, template, "dest", cwd=tmp_path, check=False)
    assert result.returncode == 1
    assert f"Validation error for question '{question}': {message}" in result.stderr
    assert not (tmp_path / "dest").exists()


@pytest.mark.parametrize(
    ("question", "answer", "message"),
    [
        ("python_version", "3.10", "Invalid choice for 'python_version': '3.10' is not in"),
        ("readme_language", "xx", "Invalid choice for 'readme_language': 'xx' is not in"),
        ("stages", "[api, serving]", "Invalid choice for 'stages': 'serving' is not in"),
        ("stages", "api", "Not a YAML list: 'api'"),
    ],
)
def test_answer_that_is_no_choice_is_refused(
    template: Path, tmp_path: Path, question: str, answer: str, message: str
) -> None:
    options = data_options(**{question: answer})
    result = copier("copy", "--defaults", *options, template, "dest", cwd=tmp_path, check=False)
    assert result.returncode == 1
    assert message in result.stderr
    assert not (tmp_path / "dest").exists()


@pytest.mark.parametrize(("name", "slug"), AWKWARD_NAMES.items())
def test_awkward_name_renders_valid_files(
    template: Path, tmp_path: Path, name: str, slug: str
) -> None:
    text = f"About {name}"
    options = data_options(project_name=name, description=text, author_name=name)
    if "," in name:
        options = data_options(project_name=name, description=text)
    copier("copy", "--quiet", "--defaults", *options, template, "dest", cwd=tmp_path)

    project = tmp_path / "dest"
    pyproject = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    assert pyproject["project"]["name"] == slug
    assert pyproject["project"]["description"] == text
    answers = yaml.safe_load((project / ".copier-answers.yml").read_text(encoding="utf-8"))
    assert answers["project_name"] == name
    for path in (project / "configs").glob("*.yaml"):
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert config["mlflow"]["experiment_name"] == slug  # not a date or null


def test_clone_renders_with_defaults_alone(template: Path, tmp_path: Path) -> None:
    git("clone", "--quiet", template, "clone", cwd=tmp_path)
    result = copier("copy", "--defaults", "clone", "My Models", cwd=tmp_path)
    answers = yaml.safe_load((tmp_path / "My Models" / ".copier-answers.yml").read_text())
    assert answers["project_name"] == "my-models"
    assert answers["python_version"] == "3.11"
    assert answers["stages"] == list(ALL_STAGES)
    assert answers["_commit"], "without a commit the project could not be updated"
    assert "WARNING" not in result.stderr.upper()


def test_stages_are_stored_in_the_order_of_the_choices(template: Path, tmp_path: Path) -> None:
    options = data_options(stages=["inference", "api"])
    copier("copy", "--quiet", "--defaults", *options, template, "dest", cwd=tmp_path)
    answers = yaml.safe_load((tmp_path / "dest" / ".copier-answers.yml").read_text())
    assert answers["stages"] == ["api", "inference"]


@pytest.mark.parametrize("stages", STAGE_SETS, ids="+".join)
def test_message_says_what_to_type_next(
    template: Path, tmp_path: Path, stages: tuple[str, ...]
) -> None:
    options = data_options(stages=stages, api_port=8123)
    result = copier("copy", "--defaults", *options, template, "a project", cwd=tmp_path)
    message = result.stderr[result.stderr.index("Next:") :].rstrip().splitlines()
    assert len(message) <= 6
    assert shlex.split(message[1])[:2] == ["cd", "a project"]
    assert "8123" in message[-1]
    commands = [line.split()[3] for line in message if line.startswith("  uv run mmp ")]
    assert commands == (["train", "serve-api"] if "training" in stages else ["serve-api"])


def test_without_a_terminal_and_without_defaults_nothing_is_rendered(
    template: Path, tmp_path: Path
) -> None:
    result = copier("copy", template, "dest", cwd=tmp_path, check=False)
    assert result.returncode == 1
    assert "Interactive session required" in result.stderr
