"""The frozen classifiers that score edits."""
