"""Versions of how things are judged; part of every score's fingerprint. Imports nothing heavy."""

# How the judges are built and trained: raise it with any change that gives other weights.
JUDGE_RECIPE = "2"
# How edits are scored: raise it with any change that gives other numbers for the same pictures.
PROTOCOL = "4"
