"""The life of a server: loading and retrying, limits, adaptive batching, draining."""
