"""The training loop and what it needs: checkpoints, resume, processes, telemetry."""
