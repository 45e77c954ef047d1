# /// script
# dependencies = ["cloudpickle==3.1.2", "litserve==0.2.19"]
#
# [tool.bench]
# title = "LitServe"
# command = ["python", "{file}", "{batch}"]
# path = "/predict"
# answer = ["prediction"]
# variants = [{batch = "1"}, {title = "LitServe, batched", batch = "64"}]
# ///
"""LitServe with one worker; when batching, it waits 2 ms for more requests."""

import os
import sys
from pathlib import Path
from typing import Any

import cloudpickle
import litserve
import pandas as pd


class API(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.pipeline = cloudpickle.loads(Path(os.environ["MODEL"], "model.pkl").read_bytes())

    def decode_request(self, request: dict[str, Any]) -> dict[str, Any]:
        return request

    def predict(self, rows: Any) -> list[str]:
        frame = pd.DataFrame(rows if isinstance(rows, list) else [rows])
        labels: list[str] = self.pipeline.predict(frame).tolist()
        return labels

    def encode_response(self, output: list[str] | str) -> dict[str, str]:
        return {"prediction": output if isinstance(output, str) else output[0]}


if __name__ == "__main__":
    size = int(sys.argv[1])
    api = API(max_batch_size=size, batch_timeout=0.002) if size > 1 else API()
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(os.environ["PORT"]), generate_client_file=False)
