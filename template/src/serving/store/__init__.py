"""Models as MLflow stores them."""
