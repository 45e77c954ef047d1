"""Log models without this project, as other people do; run with a rendered project's Python.

python foreign_models.py DIRECTORY
"""

import sys
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import mlflow.sklearn
import pandas as pd
from mlflow.models import ModelSignature, infer_signature
from mlflow.types import ColSpec, Schema
from sklearn.cluster import KMeans
from sklearn.datasets import load_diabetes, load_iris, load_linnerud
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


class Quantiles(mlflow.pyfunc.PythonModel):
    """A model with an input column of every type and several named outputs."""

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        middle = model_input["binary"].map(len) + model_input["integer"].astype(float)
        return pd.DataFrame(
            {
                "q10": middle - 1,
                "q50": middle,
                "when": model_input["date time"],
                "large": middle > 3,
                "copy": model_input["binary"],
            }
        )


QUANTILES = ModelSignature(
    inputs=Schema(
        [
            ColSpec("binary", "binary"),
            ColSpec("integer", "integer"),
            ColSpec("datetime", "date time"),
            ColSpec("boolean", "is-true", required=False),
            ColSpec("long", "2nd.number", required=False),
            ColSpec("string", "model_config", required=False),
            ColSpec("float", "class", required=False),
            ColSpec("double", "_숫자"),
        ]
    ),
    outputs=Schema(
        [
            ColSpec("double", "q10"),
            ColSpec("double", "q50"),
            ColSpec("datetime", "when"),
            ColSpec("boolean", "large"),
            ColSpec("binary", "copy"),
        ]
    ),
)


def main(directory: Path) -> None:
    """Save one model of each kind."""

    def save(name: str, model: Any, features: Any) -> None:
        mlflow.sklearn.save_model(
            model,
            directory / name,
            serialization_format="cloudpickle",
            signature=infer_signature(features, model.predict(features)),
            input_example=features.head(2),
            pip_requirements=["scikit-learn"],
        )

    features, target = load_iris(return_X_y=True, as_frame=True)
    save(
        "classes",
        make_pipeline(StandardScaler(), LogisticRegression()).fit(features, target),
        features,
    )
    features, target = load_diabetes(return_X_y=True, as_frame=True)
    save("forest", RandomForestRegressor(20, random_state=0).fit(features, target), features)
    features, target = load_linnerud(return_X_y=True, as_frame=True)
    save("outputs", LinearRegression().fit(features, target), features)
    save("clusters", KMeans(3, n_init=3, random_state=0).fit(features), features)
    mlflow.pyfunc.save_model(
        directory / "quantiles", python_model=Quantiles(), signature=QUANTILES, pip_requirements=[]
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
