"""The macro libraries of extensions/, rendered with the settings of copier.yml."""

import json
import re
import tomllib
from typing import Any

import jinja2
import jinja2.sandbox
import pytest
import yaml
from conftest import Render
from helpers import ALL_STAGES, AWKWARD_NAMES, CONFIG, ROOT, STAGE_SETS

TEXTS = [*AWKWARD_NAMES, 'a "b" \\ c', "", "tab-less", "é́", "👩‍👩‍👧"]


def library(name: str) -> Any:
    """Return a macro library as a module, in an environment like Copier's."""
    environment = jinja2.sandbox.SandboxedEnvironment(
        loader=jinja2.FileSystemLoader(ROOT),
        extensions=["jinja2_ansible_filters.AnsibleCoreFiltersExtension"],
        **{**CONFIG["_envops"], "undefined": jinja2.StrictUndefined},
    )
    return environment.get_template(f"extensions/{name}.jinja").module


names = library("names")
validators = library("validators")
paths = library("files")


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        *AWKWARD_NAMES.items(),
        ("", "model-serving"),
        ("---", "model-serving"),
        ("Penguins_2 (v1.0)", "penguins-2-v1-0"),
        ("-a-", "a"),
        ("a" * 39 + " bc", "a" * 39),
        ("İstanbul", "i-stanbul"),
    ],
)
def test_slug(text: str, slug: str) -> None:
    assert names.slug(text) == slug
    assert not validators.project_slug(slug).strip()
    assert names.slug(slug) == slug


@pytest.mark.parametrize("text", TEXTS)
def test_quoted_means_the_same_everywhere(text: str) -> None:
    quoted = names.quoted(text)
    assert tomllib.loads(f"text = {quoted}")["text"] == text
    assert yaml.safe_load(f"text: {quoted}")["text"] == text
    assert json.loads(quoted) == text


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("Penguin Classifier", "Penguin Classifier"),
        ("my_project-2", "my_project-2"),
        ("C# & Q&A", "C# & Q&A"),
        ("_a_ *b* `c` ~d~", r"\_a\_ \*b\* \`c\` \~d\~"),
        ("[a](b) <i> a|b", r"\[a\](b) \<i\> a\|b"),
        ("# a #", r"\# a \#"),
        ("&lt; a\\b", r"\&lt; a\\b"),
    ],
)
def test_markdown(text: str, escaped: str) -> None:
    assert names.markdown(text) == escaped


@pytest.mark.parametrize("name", AWKWARD_NAMES)
def test_awkward_names_are_accepted(name: str) -> None:
    assert not validators.project_name(name).strip()


@pytest.mark.parametrize("name", validators.DEPENDENCIES)
def test_names_of_dependencies_are_refused(name: str) -> None:
    assert "cannot depend on itself" in validators.project_name(name.upper())
    assert "cannot depend on itself" in validators.project_slug(name)


@pytest.mark.parametrize("text", ["a\tb", "a\0b", "a\x85b", "a\u202eb", "a\udcffb", "a\uffffb"])
def test_unprintable_text_is_refused(text: str) -> None:
    for check in (validators.project_name, validators.author_name):
        assert f"{text!r} has a line break or another control character" in check(text)
    assert validators.author_email(f"{text}@example.org").strip()


def test_every_direct_dependency_is_refused_as_a_name(render: Render) -> None:
    pyproject = tomllib.loads((render() / "pyproject.toml").read_text(encoding="utf-8"))
    requirements = [
        *pyproject["project"]["dependencies"],
        *pyproject["build-system"]["requires"],
        *(
            entry
            for group in pyproject["dependency-groups"].values()
            for entry in group
            if isinstance(entry, str)
        ),
    ]
    direct = {re.split(r"[\[>]", requirement)[0].strip().lower() for requirement in requirements}
    assert direct <= set(validators.DEPENDENCIES)


@pytest.mark.parametrize("email", ["", "a@b.co", "first.last+tag@sub.example.org"])
def test_good_email(email: str) -> None:
    assert not validators.author_email(email).strip()


@pytest.mark.parametrize("email", ["a", "a@b", "a b@c.de", "<a@b.de>", "a@b.de\n", "a@b@c.de"])
def test_bad_email(email: str) -> None:
    assert "is not an e-mail address" in validators.author_email(email)


def test_numbers_at_their_limits() -> None:
    assert not validators.port(1024, 8000).strip()
    assert not validators.port(65535, 8000, {"api_port": 8000}).strip()
    assert "is not allowed" in validators.port(1023, 8000)
    assert "for example: 1024" in validators.port(65535, 8000, {"api_port": 65535})
    assert not validators.between(1, 1, 3, "number", 2).strip()
    assert "the number must be 1 to 3, not 4" in validators.between(4, 1, 3, "number", 2)


def test_nothing_optional_is_excluded_when_all_is_chosen() -> None:
    assert paths.unwanted(list(ALL_STAGES), True, "copy").split() == paths.NEVER


def test_the_users_own_paths_are_excluded_from_updates_only() -> None:
    update = paths.unwanted(list(ALL_STAGES), True, "update").split()
    assert update == [*paths.NEVER, *paths.OWNED]


def test_the_example_needs_the_training_stage() -> None:
    without = paths.unwanted(["api"], True, "copy").split()
    assert {"/data", "/recipes"} <= set(without)
    assert without == paths.unwanted(["api"], False, "copy").split()


def test_copier_yml_skips_the_users_own_paths() -> None:
    assert CONFIG["_skip_if_exists"] == paths.OWNED


@pytest.mark.parametrize("stages", STAGE_SETS, ids="+".join)
def test_files_are_read_by_all_stages_but_the_api(stages: tuple[str, ...]) -> None:
    excluded = "/src/serving/data" in paths.unwanted(list(stages), True, "copy").split()
    assert excluded == (stages == ("api",))


def test_every_owner_of_a_path_is_a_stage_or_explained() -> None:
    assert {owner for _, owner in paths.OPTIONAL} <= {
        *ALL_STAGES,
        "example",
        "files",
        "databases",
    }
