"""Inference: load weights, parse label requests, and edit part of a picture."""
