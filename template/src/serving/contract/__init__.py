"""What a request and an answer are: columns, recipe, schemas."""
