"""Print samples of the penguins with the model's own answers: known_answers.py MODEL CSV."""

import json
import sys

import mlflow.sklearn
import pandas as pd

if __name__ == "__main__":
    pipeline = mlflow.sklearn.load_model(sys.argv[1])
    table = pd.read_csv(sys.argv[2]).dropna().sample(60, random_state=1)
    labels = pipeline.predict(table)
    samples = table.drop(columns=["species", "year"]).to_dict("records")
    known = [
        {"sample": sample, "label": str(label)}
        for sample, label in zip(samples, labels, strict=True)
    ]
    print(json.dumps(known))
