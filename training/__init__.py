"""Library: a file here is a program (a verb), a folder is a package (a noun)."""

from training.core import environment

# OpenMP reads it when torch is loaded, so it must be set before any module imports torch.
environment.put_default(OMP_WAIT_POLICY=environment.OMP_WAIT_POLICY.default)
