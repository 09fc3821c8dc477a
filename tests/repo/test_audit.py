"""`make audit`: a known flaw is a failure, a database that does not answer is said."""

import json
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines import audit

ROOT = Path(__file__).parents[2]
FLAW = {"id": "PYSEC-2024-1", "fix_versions": ["1.2"], "aliases": [], "description": ""}
CLEAN = {"name": "a", "version": "1.0", "vulns": []}
UNKNOWN = {"name": "b", "skip_reason": "Dependency not found on PyPI"}


@pytest.fixture
def program(tmp_path: Path) -> Any:
    """In place of the Python with pip-audit; that one's JSON is of version 2.10.1."""

    def make(stdout: str = "", stderr: str = "", status: int = 0) -> Path:
        path = tmp_path / "pip-audit"
        path.write_text(
            f"#!{sys.executable}\nimport sys\nsys.stdout.write({stdout!r})\n"
            f"sys.stderr.write({stderr!r})\nsys.exit({status})\n"
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    return make


def packages(*found: dict[str, Any]) -> str:
    return json.dumps({"dependencies": found, "fixes": []})


def test_a_known_flaw_fails_with_its_package_and_fix(program: Any) -> None:
    found = packages({"name": "a", "version": "1.0", "vulns": [FLAW]}, UNKNOWN)
    with pytest.raises(ValueError, match=r"a 1\.0: PYSEC-2024-1, fixed in 1\.2"):
        audit.audit(program(found, status=1), "torch==2.13.0")


def test_packages_that_were_not_looked_up_are_named(program: Any) -> None:
    said = audit.audit(program(packages(CLEAN, UNKNOWN)), "torch==2.13.0")
    assert said == "3 packages have no known flaw; 3 not looked up: b, b, b"


def test_the_torch_of_the_training_images_base_is_looked_up_too(tmp_path: Path) -> None:
    """In place of pip-audit: a program that knows a flaw of that version only."""
    containerfile = (ROOT / "components" / "Containerfile").read_text()
    (version,) = re.findall(r"^ARG TRAIN_BASE_IMAGE=\S+?:([\d.]+)-", containerfile, re.MULTILINE)
    program = tmp_path / "pip-audit"
    program.write_text(
        f"#!{sys.executable}\nimport json, sys\nfrom pathlib import Path\n"
        "name, _, version = Path(sys.argv[-1]).read_text().split()[0].partition('==')\n"
        f"flaws = [{FLAW!r}] if (name, version) == ('torch', {version!r}) else []\n"
        "found = [{'name': name, 'version': version, 'vulns': flaws}]\n"
        "print(json.dumps({'dependencies': found, 'fixes': []}))\n"
    )
    program.chmod(0o755)
    with pytest.raises(ValueError, match=rf"1 known flaws:\ntorch {re.escape(version)}: PYSEC"):
        audit.audit(program, "torch==9.9")


def test_nothing_looked_up_is_skipped_not_passed(program: Any) -> None:
    assert audit.audit(program(packages(UNKNOWN)), "torch==2.13.0").startswith("skipped: ")


def test_a_database_that_does_not_answer_is_skipped_with_the_reason(program: Any) -> None:
    error = "urllib3.exceptions.NameResolutionError: Failed to resolve 'pypi.org'"
    said = audit.audit(program(stderr=error, status=1), "torch==2.13.0")
    assert said.startswith("skipped: the database of known flaws does not answer: ")
    assert "pypi.org" in said


def test_any_other_failure_is_one(program: Any) -> None:
    with pytest.raises(ValueError, match="does not contain a hash"):
        audit.audit(program(stderr="requirement x does not contain a hash", status=1), "torch==1")


def test_the_tool_is_pinned_with_hashes() -> None:
    for name in ("pip", "audit"):
        lock = (ROOT / f"requirements-{name}.lock").read_text()
        pins = [line for line in lock.splitlines() if "==" in line]
        assert pins
        assert all(line.endswith("\\") for line in pins)
    makefile = (ROOT / "Makefile").read_text()
    assert "--require-hashes -r requirements-pip.lock" in makefile
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "audit" in listed.stdout
