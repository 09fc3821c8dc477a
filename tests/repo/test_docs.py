"""What README and guide tell people to type, and which files they name, is there."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import compiled
from pipelines.arguments import parse
from pipelines.compare import planned
from training.models import presets

ROOT = Path(__file__).parents[2]
FILES = ("README.md", "docs/operate.md", "docs/compare.md")
PAGES = {Path(name).name: (ROOT / name).read_text() for name in FILES}
TOPS = "benchmarks|components|docs|k8s|pipelines|tests|training"
each = pytest.mark.parametrize("page", ["README.md", "operate.md"])


def commands(page: str, program: str) -> list[list[str]]:
    """The words of every line in the page's blocks of commands that begins with `program`."""
    blocks = re.findall(r"^```\w*\n(.*?)^```$", PAGES[page], re.DOTALL | re.MULTILINE)
    text = "".join(blocks).replace("\\\n", " ")
    lines = [part.strip() for line in text.splitlines() for part in line.split("&&")]
    return [shlex.split(line, comments=True) for line in lines if line.startswith(f"{program} ")]


@each
def test_every_make_target_is_in_the_makefile(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`|\$\(|&& )make (?:-s )?([a-z-]+)", PAGES[page], re.MULTILINE))
    assert {"demo", "image"} <= named
    assert named <= targets


@each
def test_every_path_that_is_named_exists(page: str) -> None:
    """But for the overlay that people make themselves."""
    named = re.findall(rf"(?<![\w/])(?:{TOPS})/[\w./-]*\w", PAGES[page])
    links = re.findall(r"\]\(([^):]+)\)", PAGES[page])
    assert len(named) + len(links) > 3
    missing = [path for path in {*named, *links} if not (ROOT / path).exists()]
    assert [path for path in missing if not path.startswith("k8s/overlays/mine/")] == []


@each
def test_every_program_that_is_named_is_a_module(page: str) -> None:
    named = set(re.findall(r"python -m ((?:pipelines|training)[\w.]*)", PAGES[page]))
    assert named
    for name in named:
        found = importlib.util.find_spec(name)
        assert found, name
        if found.submodule_search_locations:
            assert importlib.util.find_spec(f"{name}.__main__"), name


@pytest.mark.parametrize(
    "module", ["pipelines", "pipelines.local.stack", "training.data", "training.release"]
)
def test_a_program_tells_how_it_is_called(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert f"python -m {module}" in done.stdout


def test_every_documented_run_has_parameters_that_are_known() -> None:
    lines = [words for page in PAGES for words in commands(page, "python")]
    runs = [words[4:] for words in lines if words[1:3] == ["-m", "pipelines"]
            and words[3] in ("run", "submit")]  # fmt: skip
    assert len(runs) > 10
    for words in runs:
        pairs = [word for word in words if re.match(r"[a-z][\w.]*=", word)]
        parse(pairs, compiled.parameters())


def test_every_documented_comparison_can_be_planned(tmp_path: Path) -> None:
    """In blocks and in tables; minutes would be measured, images stand for them."""
    text = PAGES["README.md"] + PAGES["compare.md"]
    found = re.findall(r"(?:`|pipelines )compare ((?:[a-z]\w*=[^\s`]+ ?)+)", text)
    assert len(found) > 6
    for pairs in found:
        given = dict(pair.split("=", 1) for pair in pairs.split() if "…" not in pair)
        given.pop("minutes", None)
        assert planned({**given, "images": "64"}, tmp_path), pairs


def test_every_preset_of_a_paper_is_documented() -> None:
    """By model and name, beside the demo and the smoke test that every model has."""
    for model, preset in presets.PRESETS:
        if preset not in ("demo", "smoke"):
            assert f"`{preset}`" in PAGES["compare.md"] + PAGES["README.md"], (model, preset)
