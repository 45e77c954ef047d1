"""`mmp schema`."""

import json

from serving.commands._options import ConfigPath, ModelUri, RunId, choose_model, settings_with
from serving.config.settings import DEFAULT_CONFIG


def run(
    run_id: RunId = None, model_uri: ModelUri = None, config_path: ConfigPath = DEFAULT_CONFIG
) -> None:
    """Print the OpenAPI document of a model's API; commit it to see changes in reviews."""
    choose_model(run_id, model_uri)
    settings = settings_with(config_path)
    # The document must not depend on whether an API key is set.
    serving = settings.serving.model_copy(update={"api_key": None})
    settings = settings.model_copy(update={"serving": serving})

    from serving.api.app import create_app
    from serving.model.loading import load_model

    app = create_app(settings)
    app.state.service.model = load_model(settings, hooks=app.state.service.hooks)
    print(json.dumps(app.openapi(), indent=2, ensure_ascii=False))
