"""Training data from wherever it is: directories, queries, and what a run tells about them."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from postgresql import PASSWORD, QUOTED_PASSWORD, PostgreSQL
from serving.config.settings import Settings
from serving.contract.recipe import Recipe, load_recipe
from serving.errors import ConfigError, DataError, RecipeError
from serving.model.loading import load_model
from serving.training.data import load_dataset
from serving.training.trainer import train
from sklearn.datasets import load_diabetes
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url

RECIPE = """
name: diabetes
task_choice: regression
data:
  loader: {{{loader}}}
  data_interface: {{entity_columns: [patient], target_column: target}}
preprocessor: {{steps: [{{type: simple_imputer}}, {{type: standard_scaler}}]}}
model:
  class_path: sklearn.linear_model.Ridge
  hyperparameters: {{values: {{alpha: 1.0}}}}
"""


@pytest.fixture(scope="module")
def patients() -> pd.DataFrame:
    """442 patients; scikit-learn's data, with a number for each."""
    frame: pd.DataFrame = load_diabetes(as_frame=True).frame
    frame.insert(0, "patient", range(1, len(frame) + 1))
    return frame


@pytest.fixture
def recipe(tmp_path: Path) -> Any:
    """Makes a recipe with the given content of its loader."""

    def make(loader: str) -> Recipe:
        path = tmp_path / "recipe.yaml"
        path.write_text(RECIPE.format(loader=loader), encoding="utf-8")
        return load_recipe(path)

    return make


def settings_of(tmp_path: Path, uri: str | None = None) -> Settings:
    store = {"tracking_uri": f"sqlite:///{tmp_path / 'mlflow.db'}", "experiment_name": "sources"}
    return Settings.model_validate(
        {"mlflow": store, "data_source": {"config": {"connection_uri": uri}}}
    )


def fill(uri: str, patients: pd.DataFrame) -> None:
    url = make_url(uri)
    if url.get_backend_name() == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    engine = create_engine(url)
    patients.to_sql("patients", engine, index=False, if_exists="replace")
    engine.dispose()


def test_a_directory_and_a_pattern_are_read_like_a_file(
    recipe: Any, patients: pd.DataFrame, tmp_path: Path
) -> None:
    rows = tmp_path / "rows"
    for ward, part in enumerate((patients[:200], patients[200:])):
        (rows / f"ward={ward}").mkdir(parents=True)
        part.to_parquet(rows / f"ward={ward}/part.parquet", index=False)
    patients.to_parquet(tmp_path / "all.parquet", index=False)
    whole = load_dataset(recipe(f"source_uri: {tmp_path}/all.parquet"), tmp_path / "all.parquet")
    parts = load_dataset(recipe("source_uri: none"), tmp_path / "rows")
    pd.testing.assert_frame_equal(parts.features[whole.features.columns], whole.features)
    assert [column.name for column in parts.feature_columns][-1] == "ward"
    pattern = load_dataset(recipe("source_uri: none"), f"{tmp_path}/rows/*/part.parquet")
    assert isinstance(pattern.target, pd.Series)
    assert isinstance(whole.target, pd.Series)
    pd.testing.assert_series_equal(pattern.target, whole.target)


@pytest.mark.parametrize("kind", ["postgresql", "sqlite"])
def test_a_query_is_trained_and_served(
    request: pytest.FixtureRequest, recipe: Any, patients: pd.DataFrame, tmp_path: Path, kind: str
) -> None:
    uri = f"sqlite:///{tmp_path / 'patients.db'}"
    if kind == "postgresql":
        server: PostgreSQL = request.getfixturevalue("postgresql")
        uri = server.uri
    fill(uri, patients)
    query = tmp_path / "patients.sql.j2"
    query.write_text("SELECT * FROM patients WHERE bmi > {{ least }} AND patient IN {{ wards }}")
    loader = f"source_uri: {query}, parameters: {{least: 0.0, wards: [1]}}"
    plan = recipe(loader).with_parameters({"wards": list(range(1, 401))})
    settings = settings_of(tmp_path, uri)
    result = train(plan, settings)
    expected = patients[(patients.bmi > 0) & (patients.patient <= 400)]
    assert sum(result.rows.values()) == len(expected)
    assert result.metrics["test_r2"] > 0.1

    serving = settings.serving.model_copy(update={"model_run_id": result.run_id})
    model = load_model(settings.model_copy(update={"serving": serving}))
    row = expected.drop(columns="target").iloc[0].to_dict()
    assert set(row) == {column.name for column in model.schemas.columns}
    assert model.schemas.recipe is not None
    logged = model.schemas.recipe.data.loader.parameters
    assert logged == {"least": 0.0, "wards": list(range(1, 401))}


def test_no_secret_gets_into_the_store(
    recipe: Any,
    patients: pd.DataFrame,
    postgresql: PostgreSQL,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fill(postgresql.uri, patients)
    secrets = {"TENANT_TOKEN": "tenant-9f86d081884c7d65", "QUERY_DIRECTORY": f"{tmp_path}/hidden-q"}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    query = Path(secrets["QUERY_DIRECTORY"]) / "patients.sql.j2"
    query.parent.mkdir()
    query.write_text("SELECT * FROM patients WHERE {{ token }} <> 'x'")
    loader = (
        'source_uri: "${QUERY_DIRECTORY}/patients.sql.j2", parameters: {token: "${TENANT_TOKEN}"}'
    )
    result = train(recipe(loader), settings_of(tmp_path, postgresql.uri))
    store = [tmp_path / "mlflow.db", *(tmp_path / "mlruns").rglob("*"), *Path("mlruns").rglob("*")]
    content = b"".join(path.read_bytes() for path in store if path.is_file())
    assert result.run_id.encode() in content
    assert b"${TENANT_TOKEN}" in content
    for secret in (*secrets.values(), PASSWORD, QUOTED_PASSWORD):
        assert secret.encode() not in content, secret


def test_what_is_wrong_with_a_source_is_said_in_one_sentence(
    recipe: Any, patients: pd.DataFrame, tmp_path: Path
) -> None:
    uri = f"sqlite:///{tmp_path / 'patients.db'}"
    fill(uri, patients)
    template, query = tmp_path / "q.sql.j2", tmp_path / "q.sql"
    template.write_text("SELECT * FROM patients WHERE bmi > {{ least }}")
    query.write_text("SELECT patient FROM patients")
    settings = settings_of(tmp_path, uri)
    cases: list[tuple[Recipe, Settings, type[Exception], str]] = [
        (recipe("source_uri: null"), settings, RecipeError, "data.loader.source_uri: names no"),
        (recipe(f"source_uri: {query}"), settings, DataError, "has no column 'target'"),
        (recipe(f"source_uri: {query}"), settings_of(tmp_path), ConfigError, "no database is give"),
        (
            recipe(f"source_uri: {template}"),
            settings,
            DataError,
            "'least' has no value; give it in",
        ),
        (recipe(f"source_uri: {tmp_path}/no.sql"), settings, DataError, "no.sql: no such file"),
        (recipe("source_uri: ftp://h/x.csv"), settings, DataError, "ftp:// are not supported"),
        (
            recipe("source_uri: data.csv, parameters: {a: 1}"),
            settings,
            DataError,
            "data.csv: is not a query, so it has no parameter 'a'",
        ),
    ]
    for plan, where, error, message in cases:
        with pytest.raises(error) as caught:
            train(plan, where)
        assert message in str(caught.value)
    query.write_text("SELECT * FROM patients WHERE bmi > 99")
    with pytest.raises(DataError, match=r"q\.sql: has no rows$"):
        train(recipe(f"source_uri: {query}"), settings)


def test_a_query_with_other_types_says_which_column(tmp_path: Path, recipe: Any) -> None:
    uri = f"sqlite:///{tmp_path / 'mixed.db'}"
    fill(uri, pd.DataFrame({"patient": [1, 2], "bmi": [None, None], "target": [1.0, 2.0]}))
    query = tmp_path / "q.sql"
    query.write_text("SELECT * FROM patients")
    with pytest.raises(DataError, match=r"q\.sql: column 'bmi' has no values"):
        train(recipe(f"source_uri: {query}"), settings_of(tmp_path, uri))


def test_parameters_must_be_a_mapping(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(loader="source_uri: q.sql.j2, parameters: [1]"))
    with pytest.raises(RecipeError, match=r"data\.loader\.parameters: must be a valid dict"):
        load_recipe(path)
