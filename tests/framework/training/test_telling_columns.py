"""Features that may give the target away, and targets that are nearly numbers."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from serving.contract.recipe import Recipe
from serving.errors import DataError, RecipeError
from serving.training.data import load_dataset
from sklearn.datasets import load_breast_cancer, load_diabetes


def plan(task: str = "classification", **data: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "columns",
            "task_choice": task,
            "data": {"data_interface": {"target_column": "target"}} | data,
            "model": {"class_path": "sklearn.linear_model.LogisticRegression"},
        }
    )


@pytest.fixture
def biopsies(tmp_path: Path) -> Path:
    """Measurements, and what the laboratory has found: the target under other names."""
    frame: pd.DataFrame = load_breast_cancer(as_frame=True).frame.iloc[:, -5:]
    frame["pathology"] = frame["target"].map({0: "malignant", 1: "benign"})
    frame["billed"] = frame["target"] * 120 + 80
    frame.to_csv(tmp_path / "biopsies.csv", index=False)
    return tmp_path / "biopsies.csv"


def test_a_feature_that_is_known_before_the_target_is_accepted(biopsies: Path) -> None:
    pathology, billed = load_dataset(plan(), biopsies).inspection.warnings
    assert "column 'pathology': gives the target away" in pathology
    assert pathology.endswith("data.known_before_target if it is known before the target")
    accepted = plan(known_before_target=["pathology"])
    assert load_dataset(accepted, biopsies).inspection.warnings == [billed]
    dataset = load_dataset(plan(known_before_target=["billed", "pathology"]), biopsies)
    assert dataset.inspection.warnings == []
    assert {"billed", "pathology"} < set(dataset.features)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"known_before_target": ["bill"]}, "'bill' is no feature; did you mean billed?"),
        ({"known_before_target": ["target"]}, "'target' is no feature"),
    ],
)
def test_only_features_can_be_known_before_the_target(
    biopsies: Path, data: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError) as error:
        load_dataset(plan(**data), biopsies)
    assert str(error.value).startswith(f"data.known_before_target: {message}")


@pytest.mark.parametrize(
    ("write", "hint"),
    [
        (
            "{:,}".format,
            '(295 values have commas between thousands, such as "2,000", which makes all of them '
            "text; write data.loader.types: {target: long})",
        ),
        (
            "{}%".format,
            '(442 values have a percent sign, such as "2000%", which makes all of them text; '
            "write data.loader.types: {target: double})",
        ),
        (
            lambda value: "unknown" if value == 1510 else value,
            '(all values are numbers but 3 of 442, such as "unknown", which make all of them text; '
            "correct them or leave the fields empty, and write data.loader.types: {target: double} "
            "(or string, if it is text))",
        ),
        ("grade {}".format, ""),
        (lambda value: f"2024.04.{1 + value % 28:02}", ""),
    ],
)
def test_a_target_that_is_nearly_numbers_names_the_key(
    tmp_path: Path, write: Any, hint: str
) -> None:
    frame: pd.DataFrame = load_diabetes(as_frame=True).frame
    frame["target"] = (frame["target"] * 10).astype(int).map(write)
    frame.to_csv(tmp_path / "patients.csv", index=False)
    with pytest.raises(DataError) as error:
        load_dataset(plan("regression"), tmp_path / "patients.csv")
    expected = "the target column 'target' is a string; regression needs numbers"
    assert (
        str(error.value) == f"{tmp_path / 'patients.csv'}: {expected}{f' {hint}' if hint else ''}"
    )
