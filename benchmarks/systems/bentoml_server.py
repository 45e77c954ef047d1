# /// script
# dependencies = ["bentoml==1.4.39", "cloudpickle==3.1.2"]
#
# [tool.bench]
# title = "BentoML"
# command = ["bentoml", "serve", "bentoml_server:{service}", "--working-dir", "{here}",
#   "--host", "127.0.0.1", "--port", "{port}"]
# path = "/predict"
# environment = {BENTOML_DO_NOT_TRACK = "true"}
# variants = [
#   {service = "Plain", answer = ["prediction"]},
#   {title = "BentoML, batchable", service = "Batchable", form = "rows", answer = [0]},
# ]
# ///
"""BentoML: a service with one worker, and one whose method takes the rows of many requests."""

import os
from pathlib import Path

import bentoml
import cloudpickle
import pandas as pd
from row import Row


class _Model:
    def __init__(self) -> None:
        self.pipeline = cloudpickle.loads(Path(os.environ["MODEL"], "model.pkl").read_bytes())


@bentoml.service(workers=1)
class Plain(_Model):
    """The row is the whole body."""

    @bentoml.api
    def predict(self, row: Row, /) -> dict[str, str]:
        [label] = self.pipeline.predict(pd.DataFrame([row.model_dump()]))
        return {"prediction": label}


@bentoml.service(workers=1)
class Batchable(_Model):
    """A request is a list of rows; BentoML batches the rows of several requests."""

    @bentoml.api(batchable=True)
    def predict(self, rows: list[Row]) -> list[str]:
        labels: list[str] = self.pipeline.predict(
            pd.DataFrame([row.model_dump() for row in rows])
        ).tolist()
        return labels
