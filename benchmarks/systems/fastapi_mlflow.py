# /// script
# dependencies = ["fastapi==0.165.0", "httptools==0.9.0", "mlflow==3.17.2", "uvicorn==0.54.0",
#   "uvloop==0.23.0"]
#
# [tool.bench]
# title = "FastAPI + MLflow, written by hand"
# command = ["uvicorn", "fastapi_mlflow:app", "--app-dir", "{here}", "--port", "{port}"]
# path = "/predict"
# answer = ["prediction"]
# ///
"""The application that most people write: a typed body, a frame of one row, `pyfunc.predict`."""

import os

import mlflow.pyfunc
import pandas as pd
from fastapi import FastAPI
from row import Row

app = FastAPI()
model = mlflow.pyfunc.load_model(os.environ["MODEL"])


@app.post("/predict")
def predict(row: Row) -> dict[str, str]:
    [label] = model.predict(pd.DataFrame([row.model_dump()]))
    return {"prediction": label}
