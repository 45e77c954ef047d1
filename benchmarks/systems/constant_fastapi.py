# /// script
# dependencies = ["fastapi==0.165.0", "httptools==0.9.0", "uvicorn==0.54.0", "uvloop==0.23.0"]
#
# [tool.bench]
# title = "FastAPI, typed body, constant answer"
# kind = "ceiling"
# command = ["uvicorn", "constant_fastapi:app", "--app-dir", "{here}", "--port", "{port}",
#   "--loop", "uvloop", "--http", "httptools", "--no-access-log"]
# path = "/predict"
# ///
"""FastAPI without a model: it checks the types of the body and gives a constant answer."""

from fastapi import FastAPI
from row import Row

app = FastAPI()


@app.post("/predict")
async def predict(row: Row) -> dict[str, str]:
    return {"prediction": "benign"}
