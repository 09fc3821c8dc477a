"""Storage: the content-addressed store, S3 objects, and the DVC remote."""
