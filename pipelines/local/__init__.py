"""The pipeline on this machine: steps as processes or containers, cached."""
