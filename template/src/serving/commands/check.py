"""`mmp check`."""

from serving.commands._options import ConfigPath, ModelUri, RunId, choose_model, settings_with
from serving.config.settings import DEFAULT_CONFIG


def run(
    run_id: RunId = None, model_uri: ModelUri = None, config_path: ConfigPath = DEFAULT_CONFIG
) -> None:
    """Load a model like the server, check its contract, and show its inputs and outputs.

    If the model cannot be served, prints the reason and exits with status 2.
    """
    choose_model(run_id, model_uri)
    settings = settings_with(config_path)

    from serving.contract.schema import HISTORY, label_name
    from serving.model.hooks import PredictionHooks
    from serving.model.loading import load_model
    from serving.redaction import redact

    model = load_model(settings, hooks=PredictionHooks.load(settings))
    engine = model.engine.describe()
    proof = engine.get("proof")
    print(f"model: {redact(model.uri)}")
    print(f"model_id: {model.model_id}")
    print(f"model_version: {model.version or '-'}")
    print(f"task: {model.schemas.task or '-'}")
    print(f"engine: {engine['name']} ({engine.get('estimator') or engine['loader']})")
    if proof:
        print(f"compiled: yes, {proof['compared']} get the same answers")
    elif model.not_compiled:
        print(f"compiled: no, {model.not_compiled}")
    print("columns:")
    if count := len(model.schemas.history):
        print(f"  {HISTORY}: history, {count} numbers, the oldest first")
    for column in model.schemas.columns:
        if column.name in model.schemas.history:
            continue
        optional = "" if column.required else ", may be missing"
        print(f"  {column.name}: {model.schemas.role(column)}, {column.type}{optional}")
    print("answers:")
    for output in model.schemas.signature.outputs if model.schemas.signature else ():
        print(f"  {output.name or 'prediction'}: {output.type}")
    if model.engine.classes:
        print(f"  probabilities: {', '.join(map(label_name, model.engine.classes))}")
    for detail in model.engine.details:
        keys = ", ".join(map(str, detail.labels or ()))
        print(f"  {detail.name}: {keys or 'double'}")
    for library in model.libraries:
        if library.problem:
            print(f"warning: {library.problem}")
    if not model.schemas.example:
        print("warning: the model has no input example, so it was not asked to predict")
