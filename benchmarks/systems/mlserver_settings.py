"""Write MLServer's settings files into the working directory, and execute its command."""

import json
import os
import socket
from pathlib import Path


def start(implementation: str, uri: str) -> None:
    """Serve the model at `uri` on the port of the environment."""
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
    ):
        others = [one.getsockname()[1], two.getsockname()[1]]
    settings = {
        "debug": False,
        "host": "127.0.0.1",
        "http_port": int(os.environ["PORT"]),
        "grpc_port": others[0],
        "metrics_port": others[1],
    }
    model = {"name": "model", "implementation": implementation, "parameters": {"uri": uri}}
    Path("settings.json").write_text(json.dumps(settings))
    Path("model-settings.json").write_text(json.dumps(model))
    os.execvp("mlserver", ["mlserver", "start", "."])
