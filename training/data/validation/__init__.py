"""Validation of raw data: rules, frames, runner and report."""
