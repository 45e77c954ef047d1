"""Batch inference: predict files and queries."""
