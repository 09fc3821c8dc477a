"""Software bill of materials of each image: runs/sbom-steps.json, runs/sbom-train.json (CycloneDX).

    python -m pipelines.sbom runs torch==2.13.0

The packages and their hashes are those of requirements.lock; licences and dependencies come from
the metadata of this environment's packages. Operating system packages are not listed: the base
images' publishers list them.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

from training.core import cli
from training.core.cli import means
from training.core.files import write_json

main = cli.program("python -m pipelines.sbom", __doc__)
BASE = re.compile(r"^ARG TRAIN_BASE_IMAGE=(\S+?:([\d.]+)\S*)$", re.MULTILINE)
Bom = dict[str, Any]


def _tool(command: str, *arguments: str, text: str = "") -> Bom:
    """CycloneDX's own tool. Raises ValueError with its message."""
    tool = [sys.executable, "-m", "cyclonedx_py", command, "--pyproject", "pyproject.toml"]
    done = subprocess.run(
        [*tool, *arguments], input=text, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise ValueError(f"cyclonedx-py {command}: {done.stderr.strip()[-1000:]}")
    return dict(json.loads(done.stdout))


def name(component: Bom) -> str:
    return re.sub(r"[-_.]+", "-", component["name"]).lower()


def combined(installed: Bom, locked: Bom) -> Bom:
    """The locked packages with hashes, and with what their installed metadata say."""
    by_name = {name(part): part for part in installed["components"]}
    parts = []
    for pinned in locked["components"]:
        here = by_name.get(name(pinned), {})
        references = here.get("externalReferences", []) + pinned.get("externalReferences", [])
        part = {**here, **{k: pinned[k] for k in ("name", "purl", "type")}}
        part |= {"version": pinned["version"], "externalReferences": references}
        parts.append(part | {"bom-ref": f"{name(pinned)}=={pinned['version']}"})
    return _linked(installed, parts)


def _linked(installed: Bom, parts: list[Bom]) -> Bom:
    """The BOM of these components, whose dependencies refer to them only."""
    new = {name(part): part["bom-ref"] for part in parts}
    root = installed["metadata"]["component"]["bom-ref"]
    old = {part["bom-ref"]: new.get(name(part)) for part in installed["components"]} | {root: root}
    edges = [
        {"ref": ref, "dependsOn": sorted({old[d] for d in edge.get("dependsOn", ()) if old.get(d)})}
        for edge in installed["dependencies"]
        if (ref := old.get(edge["ref"]))
    ]
    return {**installed, "components": parts, "dependencies": edges}


def base() -> tuple[str, str]:
    """The training image's base and its version of torch. Raises ValueError if it names none."""
    containerfile = Path(__file__).parents[1] / "components" / "Containerfile"
    found = BASE.search(containerfile.read_text())
    if not found:
        raise ValueError("components/Containerfile: TRAIN_BASE_IMAGE names no version of torch")
    return found[1], found[2]


def of_train(steps: Bom) -> Bom:
    """The training image's: torch is its base's. Raises ValueError as `base` does."""
    image, version = base()
    note = {"name": "stargan:source", "value": f"base image {image}, with the packages it needs"}
    made = json.loads(json.dumps(steps).replace(_torch(steps)["bom-ref"], f"torch=={version}"))
    torch = _torch(made)
    torch |= {"version": version, "purl": f"pkg:pypi/torch@{version}", "properties": [note]}
    torch.pop("externalReferences", None)
    return dict(made)


def _torch(bom: Bom) -> Bom:
    (torch,) = (part for part in bom["components"] if name(part) == "torch")
    return torch


@main.default
def write(
    folder: Annotated[Path, means("folder for the two files")],
    torch: Annotated[str, means("the steps' requirement of torch, with its version")],
    /,
) -> str:
    """Write both files; returns what they have, and which packages state no licence."""
    if "==" not in torch:
        raise ValueError(f"TORCH={torch}: no single version; set torch==VERSION")
    lock = Path("requirements.lock").read_text() + torch + "\n"
    locked = _tool("requirements", "-", text=lock)
    steps = combined(_tool("environment", sys.executable), locked)
    write_json(folder / "sbom-steps.json", steps)
    write_json(folder / "sbom-train.json", of_train(steps))
    silent = sorted(name(part) for part in steps["components"] if not part.get("licenses"))
    return (
        f"{folder}/sbom-steps.json, sbom-train.json: {len(steps['components'])} packages; "
        f"{len(silent)} of them state no licence that SPDX knows: {', '.join(silent) or 'none'}"
    )


if __name__ == "__main__":
    cli.entry_point(main)
