"""Batch prediction: predict files."""
