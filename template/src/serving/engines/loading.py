"""Choose the engine of a model and load it."""

from collections.abc import Callable
from dataclasses import dataclass

from serving import extensions
from serving.config.settings import EngineChoice, Settings
from serving.engines.base import Engine
from serving.engines.modern_ml_pipeline import ModernMLPipelineEngine, is_modern_ml_pipeline
from serving.engines.onnx import NotCompiledError, OnnxEngine
from serving.engines.pyfunc import PyfuncEngine
from serving.engines.sklearn import SklearnEngine, is_plain
from serving.errors import ContractError, ExtensionError, ModelLoadError
from serving.store import tracking
from serving.store.environment import Library, check_libraries
from serving.store.mlmodel import StoredModel


@dataclass(frozen=True)
class LoadedEngine:
    """An engine with its model."""

    engine: Engine
    not_compiled: str | None = None
    """Why the model runs natively although the compiled form was allowed."""


def load_engine(
    stored: StoredModel, settings: Settings, choice: EngineChoice, libraries: tuple[Library, ...]
) -> LoadedEngine:
    """Load a model with the engine that suits it.

    Args:
        stored: the model.
        settings: which versions of libraries are allowed, and where MLflow keeps its runs.
        choice: `onnx` for the compiled form only, `native` for the model itself, `auto` for the
            compiled form if there is one.
        libraries: what the model was trained with.

    An engine of the user's own comes before the others.

    Raises `ContractError` if the chosen engine cannot be used here, and `ModelLoadError` if no
    engine supports the model's flavours.
    """
    if choice != "onnx" and (own := _own_engine(stored)):
        return LoadedEngine(own)
    not_compiled = None
    if choice != "native":
        try:
            return LoadedEngine(OnnxEngine(stored))
        except NotCompiledError as exc:
            if choice == "onnx":
                raise ContractError(f"engine onnx: {exc}") from exc.__cause__
            not_compiled = str(exc)
    if not settings.serving.allow_other_versions:
        check_libraries(libraries)
    try:
        return LoadedEngine(_native_engine(stored, settings), not_compiled)
    except ModuleNotFoundError as exc:
        raise ContractError(
            f"it needs the Python module '{exc.name}', which is not installed here; "
            "add its package: uv add --group native PACKAGE"
        ) from exc


def own_loader() -> Callable[[StoredModel], Engine | None] | None:
    """The function `load_engine` of `custom/engines.py`; None if there is no such module.

    Raises `ExtensionError` if the module cannot be imported or has no such function.
    """
    module = extensions.load("engines")
    return extensions.function(module, "load_engine") if module else None


def _own_engine(stored: StoredModel) -> Engine | None:
    """The engine that `custom/engines.py` returns; None if it leaves the model to the others."""
    load = own_loader()
    if load is None:
        return None
    with extensions.blame("load_engine fails", load):
        engine = load(stored)
    if engine is not None and not isinstance(engine, Engine):
        where = extensions.location(load)
        raise ExtensionError(f"{where}: load_engine must return a serving.engines.base.Engine")
    return engine


def _native_engine(stored: StoredModel, settings: Settings) -> Engine:
    if stored.is_sklearn and is_plain(stored):
        return SklearnEngine(stored)
    tracking.connect(settings)
    if is_modern_ml_pipeline(stored):
        return ModernMLPipelineEngine(stored)
    if stored.is_sklearn:
        return SklearnEngine(stored)
    if "python_function" in stored.flavors:
        return PyfuncEngine(stored)
    raise ModelLoadError(
        f"the model has the flavours {', '.join(stored.flavors) or 'none'}; "
        "sklearn or python_function is needed"
    )
