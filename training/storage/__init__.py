"""Where bytes are kept: the content-addressed store, S3, and DVC's remote."""
