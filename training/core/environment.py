"""What the environment says: addresses, secrets and switches."""

import os
import socket
import uuid


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def new_launch() -> str:
    """A name for a launch: where it began, and what tells it from all others."""
    return f"{socket.gethostname()}-{uuid.uuid4().hex[:12]}"
