"""What holds for every test; the fixtures are in `plugins/`."""

import json
import os
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import settings

# Tiny networks are slower on many threads; set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A server that a test has stopped is not waited for, but where the test starts it again.
os.environ.setdefault("S3_PATIENCE", "0")

HERE = Path(__file__).parent
DURATIONS = HERE / "durations.json"  # seconds of each file on two quiet cores

pytest_plugins = ["toydata", "servers", "forks", "project"]

# How long one example takes says how busy the machine is, not whether the code is right.
settings.register_profile("project", deadline=None)
settings.load_profile("project")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--keep-durations", action="store_true", help=f"write {DURATIONS.name} from this run"
    )


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file is a group of tests that one worker runs; the groups that took longest come first.

    Two workers then end together. Modules that share a server name their group themselves.
    """
    groups: dict[str, list[pytest.Item]] = {}
    for item in items:
        if not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(file_of(item.nodeid)))
        marker = item.get_closest_marker("xdist_group")
        assert marker
        groups.setdefault(marker.args[0], []).append(item)
    took = json.loads(DURATIONS.read_text())

    def seconds(group: str) -> float:
        return sum(took.get(name, 0) for name in {file_of(item.nodeid) for item in groups[group]})

    items[:] = [item for name in sorted(groups, key=seconds, reverse=True) for item in groups[name]]


def file_of(nodeid: str) -> str:
    """The test's file, below tests/ and without its suffix."""
    return nodeid.partition("::")[0].removeprefix("tests/").removesuffix(".py")


class Durations:
    """Sums what the tests of a file took, in all workers, set-up and teardown included."""

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
