"""Kubernetes: training jobs, and watching them."""
