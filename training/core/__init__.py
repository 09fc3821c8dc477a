"""What every room stands on: configuration, environment, files, progress, provenance."""
