"""MLflow tracking: runs, metrics and pictures."""
