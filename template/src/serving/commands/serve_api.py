"""`mmp serve-api`."""

from typing import Annotated

import typer

from serving.commands._options import (
    ConfigPath,
    ModelUri,
    RunId,
    choose_model,
    settings_with,
)
from serving.config.settings import DEFAULT_CONFIG, EngineChoice


def run(
    run_id: RunId = None,
    model_uri: ModelUri = None,
    config_path: ConfigPath = DEFAULT_CONFIG,
    engine: Annotated[
        EngineChoice | None,
        typer.Option(
            help="The compiled model (onnx), the model itself (native), or the compiled one if "
            "there is one (auto).  [env var: ENGINE]"
        ),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.  [env var: HOST]")] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port to listen on.  [env var: PORT]")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Server processes.  [env var: WORKERS]")
    ] = None,
) -> None:
    """Serve a model over HTTP.

    POST /predict takes one sample; /docs names every column and its type.
    """
    choose_model(run_id, model_uri)
    settings = settings_with(config_path, ENGINE=engine, HOST=host, PORT=port, WORKERS=workers)

    from serving.api.server import serve

    serve(settings)
