"""What a model can do: scores, distances, diversity, verification, pictures."""
