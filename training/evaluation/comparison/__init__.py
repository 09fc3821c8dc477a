"""Comparison of several models on one page."""
