"""Kubernetes: training jobs and their monitoring."""
