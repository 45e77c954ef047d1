# /// script
# dependencies = ["modern-ml-pipeline[serving]==1.5.0"]
#
# [tool.uv]
# # XGBoost's wheel requires CUDA's communication library, 300 MB, which is not used here.
# override-dependencies = ["nvidia-nccl-cu12 ; sys_platform == 'never'"]
#
# [tool.bench]
# title = "`modern-ml-pipeline` 1.5.0"
# prepare = ["python", "{file}", "{data}"]
# command = ["python", "{file}"]
# path = "/predict"
# answer = ["prediction"]
# own_model = true
# ///
"""The published package: it trains its own model, of the same kind and data, and serves it."""

import os
import subprocess
import sys
from pathlib import Path

CONFIG = """
environment: {name: local}
mlflow: {tracking_uri: "sqlite:///mlflow.db", experiment_name: benchmark}
data_source: {name: files, adapter_type: storage, config: {base_path: ./data}}
feature_store: {provider: none}
serving: {enabled: true}
output:
  inference: {name: out, enabled: true, adapter_type: storage, config: {base_path: ./artifacts}}
"""
RECIPE = """
name: tumours
task_choice: classification
data:
  loader: {source_uri: null}
  fetcher: {type: pass_through}
  data_interface:
    entity_columns: []
    target_column: diagnosis
    feature_columns: null
  split: {strategy: random, train: 0.7, validation: 0.15, test: 0.15}
preprocessor:
  steps:
    - {type: one_hot_encoder, columns: [mean_fractal_dimension], handle_unknown: ignore}
    - {type: standard_scaler}
model:
  class_path: sklearn.linear_model.LogisticRegression
  library: scikit-learn
  hyperparameters: {tuning_enabled: false, values: {max_iter: 1000}}
evaluation: {metrics: null, random_state: 42}
metadata: {author: someone, description: Kind of a tumour}
"""


def train(data: str) -> None:
    """Train with the package's own command and keep the run id."""
    Path("config.yaml").write_text(CONFIG)
    Path("recipe.yaml").write_text(RECIPE)
    command = ["mmp", "train", "-r", "recipe.yaml", "-c", "config.yaml", "-d", data]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    Path("run_id").write_text(done.stdout.partition("Run ID: ")[2].split()[0])


def serve() -> None:
    """Replace this process by the package's server."""
    run_id = Path("run_id").read_text()
    options = ["--run-id", run_id, "--host", "127.0.0.1", "--port", os.environ["PORT"]]
    os.execvp("mmp", ["mmp", "serve-api", "-c", "config.yaml", *options])


if __name__ == "__main__":
    if sys.argv[1:]:
        train(sys.argv[1])
    else:
        serve()
