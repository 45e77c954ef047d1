"""The files of a rendered project, for every set of stages and every Python version."""

import ast
import json
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from conftest import Render
from helpers import (
    ALL_STAGES,
    CONFIG,
    PYTHON_VERSIONS,
    QUESTIONS,
    ROOT,
    STAGE_SETS,
    contents,
    copier,
    files,
    run,
)

# Text that must not appear in any file if the stage is not chosen.
MARKS_OF_STAGE = {
    "training": re.compile(
        r"(^|/)(test_)?train(ing)?([_./]|$)|^recipes/|^data/|/(test_)?recipes\.(py|md)$"
    ),
    "inference": re.compile(r"(^|/)(test_|batch_)?inference([_./]|$)"),
    "compile": re.compile(r"(^|/)compil(e|ation)([_./]|$)"),
}
EXAMPLE = re.compile(r"^recipes/.*\.(yaml|json)$|^data/")
ILLEGAL_ON_WINDOWS = re.compile(
    r'[<>:"|?*\\\x00-\x1f]|[ .]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)', re.IGNORECASE
)
JINJA = re.compile(r"\{\{|\{%|\{#")


@pytest.fixture(params=STAGE_SETS, ids="+".join)
def stages(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """One of the sets of stages."""
    chosen: tuple[str, ...] = request.param
    return chosen


@pytest.fixture(params=PYTHON_VERSIONS)
def python_version(request: pytest.FixtureRequest) -> str:
    """One of the Python versions."""
    version: str = request.param
    return version


@pytest.fixture(params=[True, False], ids=["example", "no-example"])
def include_example(request: pytest.FixtureRequest) -> bool:
    """With the example or without."""
    chosen: bool = request.param
    return chosen


@pytest.fixture
def project(
    render: Render, stages: tuple[str, ...], python_version: str, include_example: bool
) -> Path:
    """The project rendered with each combination of the answers."""
    return render(stages=stages, python_version=python_version, include_example=include_example)


def test_every_file_is_valid(project: Path) -> None:
    for path in files(project):
        raw = (project / path).read_bytes()
        assert b"\r" not in raw, f"{path} has CRLF line ends"
        if path.suffix in {".parquet", ".png"}:
            continue
        text = raw.decode("utf-8")
        assert text == "" or text.endswith("\n"), f"{path} does not end with a newline"
        match path.suffix:
            case ".toml":
                tomllib.loads(text)
            case ".yaml" | ".yml":
                list(yaml.safe_load_all(text))
            case ".json":
                json.loads(text)
            case ".py":
                ast.parse(text, filename=str(path))


def test_no_jinja_is_left(project: Path) -> None:
    for path in files(project):
        # Python is copied unchanged, and an f-string may contain `{{`.
        if path.suffix not in {".py", ".parquet", ".png"}:
            text = (project / path).read_text(encoding="utf-8")
            # Two pages show the templates of queries.
            for example in ("{{ NAME }}", "{{ since }}", "{{ regions }}"):
                text = text.replace(example, "")
            found = JINJA.search(text)
            assert not found, f"{path} has {found!r}"
        assert path.suffix != ".jinja"
        assert not JINJA.search(str(path))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as on GitHub."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.M)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_links_between_pages_lead_to_files_and_headings(project: Path) -> None:
    for page in (path for path in files(project) if path.suffix == ".md"):
        text = (project / page).read_text(encoding="utf-8")
        for link, anchor in re.findall(r"\]\((?!\w+:)([^)#]*)#?([^)]*)\)", text):
            target = project / page.parent / link if link else project / page
            assert target.exists(), f"{page}: {link}"
            assert not anchor or anchor in anchors(target), f"{page}: {link}#{anchor}"


def test_every_page_is_linked_from_the_readme(project: Path) -> None:
    readme = (project / "README.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"^\| \[(docs/\w+\.md)\]\(\1\)", readme, re.MULTILINE))
    assert linked == {page.relative_to(project).as_posix() for page in project.glob("docs/*")}


def test_the_guide_is_short(project: Path) -> None:
    assert len((project / "README.md").read_text(encoding="utf-8").splitlines()) <= 180


def test_pages_have_no_gaps(project: Path) -> None:
    """Jinja conditions easily leave an extra blank line."""
    for page in (path for path in files(project) if path.suffix == ".md"):
        text = (project / page).read_text(encoding="utf-8")
        prose = re.sub(r"^```.*?^```$", "CODE", text, flags=re.DOTALL | re.MULTILINE)
        assert "\n\n\n" not in prose, page


def test_the_security_page_names_tests_and_settings_that_exist() -> None:
    text = (ROOT / "template/docs/security.md").read_text(encoding="utf-8")
    tests = set(re.findall(r"`(tests/[^`]+)`", text))
    assert tests
    assert [name for name in tests if not (ROOT / name).exists()] == []
    pages = ("template/docs/settings.md.jinja", "template/docs/images.md.jinja")
    tables = "".join((ROOT / page).read_text(encoding="utf-8") for page in pages)
    settings = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+)\b", text))
    assert [name for name in settings if not re.search(rf"^\| `{name}\b", tables, re.M)] == []


def test_no_directory_is_empty(project: Path) -> None:
    empty = [path for path in project.rglob("*") if path.is_dir() and not any(path.iterdir())]
    assert empty == []


def test_names_are_legal_on_windows(project: Path) -> None:
    for path in files(project):
        assert not any(ILLEGAL_ON_WINDOWS.search(part) for part in path.parts), path


def test_nothing_is_left_of_other_stages(
    project: Path, stages: tuple[str, ...], include_example: bool
) -> None:
    present = [path.as_posix() for path in files(project)]
    for stage, marks in MARKS_OF_STAGE.items():
        found = [path for path in present if marks.search(path)]
        if stage not in stages:
            assert found == []
        else:
            assert found, f"stage {stage} renders nothing"
    example = [path for path in present if EXAMPLE.search(path)]
    assert bool(example) == (include_example and "training" in stages), example


def test_ruff_finds_nothing_to_change(
    render: Render, stages: tuple[str, ...], include_example: bool
) -> None:
    project = render(stages=stages, include_example=include_example)  # for any Python version
    ruff = (sys.executable, "-m", "ruff")
    run(*ruff, "format", "--no-cache", "--diff", ".", cwd=project)
    run(*ruff, "check", "--no-cache", ".", cwd=project)


def test_pyproject_says_what_was_chosen(
    project: Path, stages: tuple[str, ...], python_version: str
) -> None:
    pyproject = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    assert pyproject["project"]["requires-python"] == f">={python_version}"
    assert (project / ".python-version").read_text() == f"{python_version}\n"
    assert pyproject["tool"]["uv"]["default-groups"] == ["compiled", "dev", *stages]
    groups = {"http", "tracking", "native", "compiled", "mlflow", "dev", *stages}
    groups |= {"spark"} if "inference" in stages else set()
    assert pyproject["dependency-groups"].keys() == groups
    included = {"include-group": "compile"} in pyproject["dependency-groups"].get("training", [])
    assert included == ({"training", "compile"} <= {*stages})


def test_every_place_for_own_dependencies_is_marked(project: Path) -> None:
    text = (project / "pyproject.toml").read_text(encoding="utf-8")
    groups = tomllib.loads(text)["dependency-groups"].keys() - {"mlflow"}
    anchors = text.count("\n  # Your own dependencies go below this line.\n]\n")
    assert anchors == 1 + len(groups)


def test_dependencies_of_the_api_have_no_training_libraries(render: Render) -> None:
    pyproject = tomllib.loads((render() / "pyproject.toml").read_text(encoding="utf-8"))
    groups = pyproject["dependency-groups"]
    api = " ".join(str(entry) for name in ("tracking", "native", "api") for entry in groups[name])
    for library in ("pyarrow", "sqlalchemy", "alembic", "pytest"):
        assert library not in api


def test_compose_publishes_the_tracking_server_only_where_that_is_asked_for(render: Render) -> None:
    """A client of it can store a pickle that the API loads, so BIND_ADDRESS is only for the API."""
    project = render()
    compose = yaml.safe_load((project / "compose.yaml").read_text(encoding="utf-8"))
    ports = {
        name: [port.partition("}:")[0] + "}" for port in service["ports"]]
        for name, service in compose["services"].items()
        if "ports" in service
    }
    assert ports == {
        "mlflow": ["${MLFLOW_BIND_ADDRESS:-127.0.0.1}"],
        "api": ["${BIND_ADDRESS:-127.0.0.1}"],
    }
    example = (project / ".env.example").read_text(encoding="utf-8")
    assert "\nMLFLOW_BIND_ADDRESS=127.0.0.1\n" in example


def test_docker_takes_the_description_literally(render: Render) -> None:
    description = 'Costs $5, not $HOME or ${HOME}: "x" \\ y\\'
    dockerfile = (render(description=description) / "Dockerfile").read_text(encoding="utf-8")
    [label] = re.findall(r'image\.description="((?:[^"\\]|\\.)*)" \\\n', dockerfile)
    # https://docs.docker.com/reference/dockerfile/#environment-replacement
    assert not re.search(r"(?<!\\)(\\\\)*\$", label), "a variable would be replaced"
    assert re.sub(r"\\(.)", r"\1", label) == description


def test_author_is_optional(render: Render) -> None:
    def project_table(**answers: str) -> dict[str, object]:
        text = (render(**answers) / "pyproject.toml").read_text(encoding="utf-8")
        table: dict[str, object] = tomllib.loads(text)["project"]
        return table

    name, email = 'Ada "Countess" 🐧', "ada@example.org"
    assert "authors" not in project_table()
    assert project_table(author_name=name)["authors"] == [{"name": name}]
    assert project_table(author_email=email)["authors"] == [{"email": email}]
    both = project_table(author_name=name, author_email=email)
    assert both["authors"] == [{"name": name, "email": email}]


def test_same_answers_give_the_same_bytes(render: Render, template: Path, tmp_path: Path) -> None:
    for name in ("a-name", "another-name"):
        options = ("--quiet", "--defaults", "--data", "project_name=Same")
        copier("copy", *options, template, tmp_path / name, cwd=tmp_path)
    assert contents(tmp_path / "a-name") == contents(tmp_path / "another-name")
    assert contents(render(project_name="Same")) == contents(tmp_path / "a-name")


def test_the_template_runs_no_code_on_the_users_machine() -> None:
    assert not CONFIG.keys() & {"_tasks", "_migrations", "_jinja_extensions"}
    assert not list(ROOT.joinpath("extensions").rglob("*.py"))


def test_python_in_the_template_has_no_jinja() -> None:
    for path in ROOT.joinpath("template").rglob("*.jinja"):
        assert ".py" not in path.suffixes, f"{path}: Python files must be plain Python"


def test_questions_are_few_and_explained() -> None:
    prompted = [name for name, spec in QUESTIONS.items() if spec.get("ask", True)]
    assert len(prompted) <= 4
    for name in prompted:  # a prompt does not wrap
        assert max(map(len, QUESTIONS[name]["help"].splitlines())) < 80, name
    for name, spec in QUESTIONS.items():
        assert "default" in spec, name
        assert "an be changed later" in spec["help"] or name == "include_example", name


def test_the_tests_cover_every_stage() -> None:
    assert tuple(QUESTIONS["stages"]["choices"].values()) == ALL_STAGES
