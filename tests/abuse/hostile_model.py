"""Log a model that does what its only column says: python hostile_model.py DIRECTORY."""

import sys
import time
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema


class Hostile(mlflow.pyfunc.PythonModel):
    """Answers 1, raises, never returns, or leaks memory."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        for text in model_input["wish"]:
            wish, _, secret = text.partition(" ")
            match wish:
                case "hang":
                    time.sleep(3600)
                case "leak":
                    self.kept.append(np.ones(12_500_000))  # 100 MB
                case "stop":
                    raise StopIteration(secret)
                case "exit":
                    raise SystemExit(secret)
                case "interrupt":
                    raise KeyboardInterrupt(secret)
                case "time":
                    raise TimeoutError(secret)
        return np.ones(len(model_input))


if __name__ == "__main__":
    mlflow.pyfunc.save_model(
        Path(sys.argv[1]),
        python_model=Hostile(),
        signature=ModelSignature(
            inputs=Schema([ColSpec("string", "wish")]), outputs=Schema([ColSpec("double", None)])
        ),
        pip_requirements=["mlflow-skinny"],
    )
