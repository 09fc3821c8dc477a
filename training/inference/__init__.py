"""A trained model in use: weights, label requests, editing within a picture."""
