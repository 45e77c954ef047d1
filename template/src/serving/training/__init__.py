"""From a recipe and a data file to a model in MLflow."""
