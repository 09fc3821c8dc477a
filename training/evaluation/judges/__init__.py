"""The frozen classifiers by which edits are scored."""
