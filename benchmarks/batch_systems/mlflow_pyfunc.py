# /// script
# dependencies = ["mlflow==3.17.2"]
#
# [tool.bench]
# key = "mlflow-pyfunc"
# title = "`mlflow.pyfunc`"
# command = ["python", "{file}", "{model}", "{input}", "{output}"]
# inputs = ["parquet", "wide"]
# ///
"""MLflow's generic model, called once with the whole table."""

import sys

import mlflow.pyfunc
import pandas as pd

model, source, target = sys.argv[1:]
rows = pd.read_parquet(source)
predictions = mlflow.pyfunc.load_model(model).predict(rows)
rows.assign(prediction=predictions).to_parquet(target, index=False)
