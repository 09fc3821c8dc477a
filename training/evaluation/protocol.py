"""Versions of judges and scoring; part of every score's fingerprint. Imports nothing heavy."""

# How the judges are built and trained: raise it with every change of the resulting weights.
JUDGE_RECIPE = "2"
# How edits are scored: raise it with every change of the scores of the same images.
PROTOCOL = "6"
