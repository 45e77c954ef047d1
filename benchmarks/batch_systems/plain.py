# /// script
# dependencies = ["pyarrow==25.0.1"]
#
# [tool.bench]
# title = "plain script"
# command = ["python", "{file}", "{model}", "{input}", "{output}"]
# inputs = ["parquet", "csv", "wide"]
# is_yardstick = true
# ///
"""The script that most people write: pandas and scikit-learn, with the whole table in memory."""

import pickle
import sys
from pathlib import Path

import pandas as pd

model, source, target = sys.argv[1:]
pipeline = pickle.loads(Path(model, "model.pkl").read_bytes())
rows = pd.read_csv(source) if source.endswith(".csv") else pd.read_parquet(source)
answers = rows.assign(prediction=pipeline.predict(rows))
probabilities = pipeline.predict_proba(rows)
for index, name in enumerate(pipeline.classes_):
    answers[f"probability_{name}"] = probabilities[:, index]
if target.endswith(".csv"):
    answers.to_csv(target, index=False)
else:
    answers.to_parquet(target, index=False)
