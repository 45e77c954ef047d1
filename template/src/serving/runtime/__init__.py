"""The life cycle of a server: loading and retrying, limits, adaptive batching, draining."""
