"""Register a logged model, and let an alias name the new version."""

from typing import Any

from serving.contract.recipe import Registration


def register(registration: Registration, model_id: str, run_id: str, client: Any) -> str:
    """Create the next version of the registered model, and then move the alias to it.

    Args:
        registration: the name and the alias.
        model_id: the logged model.
        run_id: the run that logged it.
        client: MLflow's client.

    Returns the version's number. Raises `MlflowException`.
    """
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(registration.name)
    except MlflowException as exc:
        if exc.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    version = client.create_model_version(
        registration.name, f"models:/{model_id}", run_id=run_id, model_id=model_id
    ).version
    if registration.alias:
        client.set_registered_model_alias(registration.name, registration.alias, version)
    return str(version)
