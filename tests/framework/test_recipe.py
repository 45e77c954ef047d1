"""Reading recipes, and the message for each mistake in one."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import RECIPE
from serving.contract.recipe import DataInterface, Loader, Recipe, load_recipe
from serving.errors import RecipeError


def write(path: Path, **changes: Any) -> Path:
    """The iris recipe, with `a__b=value` set at the key `a.b`."""
    recipe = yaml.safe_load(yaml.safe_dump(RECIPE))
    for key, value in changes.items():
        *parents, last = key.split("__")
        section = recipe
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
    file = path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return file


def test_a_recipe_is_read(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path))
    assert recipe.name == "irises"
    assert recipe.data.data_interface.target_column == "species"


INTERFACE = "data__data_interface"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nme": "x"}, "nme: unknown key; known keys: name, task_choice"),
        ({f"{INTERFACE}__targt": "x"}, "data.data_interface.targt: unknown key"),
        (
            {f"{INTERFACE}__target_column": None},
            "data.data_interface.target_column: is required for the task classification",
        ),
        (
            {f"{INTERFACE}__feature_columns": ["a", "b", "a"]},
            "data.data_interface.feature_columns: column 'a' is listed twice",
        ),
        (
            {f"{INTERFACE}__feature_columns": ["plant id"]},
            "column 'plant id' is in entity_columns and in feature_columns",
        ),
        ({"task_choice": "guessing"}, "task_choice: must be 'classification'"),
        ({"task_choice": "timeseries"}, "timestamp_column: is required for the task timeseries"),
        ({"model__class_path": "os system"}, "model.class_path: must match"),
        ({"model__hyperparameters__tuning_enabled": True}, "tuning_enabled needs tunable"),
        ({"data__fetcher__type": "feature_store"}, "feature_store is not supported"),
        ({"data__split": {"train": 0.9, "test": 0.2}}, "must add up to 1, not 1.1"),
        ({"preprocessor": {"steps": [{"type": "drop_missing"}]}}, "uses other rows"),
        (
            {"preprocessor": {"steps": [{"type": "one_hot_encoder", "degree": 2}]}},
            "one_hot_encoder has no option degree; its options are columns, handle_unknown",
        ),
        (
            {"preprocessor": {"steps": [{"type": "simple_imputer", "strategy": "middle"}]}},
            "preprocessor.steps.0: strategy must be one of mean, median, most_frequent",
        ),
        (
            {"preprocessor": {"steps": [{"type": "constant_fill"}]}},
            "constant_fill needs fill_value",
        ),
    ],
)
def test_a_mistake_is_one_sentence_with_file_key_and_rule(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = write(tmp_path, **changes)
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "name: is required"),
        (b"- a", "must be a mapping of keys to values, not a list"),
        (b"a: [1", "not valid YAML in line 1"),
        (b"a: 1\na: 2", "not valid YAML in line 2: key 'a' is given twice"),
        (b"\xff\xfe\xfd", "not UTF-8 text"),
        (b"name: 2026-13-45", "not valid YAML: month must be in 1..12"),
        (b"name: &a [*a]", "refers to itself"),
        (b"[" * 3000, "nested too deeply"),
        (b"name: ${NOT_SET}", "the environment variable NOT_SET is not set"),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    assert message in str(error.value)


def test_null_means_default(tmp_path: Path) -> None:
    recipe = load_recipe(
        write(tmp_path, evaluation=None, preprocessor={"steps": None}, data__split=None)
    )
    assert (recipe.evaluation.random_state, recipe.data.split.train) == (42, 0.8)


def test_the_environment_is_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEED", "7")
    path = write(
        tmp_path,
        evaluation={"random_state": "${SEED}"},
        model__hyperparameters__values={"C": "${C:0.5}", "penalty": "l${NORM:2}"},
    )
    recipe = load_recipe(path)
    assert recipe.evaluation.random_state == 7
    assert recipe.model.hyperparameters.values == {"C": 0.5, "penalty": "l2"}


def test_what_is_logged_has_variables_as_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB_PASSWORD", "hunter2")
    monkeypatch.setenv("SEED", "7")
    monkeypatch.setenv("TAGS", "[hunter2, b]")
    text = "db://user:${DB_PASSWORD}@${DB_HOST:localhost}"
    step = {"type": "transformer", "class_path": "a.B", "columns": ["x"]}
    changes: dict[str, Any] = {
        "data__loader": {"source_uri": text},
        "preprocessor": {"steps": [step | {"values": {"login": "${DB_PASSWORD}"}}]},
        "model__hyperparameters": {"values": {"C": "${C:0.5}", "logins": [text]}},
        "evaluation": {"random_state": "${SEED}"},
        "metadata": {"note": text, "tags": "${TAGS}", "deep": {1: [{"key": "${DB_PASSWORD}"}]}},
        "monitoring": {"token": "${DB_PASSWORD}"},
    }
    path = write(tmp_path, **changes)
    recipe = load_recipe(path)
    assert recipe.data.loader.source_uri == "db://user:hunter2@localhost"
    assert recipe.model.hyperparameters.values["C"] == 0.5

    expected = yaml.safe_load(path.read_text())
    expected["evaluation"]["random_state"] = 7
    expected["metadata"]["deep"] = {"1": [{"key": "${DB_PASSWORD}"}]}
    assert recipe.as_written() == expected
    assert "hunter2" not in json.dumps(recipe.as_written())
    monkeypatch.delenv("DB_PASSWORD")
    stored = Recipe.model_validate(recipe.as_written())  # reads it as a server does
    assert stored.data.loader.source_uri == text


def test_a_value_that_was_replaced_since_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FILE", "a.csv")
    recipe = load_recipe(write(tmp_path, data__loader={"source_uri": "${FILE}"}))
    data = recipe.data.model_copy(update={"loader": Loader(source_uri="b.csv")})
    changed = recipe.model_copy(update={"data": data})
    assert changed.as_written()["data"]["loader"] == {"source_uri": "b.csv"}
    assert recipe.as_written()["data"]["loader"] == {"source_uri": "${FILE}"}


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"name": "the ${DB_PASSWORD}"}, "name"),
        ({f"{INTERFACE}__target_column": "${DB_PASSWORD}"}, "data.data_interface.target_column"),
        (
            {f"{INTERFACE}__entity_columns": ["${DB_PASSWORD}"]},
            "data.data_interface.entity_columns.0",
        ),
        ({"model__hyperparameters": {"values": "${PARAMETERS}"}}, "model.hyperparameters.values"),
        ({"metadata": "${PARAMETERS}"}, "metadata"),
        ({"data": "${PARAMETERS}"}, "data"),
    ],
)
def test_text_of_the_environment_is_refused_in_what_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], key: str
) -> None:
    monkeypatch.setenv("DB_PASSWORD", "hunter2")
    monkeypatch.setenv("PARAMETERS", "{password: hunter2}")
    path = write(tmp_path, **changes)
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    assert str(error.value).startswith(f"{path}: {key}: '")
    assert "must be a number or boolean here" in str(error.value)
    assert "hunter2" not in str(error.value)


def test_a_wrong_value_of_the_environment_is_named_and_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE", "20260101")
    path = write(tmp_path, data__loader={"source_uri": "${SOURCE}"})
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    rule = "must be a valid string (is '${SOURCE}')"
    assert str(error.value) == f"{path}: data.loader.source_uri: {rule}"


def test_the_target_is_never_a_feature() -> None:
    listed = DataInterface(feature_columns=["a", "y"], target_column="y")
    assert listed.features_of(["y", "a", "b"]) == ["a"]
    implied = DataInterface(entity_columns=["id"], target_column="y")
    assert implied.features_of(["id", "b", "y", "a"]) == ["b", "a"]


@pytest.mark.parametrize(("text", "value"), [("1e-3", 0.001), ("-2E5", -2e5), ("1.5e+2", 150.0)])
def test_numbers_with_an_exponent_are_numbers(tmp_path: Path, text: str, value: float) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "name: a\ntask_choice: regression\ndata: {data_interface: {target_column: y}}\n"
        "model: {class_path: a.B, hyperparameters: {values: {tol: " + text + ", name: '1e-3'}}}\n"
    )
    assert load_recipe(path).model.hyperparameters.values == {"tol": value, "name": "1e-3"}
