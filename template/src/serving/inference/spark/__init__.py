"""Batch prediction on Spark, when one machine is not enough."""
