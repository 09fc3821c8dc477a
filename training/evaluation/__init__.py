"""Evaluation of models: scores, distances, diversity, verification, pictures."""
