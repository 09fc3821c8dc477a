"""Settings for all tests; the fixtures are in `plugins/`."""

import json
import os
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import settings

# Tiny networks are slower on many threads; set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Requests do not wait for a stopped server, except in tests that restart it.
os.environ.setdefault("S3_PATIENCE", "0")

HERE = Path(__file__).parent
DURATIONS = HERE / "durations.json"  # seconds of each file on two idle cores

pytest_plugins = [
    "toydata", "servers", "forks", "project", "releases", "steps", "browser", "voters",
    "kubeapi", "exports",
]  # fmt: skip

# No deadline: the duration of an example depends on the load of the machine.
settings.register_profile("project", deadline=None)
settings.load_profile("project")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--keep-durations", action="store_true", help=f"write {DURATIONS.name} from this run"
    )
    parser.addoption(
        "--keep-kernels", action="store_true", help="write engine/kernels.json from this run"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that took longest come first, so that the workers end together."""
    took = json.loads(DURATIONS.read_text())
    items.sort(key=lambda item: -took.get(file_of(item.nodeid), 0))  # stable: a file stays whole


def file_of(nodeid: str) -> str:
    """The test's file, below tests/ and without its suffix."""
    return nodeid.partition("::")[0].removeprefix("tests/").removesuffix(".py")


class Durations:
    """Sums the durations of each file's tests in all workers, with set-up and teardown."""

    def __init__(self) -> None:
        self.took: defaultdict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.took[file_of(report.nodeid)] += report.duration

    def pytest_sessionfinish(self) -> None:
        kept = json.loads(DURATIONS.read_text()) | {k: round(v) for k, v in self.took.items()}
        kept = {name: kept[name] for name in sorted(kept) if (HERE / f"{name}.py").is_file()}
        DURATIONS.write_text(f"{json.dumps(kept, indent=1)}\n")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--keep-durations") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Durations())
