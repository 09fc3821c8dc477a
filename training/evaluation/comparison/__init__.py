"""Several models on one page."""
