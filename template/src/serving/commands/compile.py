"""`mmp compile`."""

from serving.commands._next import serve_command
from serving.commands._options import (
    ConfigPath,
    DataPath,
    ModelUri,
    RunId,
    choose_model,
    settings_with,
)
from serving.config.settings import DEFAULT_CONFIG


def run(
    run_id: RunId = None,
    model_uri: ModelUri = None,
    config_path: ConfigPath = DEFAULT_CONFIG,
    data_path: DataPath = None,
) -> None:
    """Convert a model to ONNX, which answers faster.

    Checks on data that the answers stay the same, and stores the result with the model.
    """
    choose_model(run_id, model_uri)
    settings = settings_with(config_path)

    from serving.compilation.compiler import compile_model
    from serving.redaction import redact

    compiled = compile_model(settings, data_path)
    proof = compiled.proof
    print(f"estimator: {compiled.estimator}")
    print(f"data: {proof['data']}")
    print(f"compared: {compiled.compared}")
    print(f"largest difference: {proof['largest_difference']:.1e}")
    serving = settings.serving
    command = serve_command(
        config_path=config_path,
        run_id=serving.model_run_id,
        model_uri=redact(serving.model),
    )
    print(f"\nNext: {command}")
