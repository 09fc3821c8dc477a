"""Shared base of all packages: configuration, environment, files, progress, provenance."""
