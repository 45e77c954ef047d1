"""Splits and folds, on biopsies of breast tumours and on patients with diabetes."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import RECIPE
from pydantic import ValidationError
from serving.contract.recipe import Recipe
from serving.errors import DataError
from serving.training.data import Dataset, load_dataset
from serving.training.splitting import folds, split
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits

BIOPSIES = Path("biopsies.csv")
THREE = {"train": 0.6, "validation": 0.2, "test": 0.2}


@pytest.fixture(autouse=True)
def biopsies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """569 biopsies; three in a row are made to come from one patient."""
    monkeypatch.chdir(tmp_path)
    frame: pd.DataFrame = load_breast_cancer(as_frame=True).frame
    frame["diagnosis"] = frame.pop("target").map({0: "malignant", 1: "benign"})
    frame.insert(0, "patient", [f"P{row // 3:03}" for row in range(len(frame))])
    frame.insert(1, "clinic", [f"C{row % 7}" for row in range(len(frame))])
    frame.to_csv(BIOPSIES, index=False)
    return frame


def plan(
    split: dict[str, Any],
    task: str = "classification",
    class_path: str = "sklearn.linear_model.LogisticRegression",
    evaluation: dict[str, Any] | None = None,
    calibration: dict[str, Any] | None = None,
    **interface: Any,
) -> Recipe:
    roles = {"entity_columns": ["patient"], "target_column": "diagnosis"} | interface
    return Recipe.model_validate(
        RECIPE
        | {
            "task_choice": task,
            "data": {"data_interface": roles, "split": split},
            "model": {"class_path": class_path, "calibration": calibration},
            "evaluation": evaluation or {},
        }
    )


def loaded(recipe: Recipe, path: Path = BIOPSIES) -> tuple[Dataset, dict[str, pd.Index]]:
    data = load_dataset(recipe, path)
    return data, split(recipe, data, str(path))


@pytest.mark.parametrize("column", [None, "clinic"])
def test_rows_of_one_group_are_never_on_both_sides(
    biopsies: pd.DataFrame, column: str | None
) -> None:
    recipe = plan({"strategy": "grouped", "group_column": column} | THREE)
    data, parts = loaded(recipe)
    groups = biopsies[column or "patient"]
    seen = [set(groups[rows]) for rows in parts.values()]
    assert sum(map(len, seen)) == groups.nunique() == len(set.union(*seen))
    assert sum(map(len, parts.values())) == len(biopsies)
    # The column that groups is no feature, because a model would learn it by heart.
    assert (column in data.features) is False
    for fit, test in folds(recipe, data, parts["train"], 3):
        train = groups[parts["train"]].to_numpy()
        assert set(train[fit]).isdisjoint(train[test])


def test_a_group_may_be_named_by_several_entities(biopsies: pd.DataFrame) -> None:
    biopsies["visit"] = [row % 3 % 2 for row in range(len(biopsies))]
    biopsies.to_csv(BIOPSIES, index=False)
    data, _ = loaded(plan({"strategy": "grouped"}, entity_columns=["patient", "visit"]))
    assert data.groups is not None
    assert data.groups.nunique() == biopsies.groupby(["patient", "visit"]).ngroups


def test_a_listed_group_column_is_a_feature(biopsies: pd.DataFrame) -> None:
    listed = ["clinic", "mean radius"]
    data, _ = loaded(
        plan({"strategy": "grouped", "group_column": "clinic"}, feature_columns=listed)
    )
    assert list(data.features) == listed


def test_a_stratified_split_keeps_the_shares_of_the_classes(biopsies: pd.DataFrame) -> None:
    _, parts = loaded(plan({"strategy": "stratified"} | THREE))
    malignant = biopsies["diagnosis"] == "malignant"
    for rows in parts.values():
        assert malignant[rows].mean() == pytest.approx(malignant.mean(), abs=0.01)


def test_the_calibration_part_has_its_own_rows(biopsies: pd.DataFrame) -> None:
    recipe = plan(
        {"train": 0.6, "test": 0.2, "calibration": 0.2},
        calibration={"enabled": True, "method": "sigmoid"},
    )
    _, parts = loaded(recipe)
    assert {name: len(rows) for name, rows in parts.items()} == {
        "train": 341,
        "test": 114,
        "calibration": 114,
    }
    assert len(set().union(*parts.values())) == len(biopsies)


def test_folds_of_a_temporal_split_test_on_later_rows() -> None:
    frame = load_diabetes(as_frame=True).frame
    frame.insert(0, "day", range(len(frame)))
    frame.sample(frac=1, random_state=0).to_csv("diabetes.csv", index=False)
    recipe = plan(
        {"strategy": "temporal", "temporal_column": "day"} | THREE,
        "regression",
        "sklearn.linear_model.Ridge",
        entity_columns=[],
        target_column="target",
    )
    data, parts = loaded(recipe, Path("diabetes.csv"))
    assert data.time is not None
    ordered = [data.time[parts[name]] for name in ("train", "validation", "test")]
    assert [len(times) for times in ordered] == [266, 88, 88]
    assert ordered[0].max() < ordered[1].min()
    assert ordered[1].max() < ordered[2].min()
    for fit, test in folds(recipe, data, parts["train"], 4):
        assert ordered[0].iloc[fit].max() < ordered[0].iloc[test].min()


def test_folds_of_classes_are_stratified() -> None:
    load_digits(as_frame=True).frame.to_csv("digits.csv", index=False)
    recipe = plan({}, entity_columns=[], target_column="target")
    data, parts = loaded(recipe, Path("digits.csv"))
    assert data.target is not None
    target = data.target[parts["train"]]
    for _, test in folds(recipe, data, parts["train"], 5):
        assert target.iloc[test].value_counts().min() >= target.value_counts().min() // 5


@pytest.mark.parametrize(
    ("split_", "rows", "message"),
    [
        (
            {"strategy": "stratified"} | THREE,
            214,  # of which 212 are malignant
            "data.split.strategy: biopsies.csv: a stratified split is impossible, because the "
            "class 'benign' has 2 rows, too few for the ",
        ),
        (
            {"strategy": "grouped", "group_column": "clinic"},
            2,
            "data.split.test: biopsies.csv has too few groups (2) for a share of 0.2",
        ),
        ({}, 2, "data.split.test: biopsies.csv has too few rows (2) for a share of 0.2"),
        (
            {"strategy": "grouped", "group_column": "ward"},
            569,
            "biopsies.csv: has no column 'ward' (named in the recipe's data.split.group_column)",
        ),
    ],
)
def test_a_split_that_is_impossible_is_one_sentence(
    biopsies: pd.DataFrame, split_: dict[str, Any], rows: int, message: str
) -> None:
    malignant_first = biopsies.sort_values("diagnosis", ascending=False)
    few = malignant_first.head(rows) if rows > 2 else malignant_first.iloc[[0, -1]]
    few.to_csv(BIOPSIES, index=False)
    with pytest.raises(DataError) as caught:
        loaded(plan(split_))
    assert str(caught.value).startswith(message)


def test_a_row_without_a_group_is_refused(biopsies: pd.DataFrame) -> None:
    biopsies.loc[:4, "clinic"] = None
    biopsies.to_csv(BIOPSIES, index=False)
    with pytest.raises(DataError, match=r"the column 'clinic' cannot group rows: .* in 5 rows"):
        loaded(plan({"strategy": "grouped", "group_column": "clinic"}))


@pytest.mark.parametrize(
    ("split_", "count", "message"),
    [
        ({"strategy": "stratified"}, 200, "the class 'malignant' has 170 rows in the train part"),
        ({"strategy": "grouped"}, 152, "the train part has too few groups (152) for 152 folds"),
        ({}, 455, "the train part has too few rows (455) for 455 folds"),
    ],
)
def test_too_many_folds_are_refused(split_: dict[str, Any], count: int, message: str) -> None:
    recipe = plan(split_)
    data, parts = loaded(recipe)
    with pytest.raises(DataError, match=r"^evaluation\.cross_validation: ") as caught:
        folds(recipe, data, parts["train"], count)
    assert message in str(caught.value)


ENABLED = {"enabled": True, "method": "sigmoid"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"split": {"train": 0.8, "test": 0.1}}, "train, validation and test must add up to 1"),
        (
            {"split": {"calibration": 0.2}, "calibration": ENABLED},
            "train, validation, test and calibration must add up to 1, not 1.2",
        ),
        (
            {"split": {"train": 0.6, "calibration": 0.2}},
            "data.split.calibration: needs model.calibration.enabled: true",
        ),
        (
            {"split": {}, "calibration": ENABLED},
            "model.calibration.enabled: needs data.split.calibration",
        ),
        (
            {"split": {}, "calibration": ENABLED, "task": "regression"},
            "model.calibration.enabled: is only for classification",
        ),
        ({"split": {}, "calibration": {"enabled": True}}, "method must be isotonic or sigmoid"),
        (
            {"split": {}, "calibration": {"enabled": True, "method": "beta"}},
            "method beta is not supported, because scikit-learn has no beta calibration",
        ),
        ({"split": {"group_column": "clinic"}}, "group_column needs strategy grouped, not random"),
        (
            {"split": {"strategy": "grouped"}, "entity_columns": []},
            "strategy grouped needs group_column, or entity_columns to group by",
        ),
        (
            {"split": {"strategy": "grouped", "group_column": "diagnosis"}},
            "data.split.group_column: must not be the target column",
        ),
        (
            {"split": {"strategy": "stratified"}, "task": "regression"},
            "data.split.strategy: stratified is only for classification, not regression",
        ),
        ({"split": {}, "evaluation": {"cross_validation": 1}}, "greater than or equal to 2"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(content: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        plan(**content)
    assert message in str(caught.value)
