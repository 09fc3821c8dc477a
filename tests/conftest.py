"""What holds for every test; the fixtures are in `plugins/`."""

import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings

# Tiny networks are slower on many threads; set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A server that a test has stopped is not waited for, but where the test starts it again.
os.environ.setdefault("S3_PATIENCE", "0")

pytest_plugins = ["toydata", "servers", "project"]

# How long one example takes says how busy the machine is, not whether the code is right.
settings.register_profile("project", deadline=None)
settings.load_profile("project")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, the shortest last: two workers then end together."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    tests = Counter(item.path for item in items)

    def rank(item: pytest.Item) -> tuple[bool, bool, int, Path]:
        path = item.path
        return not path.name.startswith("test_whole"), path not in slow, -tests[path], path

    items.sort(key=rank)
