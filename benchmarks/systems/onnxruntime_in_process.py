# /// script
# dependencies = ["numpy==2.4.6", "onnxruntime==1.32.0"]
#
# [tool.bench]
# title = "ONNX Runtime in process, no HTTP"
# kind = "ceiling"
# command = ["python", "{file}", "{data}", "{seconds}"]
# compiled = true
# ///
"""The compiled model called from Python, one row at a time: no server can be faster."""

import json
import os
import sys
from itertools import cycle
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import onnxruntime


def main(data: Path, seconds: float) -> None:
    """Call it for a number of seconds and print the result as the load generator does."""
    directory = Path(os.environ["MODEL"], "compiled")
    compiled = json.loads((directory / "compiled.json").read_text())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        directory / "model.onnx", options, providers=["CPUExecutionProvider"]
    )
    content: Any = json.loads((data / "rows.json").read_text())
    feeds = []
    for texts in content["rows"]:
        row = dict(
            zip(content["columns"], (json.loads(t.replace("#", "0")) for t in texts), strict=True)
        )
        feed = {
            "numbers": np.array([[row[name] for name in compiled["numbers"]]]),
            "texts": np.array([[row[name] for name in compiled["texts"]]], dtype=object),
        }
        feeds.append(feed)
    labels = json.loads((data / "labels.json").read_text())
    for feed, label in zip(feeds, labels, strict=False):
        if compiled["classes"][session.run(["label"], feed)[0][0]] != label:
            sys.exit("its prediction is not the pipeline's")

    times = []
    rows = cycle(feeds)
    end = perf_counter() + seconds
    while (started := perf_counter()) < end:
        session.run(None, next(rows))
        times.append((perf_counter() - started) * 1000)
    times.sort()
    at = {
        name: times[int(len(times) * q)] for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
    }
    count = {"answered": len(times), "per_second": len(times) / seconds, "worst": times[-1]}
    print(json.dumps({"mode": "closed", "clients": 1, "seconds": seconds, **at, **count}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
