"""Run the steps in their images on this machine: kfp.local's DockerRunner, on docker or podman.

kfp 2.17.0 starts containers that remove themselves and treats a container that it can no longer
find as a success, so that a failed step passes (kubeflow/pipelines issue 13332). Here a container
is removed only after its exit code is known. An image must exist on this machine or be named by its
digest, because a short name in a public registry may belong to someone else.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from kfp import local

from components.images import TRAIN_IMAGE
from training.core import environment as variables

# Environment variables passed to the steps: addresses, credentials and switches.
NAMES = [
    variable.name
    for variable in (
        variables.STORE_URI, variables.NODE_CACHE, variables.DVC_REMOTE_URL, variables.DRAW_DEMO,
        variables.PIPELINE_RUN_ID, variables.SIGNING_PUBLIC_KEY, variables.OPENLINEAGE_URL,
        variables.OPENLINEAGE_ENDPOINT, variables.OPENLINEAGE_NAMESPACE,
        variables.OPENLINEAGE_API_KEY, variables.COLLECTIVE_TIMEOUT, variables.S3_PATIENCE,
        variables.OMP_NUM_THREADS,
    )
]  # fmt: skip
FAMILIES = ("AWS_", "MLFLOW_")
GRACE = 60  # s that a stopped step has to save its state
Follow = Callable[[Iterable[str]], None]


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """The variables in `given` that are passed to the steps."""
    return {k: v for k, v in given.items() if k in NAMES or k.startswith(FAMILIES)}


def runner(root: Path, raw: str = "") -> local.DockerRunner:
    """A runner that mounts the working folder's `runs`, `data` (read-only) and `raw` (read-only).

    Paths are the same inside. As on a cluster: a read-only root file system, no privileges; the
    user is `root`'s owner.
    """
    from docker.types import Mount

    root.mkdir(parents=True, exist_ok=True)
    folder, runs, owner = Path.cwd(), variables.runs().absolute(), root.stat()
    for new in (runs, root / "kfp"):
        if not new.exists():
            new.mkdir()
            os.chown(new, owner.st_uid, owner.st_gid)
    mounts = {root: False, runs: False, folder / "data": True}  # path -> read-only
    if raw and "://" not in raw:
        mounts.setdefault(Path(raw).resolve(), True)
    return local.DockerRunner(
        mounts=[
            Mount(str(path), str(path), type="bind", read_only=read_only)
            for path, read_only in mounts.items()
            if path.is_dir()
        ],
        working_dir=str(folder),
        environment=environment(variables.whole()),
        user=f"{owner.st_uid}:{owner.st_gid}",
        network_mode="host",  # the servers on loopback
        read_only=True,
        tmpfs={"/tmp": "mode=1777"},  # noqa: S108 - the container's own
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
    )


def find_or_pull(client: Any, image: str) -> Any:
    """The local image; one named by its digest is pulled. Raises ValueError if it is missing."""
    import docker

    try:
        return client.images.get(image)
    except docker.errors.ImageNotFound as error:
        if "@sha256:" not in image:
            raise ValueError(f"{image}: no such image on this machine; make image") from error
    return client.images.pull(image)


def described() -> str:
    """The training image as the lineage records it: its name and the id of the local image."""
    import docker

    client = docker.from_env()
    try:
        return f"{TRAIN_IMAGE} {find_or_pull(client, TRAIN_IMAGE).id}"
    finally:
        client.close()


def run_in(follow: Follow) -> Callable[..., int]:
    """A replacement of kfp's `run_docker_container`; `follow` gets the output's lines."""

    def run(
        client: Any, image: str, command: list[str], volumes: dict[str, Any], **settings: Any
    ) -> int:
        settings["environment"] = environment(variables.whole()) | settings.get("environment", {})
        container = client.containers.run(
            image=find_or_pull(client, image).id,
            command=command,
            volumes=volumes,
            detach=True,
            **settings,
        )
        try:
            follow(_lines(container.logs(stream=True, follow=True)))
            return int(container.wait()["StatusCode"])
        except BaseException:
            container.stop(timeout=GRACE)
            raise
        finally:
            container.remove(force=True)

    return run


def _lines(pieces: Iterable[bytes]) -> Iterable[str]:
    """Complete lines of a stream of pieces of any length."""
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from (f"{line.decode(errors='replace')}\n" for line in lines)
    if rest:
        yield f"{rest.decode(errors='replace')}\n"
