"""Batch inference on Spark, when one machine is not enough."""
