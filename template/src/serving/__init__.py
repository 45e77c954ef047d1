"""A machine-learning model behind a typed HTTP API."""
