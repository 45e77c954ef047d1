"""Predict files."""
