"""Compiled models answer as scikit-learn does, or compilation is refused."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import mlflow.sklearn
import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import RECIPE, settings_for
from mlflow.models import infer_signature, set_signature
from serving.cli import app
from serving.compilation.compiler import compile_model
from serving.config.settings import MLflowSettings, ServingSettings, Settings
from serving.contract.columns import Row
from serving.contract.recipe import Recipe, load_recipe
from serving.engines.base import Predictions
from serving.engines.onnx import Compiled, OnnxEngine
from serving.errors import CompilationError, DataError, RowError, ServingError
from serving.model.loading import load_model
from serving.model.served import ServedModel
from serving.store import mlmodel
from serving.training.data import load_dataset
from serving.training.pipeline import build_pipeline
from serving.training.trainer import train
from sklearn.base import BaseEstimator, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    VotingClassifier,
)
from sklearn.frozen import FrozenEstimator
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline, make_union
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
)
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeRegressor

IMPUTE = [
    {"type": "simple_imputer", "strategy": "median"},
    {"type": "simple_imputer", "strategy": "most_frequent", "columns": ["site"]},
]
STEPS = [*IMPUTE, {"type": "one_hot_encoder"}, {"type": "standard_scaler"}]

Save = Callable[..., Path]
"""Saves a fitted model with the given features."""


def recipe(class_path: str, values: dict[str, Any] | None = None, **keys: Any) -> Recipe:
    """A recipe for the flowers; a regression if the class is a regressor."""
    task = "regression" if class_path.endswith(("Regressor", "Regression", *REGRESSORS)) else ""
    task = "" if class_path.endswith("LogisticRegression") else task
    target = "petal width (cm)" if task else "species"
    unused = {"species", "petal width (cm)", "plant id"} - keys.get("kept", set())
    return Recipe.model_validate(
        RECIPE
        | {
            "task_choice": task or "classification",
            "data": {
                "data_interface": {
                    "target_column": target,
                    "feature_columns": [name for name in FEATURES if name not in unused],
                }
            },
            "preprocessor": {"steps": keys.get("steps", STEPS)},
            "model": {"class_path": class_path, "hyperparameters": {"values": values or {}}},
        }
    )


REGRESSORS = ("Ridge", "Lasso", "SVR")
FEATURES = [
    "sepal length (cm)",
    "sepal width (cm)",
    "petal length (cm)",
    "petal width (cm)",
    "visits",
    "site",
    "wild",
    "seen",
]


@pytest.fixture(scope="module")
def flowers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The irises with a column of every type, and gaps in numbers and text."""
    data = load_iris(as_frame=True)
    random = np.random.default_rng(0)
    frame = data.data
    frame = frame.mask(random.random(frame.shape) < 0.05)
    frame["petal width (cm)"] = data.data["petal width (cm)"]
    frame["species"] = data.target.map(dict(enumerate(data.target_names.tolist())))
    frame["visits"] = random.integers(0, 20, len(frame))
    frame["site"] = random.choice(np.array(["bog", "dune", "Über", None]), len(frame))
    frame["wild"] = random.choice([True, False], len(frame))
    frame["seen"] = pd.date_range("2026-01-01", periods=len(frame), freq="7h").astype(str)
    path = tmp_path_factory.mktemp("data") / "flowers.csv"
    frame.to_csv(path, index=False)
    return path


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Saves models as MLflow stores them."""

    def save(model: Any, features: pd.DataFrame, **keywords: Any) -> Path:
        path = tmp_path / "model"
        mlflow.sklearn.save_model(
            model,
            path,
            serialization_format="cloudpickle",
            signature=infer_signature(features, model.predict(features)),
            pip_requirements=["scikit-learn"],
            **keywords,
        )
        return path

    return save


@pytest.fixture
def build(flowers: Path, save: Save) -> Callable[[Recipe], Path]:
    """Fits the model of a recipe, and saves it."""

    def build(plan: Recipe) -> Path:
        data = load_dataset(plan, flowers)
        pipeline = build_pipeline(plan, data.feature_columns).fit(data.features, data.target)
        return save(pipeline, data.features)

    return build


def compiled(path: Path, data: Path) -> Compiled:
    return compile_model(settings_for(path, path.parent), data)


def both(path: Path) -> tuple[ServedModel, ServedModel]:
    """The model itself, and its compiled form."""
    settings = settings_for(path, path.parent)
    return load_model(settings, "native"), load_model(settings, "onnx")


def difference(one: Predictions, other: Predictions) -> float:
    """The largest difference; labels must be equal."""
    if one.probabilities is None or other.probabilities is None:
        return float(np.abs(one.values - other.values).max())
    assert one.values.tolist() == other.values.tolist()
    return float(np.abs(one.probabilities - other.probabilities).max())


@pytest.mark.parametrize(
    ("class_path", "values", "largest"),
    [
        ("linear_model.LogisticRegression", {"max_iter": 1000}, 1e-12),
        ("linear_model.RidgeClassifier", {}, 0),
        ("linear_model.SGDClassifier", {"loss": "log_loss", "random_state": 0}, 1e-9),
        ("linear_model.SGDClassifier", {"random_state": 0}, 0),
        ("discriminant_analysis.LinearDiscriminantAnalysis", {}, 1e-12),
        ("tree.DecisionTreeClassifier", {"random_state": 0}, 0),
        ("ensemble.RandomForestClassifier", {"random_state": 0}, 1e-7),
        ("ensemble.ExtraTreesClassifier", {"random_state": 0}, 1e-7),
        ("ensemble.GradientBoostingClassifier", {"n_estimators": 20}, 1e-12),
        ("ensemble.HistGradientBoostingClassifier", {"max_iter": 10}, 1e-12),
        ("ensemble.AdaBoostClassifier", {"n_estimators": 10, "random_state": 0}, 1e-5),
        ("neighbors.KNeighborsClassifier", {}, 1e-12),
        ("svm.SVC", {"probability": True, "random_state": 0}, 1e-5),
        ("svm.SVC", {}, 0),
        ("svm.LinearSVC", {}, 0),
        ("neural_network.MLPClassifier", {"max_iter": 50, "random_state": 0}, 1e-12),
        ("naive_bayes.GaussianNB", {}, 1e-9),
        ("linear_model.LinearRegression", {}, 1e-12),
        ("linear_model.Ridge", {}, 1e-12),
        ("linear_model.Lasso", {"alpha": 0.01}, 1e-12),
        ("linear_model.PoissonRegressor", {}, 1e-12),
        ("tree.DecisionTreeRegressor", {"random_state": 0}, 0),
        ("ensemble.RandomForestRegressor", {"random_state": 0}, 1e-12),
        ("ensemble.ExtraTreesRegressor", {"random_state": 0}, 1e-12),
        ("ensemble.GradientBoostingRegressor", {"n_estimators": 20}, 1e-12),
        ("ensemble.HistGradientBoostingRegressor", {"max_iter": 10}, 1e-12),
        ("svm.SVR", {}, 1e-5),
        ("neighbors.KNeighborsRegressor", {}, 1e-12),
        ("neural_network.MLPRegressor", {"max_iter": 50, "random_state": 0}, 1e-9),
    ],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_estimators_answer_alike(
    flowers: Path,
    build: Callable[[Recipe], Path],
    class_path: str,
    values: dict[str, Any],
    largest: float,
) -> None:
    path = build(recipe(f"sklearn.{class_path}", values))
    made = compiled(path, flowers)
    assert made.estimator.endswith(class_path.rpartition(".")[2])
    proof = made.proof
    assert proof["largest_difference"] <= largest
    assert proof["rows_of_data"] == 150
    assert min(proof[f"rows_{kind}"] for kind in ("with_missing", "with_unknown")) > 100
    assert proof["rows_out_of_range"] > 500
    assert proof["data"] == str(flowers)
    native, onnx = both(path)
    assert onnx.engine.name == "onnx"
    assert native.schemas.generate_openapi_spec() == onnx.schemas.generate_openapi_spec()


@pytest.mark.parametrize(
    "steps",
    [
        [*IMPUTE, {"type": "one_hot_encoder", "columns": ["site", "visits", "wild"]}],
        [IMPUTE[0], {"type": "one_hot_encoder"}],  # a missing text is its own category
        [IMPUTE[0], {"type": "ordinal_encoder"}],
        [IMPUTE[0], {"type": "catboost_encoder"}],
        [*IMPUTE, {"type": "catboost_encoder", "columns": ["site", "visits", "wild", "seen"]}],
        [
            IMPUTE[0],
            {"type": "ordinal_encoder", "unknown_value": -5, "columns": ["site", "visits"]},
        ],
        [*IMPUTE, {"type": "ordinal_encoder", "handle_unknown": "error"}],
        [*IMPUTE, {"type": "one_hot_encoder", "handle_unknown": "error"}],
        [{"type": "simple_imputer", "create_missing_indicators": True}, STEPS[2], STEPS[3]],
        [{"type": "constant_fill", "fill_value": -1}, STEPS[2], {"type": "min_max_scaler"}],
        [{"type": "constant_fill", "fill_value": "none"}, IMPUTE[0], STEPS[2]],
        [*STEPS[:3], {"type": "robust_scaler"}, {"type": "kbins_discretizer", "n_bins": 3}],
        [*STEPS[:3], {"type": "kbins_discretizer", "strategy": "uniform", "encode": "onehot"}],
        [
            *IMPUTE,
            STEPS[2],
            {"type": "standard_scaler"},
            {"type": "polynomial_features", "degree": 3, "columns": ["visits"]},
        ],
        [
            *STEPS,
            {
                "type": "polynomial_features",
                "interaction_only": True,
                "columns": ["sepal length (cm)", "sepal width (cm)", "petal length (cm)"],
            },
        ],
    ],
    ids=lambda steps: "+".join(step["type"] for step in steps),
)
@pytest.mark.filterwarnings("ignore:(lbfgs failed|Bins whose width)")
def test_every_step_answers_alike(
    flowers: Path, build: Callable[[Recipe], Path], steps: list[dict[str, Any]]
) -> None:
    plan = recipe("sklearn.tree.DecisionTreeClassifier", {"random_state": 0}, steps=steps)
    path = build(plan)
    proof = compiled(path, flowers).proof
    assert proof["largest_difference"] == 0
    refuses = any(step.get("handle_unknown") == "error" for step in steps)
    assert (proof["rows_refused"] > 0) is refuses


@pytest.mark.parametrize("classes", [2, None])
def test_text_becomes_the_same_mean_target(flowers: Path, save: Save, classes: int | None) -> None:
    estimator = "LogisticRegression" if classes else "Ridge"
    steps = [IMPUTE[0], {"type": "catboost_encoder", "columns": ["site", "visits"]}]
    plan = recipe(f"sklearn.linear_model.{estimator}", steps=steps)
    data = load_dataset(plan, flowers)
    target = data.target == "virginica" if classes else data.target
    pipeline = build_pipeline(plan, data.feature_columns).fit(data.features, target)
    path = save(pipeline, data.features)
    proof = compiled(path, flowers).proof
    assert proof["largest_difference"] < 1e-12
    assert min(proof["rows_with_missing"], proof["rows_with_unknown"]) > 100
    native, onnx = both(path)
    row: Row = (5.1, None, 1.4, 3, "lake", True, datetime(2026, 1, 1))
    assert onnx.engine.name == "onnx"
    assert difference(native.predict_rows([row]), onnx.predict_rows([row])) < 1e-12


def irises() -> tuple[pd.DataFrame, "pd.Series[Any]"]:
    data = load_iris(as_frame=True)
    return data.data, data.target


@pytest.mark.parametrize(
    "model",
    [
        LogisticRegression(max_iter=1000),
        make_pipeline(StandardScaler(), LogisticRegression()),
        make_pipeline(MinMaxScaler(clip=True), PolynomialFeatures(2), GaussianNB()),
        make_pipeline(PCA(2), LogisticRegression()),
        make_pipeline(make_union(StandardScaler(), PCA(2), MaxAbsScaler()), GaussianNB()),
        make_pipeline(
            KBinsDiscretizer(4, encode="onehot", quantile_method="averaged_inverted_cdf"),
            LogisticRegression(),
        ),
        make_pipeline(FunctionTransformer(np.square), Normalizer(), LogisticRegression()),
        GridSearchCV(make_pipeline(StandardScaler(), LogisticRegression()), {}, cv=2),
        VotingClassifier(
            [("trees", RandomForestClassifier(5, random_state=0)), ("bayes", GaussianNB())],
            voting="soft",
        ),
        make_pipeline(
            ColumnTransformer(
                [("scaled", StandardScaler(), make_column_selector("sepal"))],
                remainder=make_pipeline(SimpleImputer(), MinMaxScaler()),
            ),
            ColumnTransformer([("two", "passthrough", [0, 2]), ("none", "drop", [1])]),
            RandomForestClassifier(5, random_state=0),
        ),
        make_pipeline(
            StandardScaler().set_output(transform="pandas"),
            ColumnTransformer([("two", "passthrough", ["sepal width (cm)", "petal width (cm)"])]),
            HistGradientBoostingClassifier(max_iter=5),
        ),
    ],
    ids=lambda model: str(model).split("(")[0],
)
def test_models_of_others_answer_alike(save: Save, tmp_path: Path, model: Any) -> None:
    features, target = irises()
    path = save(model.fit(features, target), features)
    data = tmp_path / "irises.csv"
    features.to_csv(data, index=False)
    made = compiled(path, data)
    assert made.classes == [0, 1, 2]
    assert made.proof["largest_difference"] < 1e-5
    assert made.proof["rows_refused"] == 0


@pytest.mark.parametrize(
    ("estimator", "method", "classes"),
    [
        (LogisticRegression(max_iter=1000), "isotonic", 3),
        (LinearSVC(), "sigmoid", 2),
        (GradientBoostingClassifier(n_estimators=5, random_state=0), "sigmoid", 3),
        (HistGradientBoostingClassifier(max_iter=5), "isotonic", 2),
        (RandomForestClassifier(5, random_state=0), "isotonic", 3),
        (GaussianNB(), "sigmoid", 2),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, BaseEstimator) else None,
)
def test_calibrated_models_answer_alike(
    save: Save, tmp_path: Path, estimator: Any, method: str, classes: int
) -> None:
    features, target = irises()
    target = target.clip(upper=classes - 1)
    learn, calibrate = slice(0, None, 2), slice(1, None, 2)
    fitted = FrozenEstimator(clone(estimator).fit(features[learn], target[learn]))
    model = CalibratedClassifierCV(fitted, method=method, cv=2, ensemble=False)
    path = save(model.fit(features[calibrate], target[calibrate]), features)
    data = tmp_path / "irises.csv"
    features.to_csv(data, index=False)
    made = compiled(path, data)
    assert made.proof["largest_difference"] < 1e-9
    native, onnx = both(path)
    rows = np.random.default_rng(0).uniform(0, 8, (2000, 4)).tolist()
    assert difference(native.predict_rows(rows), onnx.predict_rows(rows)) < 1e-6


@pytest.mark.parametrize("estimator", [GaussianNB(), SVC()], ids=lambda one: type(one).__name__)
def test_models_that_calibrate_while_they_learn_answer_alike(
    save: Save, tmp_path: Path, estimator: Any
) -> None:
    features, target = irises()
    model = CalibratedClassifierCV(estimator, cv=3).fit(features, target)
    data = tmp_path / "irises.csv"
    features.to_csv(data, index=False)
    assert compiled(save(model, features), data).proof["largest_difference"] < 1e-6


def test_several_outputs_answer_alike(save: Save, tmp_path: Path) -> None:
    features, _ = irises()
    data = tmp_path / "irises.csv"
    features.to_csv(data, index=False)
    inputs, outputs = features.iloc[:, :2], features.iloc[:, 2:]
    for model in (LinearRegression(), RandomForestRegressor(5, random_state=0)):
        path = save(model.fit(inputs, outputs), inputs)
        assert compiled(path, data).proof["largest_difference"] < 1e-6
        native, onnx = both(path)
        sample = native.request_schema.model_validate(inputs.iloc[0].to_dict())
        assert native.answer([sample])[0].model_dump()["prediction"] == pytest.approx(
            onnx.answer([sample])[0].model_dump()["prediction"]
        )
        for file in sorted(path.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        path.rmdir()


@pytest.mark.parametrize(
    "model",
    [
        RandomForestClassifier(30, random_state=0),
        GradientBoostingClassifier(n_estimators=30, random_state=0),
        HistGradientBoostingClassifier(max_iter=15),
        RandomForestRegressor(30, random_state=0),
        GradientBoostingRegressor(n_estimators=30, random_state=0),
        HistGradientBoostingRegressor(max_iter=15),
        HistGradientBoostingRegressor(max_iter=15, loss="poisson"),
        DecisionTreeRegressor(random_state=0),
    ],
    ids=lambda model: type(model).__name__,
)
def test_trees_split_where_scikit_learn_does(save: Save, tmp_path: Path, model: Any) -> None:
    """Checks values at every threshold, and one step of either precision next to it."""
    features, target = irises()
    scaler = StandardScaler()
    path = save(make_pipeline(scaler, model).fit(features, target), features)
    data = tmp_path / "irises.csv"
    features.to_csv(data, index=False)
    compiled(path, data)
    native, onnx = both(path)

    thresholds = [
        np.sort(node["num_threshold" if hasattr(model, "_predictors") else "threshold"])
        for node in _trees(model)
    ]
    random = np.random.default_rng(0)
    some = random.choice(np.concatenate(thresholds), (4000, 4))
    some[1000:2000] = np.nextafter(some[1000:2000], np.inf)
    some[2000:3000] = np.nextafter(some[2000:3000].astype(np.float32), np.float32(np.inf))
    rows = some * scaler.scale_ + scaler.mean_
    rows[3000:] += random.normal(size=(1000, 4)) * 1e-7
    rows = np.concatenate([rows, np.nextafter(rows, -np.inf), np.nextafter(rows, np.inf)]).tolist()
    assert difference(native.predict_rows(rows), onnx.predict_rows(rows)) < 1e-6


def _trees(model: Any) -> list[np.ndarray]:
    if hasattr(model, "_predictors"):
        return [one.nodes for stage in model._predictors for one in stage]
    parts = np.ravel(getattr(model, "estimators_", [model]))
    return [part.tree_.__getstate__()["nodes"] for part in parts]


@pytest.mark.parametrize("labels", [["a", "b"], [3, 7], [True, False], [0, 1]])
@pytest.mark.parametrize(
    "model", [LogisticRegression(), SVC(), RandomForestClassifier(5, random_state=5)]
)
def test_labels_keep_their_type(save: Save, tmp_path: Path, model: Any, labels: list[Any]) -> None:
    frame = pd.DataFrame({"x": np.arange(60.0)})
    target = [labels[n > 29] for n in range(60)]
    path = save(model.fit(frame, target), frame)
    frame.to_csv(tmp_path / "x.csv", index=False)
    assert compiled(path, tmp_path / "x.csv").classes == sorted(labels)
    native, onnx = both(path)
    sample = native.request_schema.model_validate({"x": 50.0})
    one, other = native.answer([sample])[0].model_dump(), onnx.answer([sample])[0].model_dump()
    assert type(one["prediction"]) is type(other["prediction"])
    assert one.pop("probabilities", None) == pytest.approx(other.pop("probabilities", None))
    assert one == pytest.approx(other)


def test_what_the_model_refuses_the_compiled_form_refuses(save: Save, tmp_path: Path) -> None:
    features, target = irises()
    features.to_csv(tmp_path / "irises.csv", index=False)
    gaps = features.astype(object).mask(np.eye(*features.shape, dtype=bool)).astype(float)
    model = make_pipeline(StandardScaler(), GradientBoostingClassifier(n_estimators=5))
    path = tmp_path / "model"
    mlflow.sklearn.save_model(
        model.fit(features, target),
        path,
        serialization_format="cloudpickle",
        signature=infer_signature(gaps, target),  # declares that values may be missing
        pip_requirements=["scikit-learn"],
    )
    assert compiled(path, tmp_path / "irises.csv").proof["rows_refused"] > 100
    for served in both(path):
        for value in (None, 1e39):  # trees use single precision
            rows: list[Row] = [[1.0, 1.0, 1.0, 1.0], [value, 1.0, 1.0, 1.0]]
            with pytest.raises(RowError) as refused:
                served.predict_or_blame(rows)
            assert refused.value.index == 1


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (
            [FunctionTransformer(np.cbrt)],
            "FunctionTransformer calls cbrt, a function without a converter",
        ),
        (
            [OneHotEncoder(min_frequency=30, handle_unknown="infrequent_if_exist")],
            "OneHotEncoder groups infrequent categories",
        ),
        (
            [FeatureUnion([("a", StandardScaler())], transformer_weights={"a": 2})],
            "FeatureUnion has transformer_weights",
        ),
        (
            [HistGradientBoostingClassifier(max_iter=2, categorical_features=[0])],
            "HistGradientBoostingClassifier splits by categories itself",
        ),
        (
            [GradientBoostingClassifier(n_estimators=2, init=GaussianNB())],
            "GradientBoostingClassifier starts from a GaussianNB",
        ),
    ],
)
def test_what_does_not_convert_is_named(
    save: Save, tmp_path: Path, steps: list[Any], message: str
) -> None:
    features, target = irises()
    features = features.round()
    features.to_csv(tmp_path / "irises.csv", index=False)
    if hasattr(steps[-1], "transform"):
        steps = [*steps, LogisticRegression(max_iter=1000)]
    path = save(make_pipeline(*steps).fit(features, target), features)
    with pytest.raises(CompilationError) as error:
        compiled(path, tmp_path / "irises.csv")
    assert str(error.value).startswith(f"model {path} cannot be compiled: {message}")
    assert "\n" not in str(error.value)
    assert not (path / "compiled").exists()


@pytest.mark.parametrize(
    ("class_path", "message"),
    [
        ("kernel_ridge.KernelRidge", "there is no converter for sklearn.KernelRidge"),
        ("gaussian_process.GaussianProcessClassifier", "GaussianProcessClassifier cannot be"),
    ],
)
def test_estimators_without_converter_are_named(
    save: Save, tmp_path: Path, class_path: str, message: str
) -> None:
    features, target = irises()
    module, _, name = class_path.rpartition(".")
    estimator = getattr(pytest.importorskip(f"sklearn.{module}"), name)()
    path = save(estimator.fit(features, target), features)
    features.to_csv(tmp_path / "irises.csv", index=False)
    with pytest.raises(CompilationError, match=message) as error:
        compiled(path, tmp_path / "irises.csv")
    assert len(str(error.value)) < 400
    assert "\n" not in str(error.value)


def test_large_integer_categories_are_refused(save: Save, tmp_path: Path) -> None:
    frame = pd.DataFrame({"key": [2**53 + 1, 2**53 + 3] * 20, "x": np.arange(40.0)})
    encoder = ColumnTransformer([("key", OneHotEncoder(handle_unknown="ignore"), ["key"])])
    model = make_pipeline(encoder, LogisticRegression()).fit(frame, [0, 1] * 20)
    path = save(model, frame)
    frame.to_csv(tmp_path / "keys.csv", index=False)
    with pytest.raises(
        CompilationError, match="9007199254740993, which a double cannot hold exactly"
    ):
        compiled(path, tmp_path / "keys.csv")


def test_other_flavours_are_named(tmp_path: Path) -> None:
    import mlflow.pyfunc

    class Constant(mlflow.pyfunc.PythonModel):  # type: ignore[name-defined,misc]
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            return np.ones(len(model_input))

    features, _ = irises()
    path = tmp_path / "model"
    mlflow.pyfunc.save_model(
        path,
        python_model=Constant(),
        signature=infer_signature(features, np.ones(3)),
        pip_requirements=["numpy"],
    )
    with pytest.raises(CompilationError, match=r"has the flavours python_function; sklearn is"):
        compiled(path, tmp_path / "any.csv")


def test_a_compiled_form_that_answers_otherwise_is_not_stored(
    save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proof protects callers from a wrong conversion."""
    from serving.compilation import estimators

    features, target = irises()
    model = LogisticRegression(max_iter=1000).fit(features, target)
    path = save(model, features)
    features.to_csv(tmp_path / "irises.csv", index=False)
    convert = estimators._CONVERTERS[LogisticRegression]

    def wrong(graph: Any, estimator: Any, inputs: Any) -> Any:
        other = LogisticRegression(C=0.9, max_iter=1000).fit(features, target)
        return convert(graph, other, inputs)

    monkeypatch.setitem(estimators._CONVERTERS, LogisticRegression, wrong)
    with pytest.raises(
        CompilationError, match=r"for rows of the data the probabilities differ by 0\.\d+"
    ):
        compiled(path, tmp_path / "irises.csv")
    assert not (path / "compiled").exists()


def test_a_stale_compiled_form_is_noticed(save: Save, tmp_path: Path) -> None:
    features, target = irises()
    path = save(LogisticRegression(max_iter=1000).fit(features, target), features)
    features.to_csv(tmp_path / "irises.csv", index=False)
    compiled(path, tmp_path / "irises.csv")
    assert OnnxEngine(mlmodel.read(path)).classes == (0, 1, 2)
    graph = (path / "compiled/model.onnx").read_bytes()
    (path / "compiled/model.onnx").write_bytes(graph[:-1])
    with pytest.raises(
        ServingError, match=r"model.onnx is not the file that compiled.json describes"
    ):
        OnnxEngine(mlmodel.read(path))
    (path / "compiled/model.onnx").write_bytes(graph)
    single = features.astype("float32")
    set_signature(str(path), infer_signature(single, target))  # does not change the model's file
    served = load_model(settings_for(path, tmp_path))
    assert served.engine.name == "sklearn"
    assert "was made from another model" in str(served.not_compiled)
    set_signature(str(path), infer_signature(features, target))
    assert load_model(settings_for(path, tmp_path)).engine.name == "onnx"
    (path / "model.pkl").write_bytes(b"another")
    with pytest.raises(ServingError, match="was made from another model"):
        OnnxEngine(mlmodel.read(path))


@pytest.mark.parametrize("labels", [[0, 1], [0.0, 1.0]])
def test_probabilities_are_proven_whatever_the_labels_are(
    save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: list[Any]
) -> None:
    features, target = irises()
    known = np.array(labels)[(target > 0).astype(int)]
    path = save(LogisticRegression(max_iter=1000).fit(features, known), features)
    features.to_csv(tmp_path / "irises.csv", index=False)
    predict = OnnxEngine.predict

    def unsure(self: OnnxEngine, table: Any) -> Predictions:
        predictions = predict(self, table)
        assert predictions.probabilities is not None
        return replace(predictions, probabilities=np.full_like(predictions.probabilities, 0.5))

    monkeypatch.setattr(OnnxEngine, "predict", unsure)
    with pytest.raises(CompilationError, match="the probabilities differ by"):
        compiled(path, tmp_path / "irises.csv")


def test_no_text_is_taken_for_a_missing_one(save: Save, tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": ["x", "y", None, "x"] * 20})
    imputer = SimpleImputer(strategy="most_frequent")
    model = make_pipeline(imputer, OneHotEncoder(handle_unknown="ignore"), LogisticRegression())
    path = save(model.fit(frame, [0, 1, 0, 1] * 20), frame)
    frame.to_csv(tmp_path / "text.csv", index=False)
    compiled(path, tmp_path / "text.csv")
    native, onnx = both(path)
    for text in (None, "", "\uffff", "\uffff\uffff", "\0", "x\0"):
        assert difference(native.predict_rows([(text,)]), onnx.predict_rows([(text,)])) < 1e-12


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """One store for this module, because making one takes seconds."""
    directory = tmp_path_factory.mktemp("store")
    return Settings(mlflow=MLflowSettings(tracking_uri=f"sqlite:///{directory / 'mlflow.db'}"))


def with_compile(plan: Recipe) -> Recipe:
    content = plan.model_dump()
    return Recipe.model_validate(content | {"model": content["model"] | {"compile": True}})


def test_training_compiles_where_the_recipe_says_so(
    store: Settings, flowers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = recipe("sklearn.linear_model.LogisticRegression", {"max_iter": 1000})
    assert train(plan, store, flowers).compiled is None
    result = train(with_compile(plan), store, flowers)
    assert result.compiled is not None
    assert result.compiled.startswith("yes, ")
    serving = ServingSettings(model_run_id=result.run_id)
    served = load_model(store.model_copy(update={"serving": serving}))
    assert served.engine.name == "onnx"

    plan = recipe("sklearn.neighbors.NearestCentroid")
    result = train(with_compile(plan), store, flowers)
    assert result.compiled is not None
    assert result.compiled.startswith("no, model runs:/")
    serving = ServingSettings(model_run_id=result.run_id)
    assert load_model(store.model_copy(update={"serving": serving})).engine.name == "sklearn"


def test_the_proof_names_the_data_as_the_recipe_does(
    store: Settings, flowers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_DIRECTORY", str(flowers.parent))
    content = with_compile(recipe("sklearn.linear_model.LogisticRegression")).as_written()
    content["data"]["loader"] = {"source_uri": "${DATA_DIRECTORY}/flowers.csv"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    result = train(load_recipe(tmp_path / "recipe.yaml"), store)
    assert result.compiled is not None
    assert result.compiled.startswith("yes, ")
    serving = ServingSettings(model_run_id=result.run_id)
    settings = store.model_copy(update={"serving": serving})
    proof = load_model(settings).describe()["engine"]["proof"]
    assert proof["data"] == "${DATA_DIRECTORY}/flowers.csv"
    assert proof["compared"].startswith(f"{proof['rows_of_data']} rows of data and ")
    assert result.compiled == f"yes, {proof['compared']} get the same answers"

    monkeypatch.setenv("DATA_DIRECTORY", str(tmp_path))
    (tmp_path / "flowers.csv").write_text("petals\n1\n")
    with pytest.raises(DataError, match=r"^\${DATA_DIRECTORY}/flowers.csv: has no column"):
        compile_model(settings)
    monkeypatch.delenv("DATA_DIRECTORY")
    with pytest.raises(
        CompilationError, match=r"cannot be read: \${DATA_DIRECTORY}/flowers.csv: no such file"
    ):
        compile_model(settings)


def test_runs_and_registered_models_are_compiled_in_place(
    store: Settings, flowers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.chdir(tmp_path)
    plan = recipe("sklearn.linear_model.LogisticRegression", {"max_iter": 1000})
    result = train(plan, store, flowers)
    mlflow.set_tracking_uri(store.mlflow.tracking_uri)
    mlflow.register_model(f"models:/{result.model_id}", "flowers")
    for serving in (
        ServingSettings(model_run_id=result.run_id),
        ServingSettings(model_uri="models:/flowers/1"),
    ):
        settings = store.model_copy(update={"serving": serving})
        with pytest.raises(CompilationError, match="its recipe names none; give --data-path"):
            compile_model(settings)
        compile_model(settings, flowers)
        assert load_model(settings).engine.name == "onnx"


def test_the_command_prints_the_proof(
    flowers: Path, build: Callable[[Recipe], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = build(recipe("sklearn.linear_model.LogisticRegression", {"max_iter": 1000}))
    app(
        ["compile", "--model-uri", str(path), "--data-path", str(flowers), "-c", "/dev/null"],
        standalone_mode=False,
    )
    printed = capsys.readouterr().out
    assert "estimator: sklearn.linear_model._logistic.LogisticRegression" in printed
    assert f"data: {flowers}\ncompared: 150 rows of data and " in printed
    assert f"mmp serve-api --model-uri {path}" in printed


@pytest.mark.parametrize("scaler", [StandardScaler(), MinMaxScaler(), RobustScaler()])
def test_single_precision_is_kept(save: Save, tmp_path: Path, scaler: Any) -> None:
    features, target = irises()
    features = features.astype("float32")
    model = make_pipeline(SimpleImputer(), scaler, DecisionTreeRegressor(random_state=0))
    path = save(model.fit(features, target), features)
    features.to_csv(tmp_path / "irises.csv", index=False)
    assert compiled(path, tmp_path / "irises.csv").proof["largest_difference"] == 0


def test_rows_that_no_request_may_have_are_left_out(save: Save, tmp_path: Path) -> None:
    features, target = irises()
    path = save(LogisticRegression(max_iter=1000).fit(features, target), features)
    features.iloc[:10, 0] = None
    features.to_csv(tmp_path / "irises.csv", index=False)
    assert compiled(path, tmp_path / "irises.csv").proof["rows_of_data"] == 140


def test_pipelines_of_text_alone(save: Save, tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": ["x", "y", None, "z"] * 20, "b": ["p", "q"] * 40})
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan)
    model = Pipeline([("encode", encoder), ("model", HistGradientBoostingClassifier(max_iter=5))])
    path = save(model.fit(frame, ["u", "v", "w", "w"] * 20), frame)
    frame.to_csv(tmp_path / "text.csv", index=False)
    made = compiled(path, tmp_path / "text.csv")
    assert (made.numbers, made.texts) == ([], ["a", "b"])
    assert made.proof["largest_difference"] < 1e-12
