"""A served model: loading it, checking its contract, answering."""
