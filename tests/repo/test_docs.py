"""The commands and files that README and the documentation name exist."""

import importlib
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
from training.models import MODELS, configure

ROOT = next(path for path in Path(__file__).parents if (path / "pyproject.toml").is_file())
# Pages under docs/reference are made from docstrings when the site is built.
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if "docs/reference/" not in path.as_posix()
}
TOPS = "benchmarks|components|docs|k8s|pipelines|tests|training"
# The overlay that people make themselves.
OWN = ("k8s/overlays/mine/",)
each = pytest.mark.parametrize("page", PAGES)


def blocks(page: str) -> str:
    """The page's blocks of commands, with continued lines joined."""
    found = re.findall(r"^```\w*\n(.*?)^```$", PAGES[page], re.DOTALL | re.MULTILINE)
    return "".join(found).replace("\\\n", " ")


def commands(page: str, program: str) -> list[list[str]]:
    """The words of every line in the page's blocks of commands that begins with `program`."""
    lines = [part.strip() for line in blocks(page).splitlines() for part in line.split("&&")]
    return [shlex.split(line, comments=True) for line in lines if line.startswith(f"{program} ")]


def test_the_pages_are_there() -> None:
    """Without pages, every test of the pages would pass."""
    wanted = {"README.md", "docs/tutorial.md", "docs/operate.md", "docs/compare.md"}
    wanted |= {f"docs/models/{name}.md" for name in ("index", *MODELS)}
    names = ("cluster", "compare", "configure", "fine-tune", "own-data", "use-a-model")
    wanted |= {f"docs/how-to/{name}.md" for name in names}
    assert wanted - PAGES.keys() == set()


@each
def test_every_make_target_is_in_the_makefile(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`|\$\(|&& )make (?:-s )?([a-z-]+)", PAGES[page], re.MULTILINE))
    assert named - targets == set()
    if page == "README.md":
        assert {"demo", "test", "image"} <= named


@each
def test_every_path_that_is_named_exists(page: str) -> None:
    named = re.findall(rf"(?<![\w/.-])(?:{TOPS})/[\w./-]*\w", PAGES[page])
    missing = [path for path in named if not (ROOT / path).exists()]
    assert [path for path in missing if not path.startswith(OWN)] == []


@each
def test_every_link_leads_to_a_page_and_a_heading(page: str) -> None:
    """Links are relative to their page; a heading's anchor is its words joined by hyphens."""
    for link in re.findall(r"\]\(([^):]+)\)", PAGES[page]):
        path, _, anchor = link.partition("#")
        target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        if target.is_relative_to(ROOT / "docs/reference"):
            continue
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings]
            assert anchor in slugs, link


@each
def test_every_test_file_that_is_named_exists(page: str) -> None:
    files = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    assert set(re.findall(r"\btest_\w+\.py", PAGES[page])) - files == set()


@each
def test_every_program_that_is_named_is_a_module(page: str) -> None:
    named = set(re.findall(r"python -m ((?:pipelines|training)[\w.]*)", PAGES[page]))
    for name in named:
        found = importlib.util.find_spec(name)
        assert found, name
        if found.submodule_search_locations:
            assert importlib.util.find_spec(f"{name}.__main__"), name


def test_every_documented_option_is_one_of_its_program(capsys: pytest.CaptureFixture[str]) -> None:
    """According to the help of the program and its subcommand; torchrun's options are excluded."""
    lines = [words for page in PAGES for words in commands(page, "python") if words[1] == "-m"]
    asked = {(words[2], word, words[3] if words[3:] else "") for words in lines
             for word in words[3:] if re.fullmatch(r"--(?!help$)[a-z-]+", word)}  # fmt: skip
    assert len(asked) > 10
    helps: dict[tuple[str, str], str] = {}
    for module, option, first in sorted(asked):
        key = (module, first if re.fullmatch(r"[a-z-]+", first) else "")
        if key not in helps:
            helps[key] = help_of(module, [key[1]] if key[1] else [], capsys)
        assert re.search(rf"{option}\b", helps[key]), f"{module} {first} {option}"


def help_of(module: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """A program's --help output, and that of its subcommand if `words` name one."""
    path = importlib.util.find_spec(module)
    name = f"{module}.__main__" if path and path.submodule_search_locations else module
    main = importlib.import_module(name).main
    texts = []
    for arguments in (["--help"], [*words, "--help"]):
        main(arguments)
        texts.append(capsys.readouterr().out)
    return "".join(texts)


@pytest.mark.parametrize(
    "module", ["pipelines", "pipelines.local.stack", "training.data", "training.release"]
)
def test_a_program_tells_how_it_is_called(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert f"python -m {module}" in done.stdout


@each
def test_every_documented_run_has_parameters_that_are_known(page: str) -> None:
    lines = commands(page, "python")
    runs = [words[4:] for words in lines if words[1:3] == ["-m", "pipelines"]
            and words[3] in ("run", "submit")]  # fmt: skip
    for words in runs:
        pairs = [word for word in words if re.match(r"[a-z][\w.]*=", word)]
        parse(pairs, compiled.parameters())
    if page == "README.md":
        assert len(runs) > 5


def _photos(folder: Path) -> Path:
    """Two classes of pictures, by their names: no pixel is read."""
    for name in ("summer", "winter"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(40):
            (folder / name / f"{number}.jpg").touch()
    return folder


def test_every_documented_comparison_can_be_planned(tmp_path: Path) -> None:
    """In blocks and in tables; minutes, which would be measured, are replaced by images."""
    text = "".join(PAGES.values())
    found = set(re.findall(r"(?:`|pipelines )compare ((?:[a-z][\w.]*=[^\s`]+ ?)+)", text))
    assert len(found) > 6
    for pairs in found:
        given = dict(pair.split("=", 1) for pair in pairs.split() if "…" not in pair)
        given.pop("minutes", None)
        if "raw" in given:  # a folder of the reader's
            given["raw"] = str(_photos(tmp_path / "photos"))
        assert planned({**given, "images": "64"}, tmp_path), pairs


@pytest.mark.parametrize("model", MODELS)
def test_every_preset_is_on_its_models_page(model: str) -> None:
    """With its image size, its length and its batch."""
    rows = re.findall(r"^\| (`.*)$", PAGES[f"docs/models/{model}.md"], re.MULTILINE)
    for (name, preset), config in configure.PRESETS.items():
        if name == model:
            row = next((row for row in rows if f"`{preset}`" in row.split("|")[0]), "")
            cells = [cell.strip() for cell in row.split("|")]
            assert row, preset
            assert f"{config.train.images:,}" == cells[2], preset
            assert str(config.data.size) in cells[3].split(", "), preset
            assert str(config.train.batch) == cells[4], preset


def test_the_code_that_a_page_quotes_is_the_examples() -> None:
    """Functions on the page are those of the file, word for word."""
    file = (ROOT / "docs/examples/use_a_model.py").read_text()
    page = PAGES["docs/how-to/use-a-model.md"]
    code = next(b for b in re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
                if b.startswith("def "))  # fmt: skip
    parts = code.split("\n\n\n")
    assert len(parts) == 2
    for part in parts:
        assert part.strip() in file
