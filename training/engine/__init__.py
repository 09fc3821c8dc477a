"""The training loop: checkpoints, resume, distributed processes, telemetry."""
