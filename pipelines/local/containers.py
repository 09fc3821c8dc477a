"""The steps in their images on this machine: kfp.local's DockerRunner, on docker or podman.

kfp 2.17.0 starts containers that remove themselves and takes one that it can no longer find for a
success, so that a failed step passes (kubeflow/pipelines issue 13332). Here a container is removed
by us, after its exit code is known. An image must lie on this machine or be named by its digest:
anybody may own a short name in a public registry.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from kfp import local

from components.images import TRAIN_IMAGE
from training.core import environment as variables

# What the steps read from the environment: addresses, credentials and switches.
NAMES = [
    variable.name
    for variable in (
        variables.STORE_URI, variables.NODE_CACHE, variables.DVC_REMOTE_URL, variables.DRAW_DEMO,
        variables.PIPELINE_RUN_ID,
    )
]  # fmt: skip
FAMILIES = ("AWS_", "MLFLOW_")
GRACE = 60  # s that a stopped step has to save its work
Follow = Callable[[Iterable[str]], None]


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """The part of `given` that the steps may see."""
    return {k: v for k, v in given.items() if k in NAMES or k.startswith(FAMILIES)}


def runner(root: Path, raw: str = "") -> local.DockerRunner:
    """Steps with the working folder's `runs` and `data`, and `raw` to read, at their own paths.

    As on a cluster: no root file system to write to, no privileges, the user of `root`'s owner.
    """
    from docker.types import Mount

    root.mkdir(parents=True, exist_ok=True)
    folder, runs, owner = Path.cwd(), variables.runs().absolute(), root.stat()
    for made in (runs, root / "kfp"):
        if not made.exists():
            made.mkdir()
            os.chown(made, owner.st_uid, owner.st_gid)
    places = {root: False, runs: False, folder / "data": True}
    if raw and "://" not in raw:
        places.setdefault(Path(raw).resolve(), True)
    return local.DockerRunner(
        mounts=[
            Mount(str(place), str(place), type="bind", read_only=fixed)
            for place, fixed in places.items()
            if place.is_dir()
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
    """The image on this machine; one named by its digest is pulled. Else raises ValueError."""
    import docker

    try:
        return client.images.get(image)
    except docker.errors.ImageNotFound as error:
        if "@sha256:" not in image:
            raise ValueError(f"{image}: no such image on this machine; make image") from error
    return client.images.pull(image)


def described() -> str:
    """What the lineage says of the training image: its name and the id of what lies here."""
    import docker

    client = docker.from_env()
    try:
        return f"{TRAIN_IMAGE} {find_or_pull(client, TRAIN_IMAGE).id}"
    finally:
        client.close()


def run_in(follow: Follow) -> Callable[..., int]:
    """What takes the place of kfp's `run_docker_container`; `follow` takes the output's lines."""

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
    """Whole lines of a stream that comes in pieces of any length."""
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from (f"{line.decode(errors='replace')}\n" for line in lines)
    if rest:
        yield f"{rest.decode(errors='replace')}\n"
