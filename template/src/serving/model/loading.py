"""Load a model from MLflow and check its contract."""

from serving.config.settings import EngineChoice, Settings
from serving.contract.metadata import ENTITY_TYPES, RECIPE, REQUEST_EXAMPLE, TRAINING_PROFILE
from serving.contract.schema import APISchemaGenerator
from serving.engines.loading import load_engine
from serving.errors import ContractError, ExtensionError, ModelLoadError, ModelNotFound
from serving.model.hooks import PredictionHooks
from serving.model.served import ServedModel
from serving.redaction import first_line, redact
from serving.store import mlmodel
from serving.store.environment import libraries_of
from serving.store.finding import find_model


def load_model(
    settings: Settings,
    engine: EngineChoice | None = None,
    hooks: PredictionHooks | None = None,
) -> ServedModel:
    """Load the model that the settings name, check its contract and warm it up.

    Args:
        settings: which model, from where.
        engine: which engine runs it, instead of the one that the settings name.
        hooks: the user's code before and after the model.

    Raises `ModelNotFound` if the store has no such model, `ModelLoadError` if it cannot be found
    or loaded for another reason, `ContractError` if its recipe and its signature do not agree, and
    `ExtensionError` if the user's own code fails; each message is one sentence.
    """
    uri = settings.serving.model
    store = settings.mlflow.tracking_uri
    source = f" from {redact(store)}" if ":" in uri else ""
    try:
        return _load(settings, engine or settings.serving.engine, hooks)
    except (ExtensionError, ModelNotFound):
        raise
    except ContractError as exc:
        why = f": {first_line(exc.__cause__, uri)}" if exc.__cause__ else ""
        raise ContractError(f"model {redact(uri)}: {exc}{why}") from exc
    except Exception as exc:
        reason = first_line(exc, uri, store)
        if "registered artifact repository" in reason:
            reason = (
                f"MLflow does not support {uri.partition(':')[0]}: addresses; write "
                "models:/NAME@ALIAS, models:/NAME/VERSION or runs:/RUN_ID/model"
            )
        raise ModelLoadError(f"cannot load the model {redact(uri)}{source}: {reason}") from exc


def _load(settings: Settings, choice: EngineChoice, hooks: PredictionHooks | None) -> ServedModel:
    found = find_model(settings)
    stored = mlmodel.read(found.path)
    libraries = libraries_of(found.path)
    loaded = load_engine(stored, settings, choice, libraries)
    engine = loaded.engine
    logged = engine.metadata(stored)
    # A run's directory may name a registered model that somebody has downloaded it as.
    is_runs = found.uri.startswith(("runs:/", "models:/m-"))
    model = ServedModel(
        uri=found.uri,
        path=found.path,
        model_id=stored.identity,
        run_id=stored.run_id,
        version=found.version or (None if is_runs else stored.version),
        schemas=APISchemaGenerator(
            logged.get(RECIPE),
            engine.signature(stored),
            entity_types=logged.get(ENTITY_TYPES),
            example=logged.get(REQUEST_EXAMPLE),
            input_example=stored.example,
            classes=engine.classes,
            details=engine.details,
            profile=logged.get(TRAINING_PROFILE),
            unknown_fields=settings.serving.unknown_fields,
            max_batch_rows=settings.serving.max_batch_rows,
            request_fields=hooks.request_fields if hooks else None,
            response_fields=hooks.response_fields if hooks else None,
        ),
        engine=engine,
        hooks=hooks,
        not_compiled=loaded.not_compiled,
        libraries=libraries,
        files=found.files,
    )
    model.warm_up()
    return model
