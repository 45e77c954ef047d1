"""Keys of the metadata that training logs with a model, so that they travel with it."""

RECIPE = "recipe"
ENTITY_TYPES = "entity_types"
REQUEST_EXAMPLE = "request_example"
TRAINING_PROFILE = "training_profile"
