"""Run the pipeline on this machine: steps as processes or containers, with a cache."""
