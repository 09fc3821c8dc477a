"""Library: a file here is a program (a verb), a folder is a package (a noun)."""

from training.core import environment

# OpenMP reads these when torch is loaded, so they must be set before any module imports torch.
environment.put_waiting()
