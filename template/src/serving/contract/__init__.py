"""The contract of requests and responses: columns, recipe, schemas."""
