"""Each step in its image: built here, run by kfp's DockerRunner on podman, from the same YAML."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.images import STEPS_IMAGE, TRAIN_IMAGE
from pipelines.local import containers

ROOT = Path(__file__).parents[2]
BASE = "localhost/stargan-base:bookworm"
TRAIN_BASE = "localhost/stargan-torch:bookworm"  # replaces the CUDA image
IMAGES = pytest.mark.parametrize("image", [STEPS_IMAGE, TRAIN_IMAGE])
USER = 10001  # the images' own
SHORT = ["preset=smoke", "raw=raw/celeba", "data.size=32", "d_repeat_num=4", "train.images=96",
         "decay_images=32", "warmup_images=32", "log_images=32", "sample_images=96",
         "checkpoint_images=96", "judge.images=128"]  # fmt: skip
pytestmark = [pytest.mark.container, pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which docker's clients use podman; the images are built."""
    if os.getuid() or not shutil.which("podman"):
        pytest.skip("podman and root are needed: apt-get install podman buildah runc debootstrap")
    folder = tmp_path_factory.mktemp("podman")
    environment = {
        **os.environ,
        "CONTAINERS_CONF": str(ROOT / ".ci" / "containers.conf"),
        "DOCKER_HOST": f"unix://{folder}/podman.sock",
        "BUILDER": "podman",
        "BASE_IMAGE": BASE,
        "TRAIN_BASE_IMAGE": TRAIN_BASE,
        "TORCH_INDEX_URL": os.environ.get("TORCH_INDEX_URL", ""),  # PyTorch's may be out of reach
        "BUILD_FLAGS": "--isolation chroot --network host --pull=never --layers "
        "--ulimit nofile=20000:20000",
    }
    build(environment, ".ci/base", BASE)

    def train() -> None:
        build(environment, ".ci/base", TRAIN_BASE, BASE)
        build(environment, "components/image.sh", "train", TRAIN_IMAGE)

    with ThreadPoolExecutor(2) as pool:  # pip keeps one core busy
        other = pool.submit(train)
        build(environment, "components/image.sh", "steps", STEPS_IMAGE)
        other.result()
    service = subprocess.Popen(
        ["podman", "system", "service", "--time=0", environment["DOCKER_HOST"]],
        env=environment, start_new_session=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    end = time.monotonic() + 30
    while not (folder / "podman.sock").exists() and time.monotonic() < end:
        time.sleep(0.1)
    yield environment
    service.terminate()
    service.wait(30)


def build(environment: dict[str, str], *command: str) -> None:
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]


def inspect(environment: dict[str, str], image: str) -> dict[str, Any]:
    command = ["podman", "image", "inspect", image]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return dict(json.loads(out.stdout)[0])


def inside(
    environment: dict[str, str], image: str, *command: str, flags: tuple[str, ...] = ()
) -> str:
    """The output of a command in the image, with a read-only root and a writable /tmp."""
    line = ["podman", "run", "--rm", "--read-only", "--tmpfs", "/tmp", *flags, image]
    done = subprocess.run([*line, *command], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@IMAGES
def test_the_image_is_labelled_and_runs_without_root(podman: dict[str, str], image: str) -> None:
    found = inspect(podman, image)["Config"]
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    assert found["Labels"]["SOURCE_REVISION"].removesuffix("-dirty") == head.stdout.strip()
    assert found["User"] == f"{USER}:{USER}"
    assert "training.train" in inside(podman, image, "python", "-m", "training.train", "--help")
    assert inside(podman, image, "id", "-u").strip() == str(USER)


@IMAGES
def test_the_image_has_the_code_and_the_packages_of_the_lock(
    podman: dict[str, str], image: str
) -> None:
    """The code hash equals that of the clone."""
    from training.core.provenance import code_hash, lock_hash

    code = "from training.core.provenance import *; print(code_hash(), lock_hash(), *git_state())"
    output = inside(podman, image, "python", "-c", code).split()
    assert output[:2] == [code_hash(), lock_hash()]
    names = inside(podman, image, "python", "-m", "pip", "list", "--format=freeze")
    assert "kfp==2.17.0" in names
    assert "torch==2." in names
    assert not [tool for tool in ("pytest==", "ruff==", "mypy==") if tool in names]


@IMAGES
def test_the_size_of_an_image_is_told_with_its_base(
    podman: dict[str, str], image: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """On Debian with CPU builds of torch neither reaches 3 GB; a base with CUDA alone does."""
    base = {STEPS_IMAGE: BASE, TRAIN_IMAGE: TRAIN_BASE}[image]
    sizes = {name: inspect(podman, name)["Size"] for name in (image, base)}
    with capsys.disabled():
        said = ", ".join(f"{name} {size / 1e9:.2f} GB" for name, size in sizes.items())
        print(f"\nimage and base: {said}")
    assert sizes[base] < sizes[image] < 3e9


def test_the_steps_image_has_no_cuda(podman: dict[str, str]) -> None:
    """Nothing in it computes on a GPU, and CUDA's libraries have gigabytes.

    The lock's nvidia-ml-py only reads a GPU's counters, in 0.3 MB.
    """
    found = inside(podman, STEPS_IMAGE, "python", "-m", "pip", "list", "--format=freeze").split()
    names = {line.partition("==")[0].replace("_", "-") for line in found}
    cuda = {name for name in names if name.startswith(("nvidia-", "triton"))}
    assert cuda - {"nvidia-ml-py"} == set()


def test_the_image_can_render_a_trainjob(podman: dict[str, str]) -> None:
    """From its template, wherever the step runs."""
    code = (
        "from training.trainjob import *;"
        "print(manifest(Request('{}', 'stargan', '{}', '{}'), Shape(nodes=3), [])['kind'])"
    )
    output = inside(podman, TRAIN_IMAGE, "python", "-c", code, flags=("-w", "/tmp"))
    assert output.split() == ["TrainJob"]


@IMAGES
def test_no_compiler_and_no_cache_is_left(podman: dict[str, str], image: str) -> None:
    script = "command -v gcc cc make git; ls -A /root/.cache /tmp /mnt 2>/dev/null; true"
    left = inside(podman, image, "sh", "-c", script, flags=("--user", "0"))
    assert not [line for line in left.split() if line not in ("/tmp:", "/mnt:")], left


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory, drawn: Path) -> Path:
    """A working folder that belongs to the images' user, with faces."""
    folder = tmp_path_factory.mktemp("workdir")
    shutil.copytree(drawn, folder / "raw" / "celeba")
    (folder / "runs").mkdir()
    os.chown(folder / "runs", USER, USER)
    return folder


@pytest.fixture(scope="module")
def output(podman: dict[str, str], workdir: Path, start_pipeline: Callable[..., str]) -> str:
    """What the whole pipeline prints in containers; its files are in the workdir."""
    return start_pipeline(workdir, "--containers", *SHORT, environment=podman)


def test_the_whole_pipeline_runs_in_containers(workdir: Path, output: str) -> None:
    """As the images' user, on a read-only root; the lineage names the image by its id."""
    assert "stargan 1 (new)" in output
    (trained,) = workdir.glob("runs/kfp/*/train/out")
    assert trained.stat().st_uid == USER
    (log,) = workdir.glob("runs/report/*/train.log")
    assert "96/96 images" in log.read_text()
    record = next(workdir.glob("runs/kfp/*/register/out")).read_text()
    assert json.loads(record)["created"] is True


@pytest.mark.usefixtures("output")
def test_the_training_image_runs_a_job(podman: dict[str, str], workdir: Path) -> None:
    """As in the TrainJob's template: one process trains the request in the store."""
    from training.core.config import to_json
    from training.models.configure import resolve

    config = resolve("stargan", "smoke", {
        "images": 32, "decay_images": 8, "warmup_images": 8, "checkpoint_images": 16,
        "log_images": 16, "sample_images": 32, "d_repeat_num": 4,
    })  # fmt: skip
    (dataset,) = workdir.glob("runs/kfp/*/unify-labels/out")
    runs = workdir / "runs"  # what is above it belongs to root
    flags = ("--volume", f"{runs}:{runs}", "--env", f"STORE_URI=file://{runs}/store",
             "--env", "MLFLOW_TRACKING_URI=off")  # fmt: skip
    given = (dataset.read_text(), "stargan", to_json(config.model), to_json(config.train))
    name = inside(podman, TRAIN_IMAGE, "python", "-c", ASK, *given, flags=flags).strip()
    job = yaml.safe_load((ROOT / "k8s" / "jobs" / "trainjob.yaml").read_text())
    output = inside(
        podman, TRAIN_IMAGE, *job["spec"]["trainer"]["command"], "run", name, flags=flags
    )
    assert "32/32 images" in output
    made = runs / "store" / "refs" / "jobs" / name / "model"
    assert json.loads(made.read_text())["kind"] == "model"
    assert made.stat().st_uid == USER


ASK = """
import sys
from dataclasses import asdict
from training.core.files import canonical_json
from training.storage.store import open_store
from training.trainjob import Request
request = Request(*sys.argv[1:])
open_store().refer(f"jobs/{request.name}/request", canonical_json(asdict(request)).decode())
print(request.name)
"""


def test_a_failing_step_fails_the_run(
    podman: dict[str, str], workdir: Path, start_pipeline: Callable[..., str]
) -> None:
    """kfp's own runner treats a container that it cannot find as a success."""
    table = workdir / "raw" / "celeba" / "list_attr_celeba.txt"
    kept = table.read_text()
    table.write_text(kept.replace(" -1", "  7", 1))
    try:
        output = start_pipeline(workdir, "--containers", *SHORT, code=1, environment=podman)
    finally:
        table.write_text(kept)
    assert "step validate failed" in output
    assert "preprocess" not in output


def test_a_missing_image_is_not_pulled(
    podman: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short name may belong to someone else in a public registry."""
    import docker

    monkeypatch.setenv("DOCKER_HOST", podman["DOCKER_HOST"])
    client = docker.from_env()
    with pytest.raises(ValueError, match=r"no such image on this machine; make image"):
        containers.find_or_pull(client, "stargan-nowhere:9")
    client.close()
