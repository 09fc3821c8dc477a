"""The suite itself: how `make test` hands tests to its workers."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_tests_of_a_file_run_in_one_worker(tmp_path: Path) -> None:
    """So that its fixtures are built once."""
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    for name in ("test_a", "test_b"):
        (tmp_path / f"{name}.py").write_text(
            "import pytest\n@pytest.mark.parametrize('i', range(8))\ndef test(i): pass\n"
        )
    command = re.search(r"^PYTEST = \$\(BIN\)/python -m pytest (.*)$",
                        (ROOT / "Makefile").read_text(), re.MULTILINE)  # fmt: skip
    assert command
    run = [sys.executable, "-m", "pytest", *command[1].split(), "-v", "-p", "no:cacheprovider"]
    out = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    placed = set(re.findall(r"\[(gw\d)\].* PASSED (\w+)\.py", out))
    assert sorted(file for _, file in placed) == ["test_a", "test_b"]
