"""The data of the benchmark: run with a rendered project's Python.

python data.py make DIRECTORY COLUMNS   writes data.csv, recipe.yaml and rows.json
python data.py label DIRECTORY MODEL    writes labels.json: the pipeline's own answers

The table has ten columns of real data, the means of scikit-learn's breast cancer set: nine are
numbers, the tenth is in words. Wider tables repeat these ten columns with noise.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer

GROUP = 10
ROWS = 4096
CHECKED = 32
"""How many answers of a system are compared with the pipeline's own before it is measured."""
WORDS = ("low", "medium", "high", "extreme")
LAP = "#####"  # see load.py

RECIPE = """name: tumours
task_choice: classification
data:
  loader: {source_uri: data.csv}
  data_interface: {target_column: diagnosis}
preprocessor:
  steps:
    - {type: one_hot_encoder}
    - {type: standard_scaler}
model:
  class_path: sklearn.linear_model.LogisticRegression
  hyperparameters:
    values: {max_iter: 1000}
"""


def make(directory: Path, columns: int) -> None:
    """Write the training data, the recipe, and rows that the model has not seen."""
    data = load_breast_cancer(as_frame=True)
    means = data.data.iloc[:, :GROUP].rename(columns=lambda name: name.replace(" ", "_"))
    random = np.random.default_rng(0)
    table = _widen(means, columns // GROUP, random)
    diagnosis = data.target.map(lambda target: str(data.target_names[target]))
    directory.mkdir(parents=True, exist_ok=True)
    table.assign(diagnosis=diagnosis).to_csv(directory / "data.csv", index=False)
    (directory / "recipe.yaml").write_text(RECIPE)

    again = means.iloc[random.integers(len(means), size=ROWS)].reset_index(drop=True)
    noisy = again * random.normal(1, 0.05, again.shape)
    # Each value as JSON; the first has room for the mark that makes a request unique.
    texts = _widen(noisy, columns // GROUP, random).map(json.dumps)
    texts.iloc[:, 0] = noisy.iloc[:, 0].map(lambda value: f"{value:.4f}{LAP}")
    rows = {"columns": list(texts.columns), "rows": texts.to_numpy().tolist()}
    (directory / "rows.json").write_text(json.dumps(rows))


def _widen(means: pd.DataFrame, times: int, random: np.random.Generator) -> pd.DataFrame:
    """Groups of nine numbers and a word: the first unchanged, the others with noise."""
    groups = []
    for index in range(times):
        group = means
        if index:
            noise = random.normal(0, 0.5, means.shape) * means.std().to_numpy()
            group = (means + noise).rename(columns=lambda name, n=index: f"{name}_{n + 1}")
        *_, last = group.columns
        words = pd.qcut(group[last], len(WORDS), labels=list(WORDS)).astype(str)
        groups.append(group.round(6).assign(**{last: words}))
    return pd.concat(groups, axis=1)


def label(directory: Path, model: str) -> None:
    """Write the answers of the logged pipeline, called directly, for the first rows."""
    import mlflow.sklearn

    content: Any = json.loads((directory / "rows.json").read_text())
    values = [
        [json.loads(text.replace(LAP, "00000")) for text in row]
        for row in content["rows"][:CHECKED]
    ]
    pipeline = mlflow.sklearn.load_model(model)
    labels = pipeline.predict(pd.DataFrame(values, columns=content["columns"])).tolist()
    (directory / "labels.json").write_text(json.dumps(labels))


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        label(Path(sys.argv[2]), sys.argv[3])
