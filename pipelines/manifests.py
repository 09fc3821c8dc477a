"""Build an overlay of k8s/ and refuse what was left as the example has it.

    python -m pipelines.manifests k8s/overlays/mine | kubectl apply -f -
    python -m pipelines.manifests --trial k8s/overlays/dev | kubectl apply -f -

Refused are placeholder digests, images that are not pinned by digest (allowed with --trial), and
addresses that are reserved for examples (RFC 2606, RFC 5737). Nothing is applied.
"""

import ipaddress
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import yaml

from pipelines.compiled import DIGEST
from training.core import cli
from training.core.cli import means

main = cli.program("python -m pipelines.manifests", __doc__)
PLACEHOLDER = re.compile(r"sha256:(.)\1{63}")
EXAMPLE_NAME = re.compile(r"(?:[\w-]+\.)+example(?![\w.-])|(?:[\w-]+\.)*example\.(?:com|net|org)")
IMAGE = re.compile(r"ontainers\[\d+\]\.image$")
ADDRESS = re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}(?:/\d{1,2})?\b")
EXAMPLES = [
    ipaddress.ip_network(text) for text in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")
]


def build(overlay: Path) -> str:
    """The overlay's YAML. Raises ValueError with kustomize's message."""
    if not shutil.which("kubectl"):
        raise ValueError("kubectl is not installed; it builds the overlays")
    done = subprocess.run(
        ["kubectl", "kustomize", str(overlay)], capture_output=True, text=True
    )  # fmt: skip
    if done.returncode:
        raise ValueError(f"{overlay}: {done.stderr.strip()[-1000:]}")
    return done.stdout


def faults(text: str, *, trial: bool = False) -> list[str]:
    """What must be replaced in an overlay's YAML, each with its object and place in it."""
    found = []
    for item in yaml.safe_load_all(text):
        name = f"{item['kind']} {item['metadata']['name']}"
        for where, value in _strings(item):
            found += [f"{name}: {where}: {fault}" for fault in _faults(where, value, trial)]
    return found


def example(value: str) -> str:
    """What is wrong with an image's name that was left as in the example, or an empty text."""
    if PLACEHOLDER.search(value):
        return f"{value}: a placeholder; set the digest that your registry shows"
    if match := EXAMPLE_NAME.search(value):
        return f"{match[0]}: an example; set your own address"
    return ""


def _faults(where: str, value: str, trial: bool) -> Iterator[str]:
    if PLACEHOLDER.search(value):
        yield example(value)
    elif not trial and IMAGE.search(where) and not DIGEST.fullmatch(value):
        yield f"{value}: not pinned; set its digest, or give --trial"
    if match := EXAMPLE_NAME.search(value):
        yield f"{match[0]}: an example; set your own address"
    for match in ADDRESS.finditer(value):
        try:
            network = ipaddress.ip_network(match[0], strict=False)
        except ValueError:
            continue
        if any(network.overlaps(example) for example in EXAMPLES):
            yield f"{match[0]}: an example; set your own address"


def _strings(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a YAML object, with its path."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield from _strings(child, f"{where}.{key}")
    elif isinstance(value, list):
        for number, child in enumerate(value):
            yield from _strings(child, f"{where}[{number}]")
    elif isinstance(value, str):
        yield where, value


@main.default
def check(
    overlay: Annotated[Path, means("folder with a kustomization.yaml")],
    /,
    *,
    trial: Annotated[bool, means("allow images that are named by tag")] = False,
) -> None:
    """Print the overlay's YAML. Raises ValueError if something was left as in the example."""
    text = build(overlay)
    if found := faults(text, trial=trial):
        raise ValueError("\n".join([f"{overlay}: {len(found)} to replace:", *found]))
    sys.stdout.write(text)


if __name__ == "__main__":
    cli.entry_point(main)
