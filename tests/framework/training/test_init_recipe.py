"""From a table that nobody has described to a trained model: `mmp init-recipe`, `mmp train`."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import PROJECT
from serving.cli import app
from serving.contract.recipe import Recipe, Task, load_recipe
from sklearn.datasets import load_breast_cancer, load_diabetes
from test_inspection import PENGUINS, write_crm
from typer.testing import CliRunner, Result

CONFIG = str(PROJECT / "configs" / "development.yaml")


@pytest.fixture(scope="module", autouse=True)
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


@pytest.fixture(autouse=True)
def _in_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)


def mmp(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def drafted(data: str, target: str) -> Recipe:
    done = mmp("init-recipe", "--data", data, "--target", target)
    assert done.exception is None, done.exception
    path = Path("recipes") / f"{Path(data).stem.replace(' ', '-')}.yaml"
    assert f"Next: uv run mmp train -r {path}" in done.stdout
    return load_recipe(path)


def trained(name: str) -> dict[str, float]:
    """The metrics that are printed; training may not warn of anything."""
    done = mmp("train", "-r", f"recipes/{name}.yaml", "-c", CONFIG, "--strict")
    assert done.exception is None, done.exception
    assert ("compiled: yes" in done.stdout) is bool(find_spec("serving.compilation"))
    lines = (line.partition(": ") for line in done.stdout.splitlines())
    return {key: float(value) for key, _, value in lines if key.startswith("test_")}


def test_penguins() -> None:
    recipe = drafted(str(PENGUINS), "species")
    interface = recipe.data.data_interface
    assert recipe.task_choice is Task.CLASSIFICATION
    assert interface.entity_columns == ["penguin_id"]
    assert set(interface.feature_columns or []) == {
        *("island", "bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g"),
        *("sex", "year"),
    }
    assert recipe.model.compile is bool(find_spec("serving.compilation"))
    assert trained("penguins")["test_accuracy"] > 0.95


def test_breast_cancer() -> None:
    load_breast_cancer(as_frame=True).frame.to_csv("cancer.csv", index=False)
    recipe = drafted("cancer.csv", "target")
    assert recipe.task_choice is Task.CLASSIFICATION
    assert len(recipe.data.data_interface.feature_columns or []) == 30
    assert trained("cancer")["test_accuracy"] > 0.93


def test_diabetes() -> None:
    load_diabetes(as_frame=True).frame.to_parquet("diabetes.parquet")
    assert drafted("diabetes.parquet", "target").task_choice is Task.REGRESSION
    assert trained("diabetes")["test_r2"] > 0.3


@pytest.mark.parametrize("delimiter", [";", ","])
def test_an_export_of_a_korean_crm(delimiter: str) -> None:
    recipe = drafted(str(write_crm(delimiter)), "이탈")
    loader, interface = recipe.data.loader, recipe.data.data_interface
    assert (loader.encoding, loader.delimiter) == ("cp949", delimiter)
    assert loader.types == {"총구매액": "long", "할인율": "double", "우편번호": "string"}
    assert loader.date_format == {"가입일": "%Y.%m.%d"}
    assert interface.entity_columns == ["고객번호"]
    assert interface.feature_columns == ["가입일", "총구매액", "할인율", "등급"]
    text = Path("recipes/crm.yaml").read_text(encoding="utf-8")
    assert "# left out: 방문횟수: numbers but for one value" in text
    assert "# left out: 국가: the same value in every row" in text
    if delimiter == ";":
        trained("crm")


def test_names_that_yaml_reads_otherwise() -> None:
    names = ["a: b", "# c", "yes", "1st", "빈 칸", "d, [e]", "null", "x'y", "~"]
    random = np.random.default_rng(0)
    frame = pd.DataFrame(random.normal(size=(80, len(names))), columns=names)
    frame["no"] = random.choice(["on", "off"], 80)
    frame.to_csv("odd names.csv", index=False)
    recipe = drafted("odd names.csv", "no")
    assert recipe.data.data_interface.feature_columns == names


def test_a_column_that_gives_the_target_away_is_left_out() -> None:
    frame = pd.read_csv(PENGUINS).assign(code=lambda rows: rows["species"].str[0])
    frame.to_csv("leak.csv", index=False)
    assert "code" not in (drafted("leak.csv", "species").data.data_interface.feature_columns or [])
    assert "left out: code: gives the target away" in Path("recipes/leak.yaml").read_text()


def test_a_recipe_is_never_overwritten() -> None:
    drafted(str(PENGUINS), "species")
    before = Path("recipes/penguins.yaml").read_text()
    again = mmp("init-recipe", "--data", str(PENGUINS), "--target", "sex")
    assert "recipes/penguins.yaml: exists already; give another file" in str(again.exception)
    assert Path("recipes/penguins.yaml").read_text() == before
    other = mmp("init-recipe", "-d", str(PENGUINS), "-t", "sex", "-o", "new/sex.yaml")
    assert other.exception is None
    assert yaml.safe_load(Path("new/sex.yaml").read_text())["name"] == "sex"


@pytest.mark.parametrize(
    ("content", "target", "message"),
    [
        (None, "y", "t.csv: no such file"),
        ("", "y", "t.csv: the file is empty"),
        ("x,y\n", "y", "t.csv: has no rows"),
        ("amount,label\n1,a\n2,b\n", "lable", "has no column 'lable' (--target); it has amount, "),
        ("amount,label\n1,a\n2,b\n", "lable", "did you mean label?"),
        ("amount,label\n1,a\n2,b\n", None, "name the column to predict with --target; it has amo"),
        ("x,y\n1,\n2,\n", "y", "the column 'y' (--target) has no values"),
        ("x,y\n1,a\n2,a\n", "y", "has the same value in every row; there is nothing to predict"),
        ("x,y\n1,2024-01-01\n2,2024-01-02\n", "y", "holds dates"),
        (
            "x,y\n1,a\n1,b\n",
            "y",
            "no column is left to learn from (x: the same value in every row)",
        ),
        ("y\na\nb\n", "y", "no column is left to learn from"),
    ],
)
def test_mistakes(content: str | None, target: str | None, message: str) -> None:
    if content is not None:
        Path("t.csv").write_text(content)
    options = ["--target", target] if target else []
    done = mmp("init-recipe", "--data", "t.csv", *options)
    assert message in str(done.exception)
    assert not Path("recipes").exists()


def test_warnings_are_errors_if_the_user_says_so() -> None:
    frame = pd.read_csv(PENGUINS).assign(planet="Earth")
    frame.to_csv("p.csv", index=False)
    drafted("p.csv", "species")
    content = yaml.safe_load(Path("recipes/p.yaml").read_text())
    content["data"]["data_interface"]["feature_columns"] = ["planet", "island", "body_mass_g"]
    Path("strict.yaml").write_text(yaml.safe_dump(content))
    done = mmp("train", "-r", "strict.yaml", "-c", CONFIG, "--strict")
    assert str(done.exception) == "1 warning above, and --strict (STRICT) allows none"
    assert done.stderr.startswith("warning: column 'planet': has the same value in all 344 rows")
    assert done.stdout.startswith("column ")
