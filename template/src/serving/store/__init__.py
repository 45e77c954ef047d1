"""A model as MLflow keeps it."""
