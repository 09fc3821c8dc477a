"""Runs, metrics and pictures in MLflow."""
