"""Runs and the model registry: the only code that touches MLflow."""
