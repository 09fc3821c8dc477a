"""A version's bill of materials, CycloneDX 1.6: the model with its card, its data, its packages.

cyclonedx-python-lib 11 has no class for a model card, which is added to the JSON that it writes, by
https://cyclonedx.org/docs/1.6/json/#components_items_modelCard.
"""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import NAMESPACE_URL, uuid5

from training.core.files import read_json, write_json
from training.registry import lineage
from training.registry import versions as registry
from training.registry.lineage import LOCK, MODEL, Lineage

CARD = "README.md"
METRICS = "release/metrics.json"
LOADING = "requirements.txt"  # what MLflow installs to load the version
PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)(?: ; (.*?))?(?: \\)?$", re.MULTILINE)


def write(reference: str, out: Path) -> str:
    """Verify a version and write its bill of materials. Raises as `lineage.verified` does."""
    found = registry.version(reference)
    with lineage.verified(f"{found.name}/{found.version}", data=False) as (folder, record):
        made = bom(found, folder, record)
    write_json(out, made)
    packages = sum(part["type"] == "library" for part in made["components"])
    return f"{out}: {found.name}/{found.version}, {packages} packages, CycloneDX 1.6"


def bom(found: Any, folder: Path, record: Lineage) -> dict[str, Any]:
    """The bill of materials of a verified version in `folder`, as JSON."""
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6

    def digest(algorithm: HashAlgorithm, content: str) -> list[HashType]:
        return [HashType(alg=algorithm, content=content)] if content else []

    def data(ref: str, about: str, hashes: list[HashType]) -> Component:
        return Component(
            name=ref, type=ComponentType.DATA, bom_ref=ref, description=about, hashes=hashes
        )

    sha256, model = HashAlgorithm.SHA_256, f"{found.name}/{found.version}"
    facts = {"content": record.content, "lineage": str(found.tags.get("lineage", "")),
             "git_commit": record.git_commit, "code_hash": record.code_hash,
             "judge": record.judge, "evaluation": record.evaluation}  # fmt: skip
    this = Component(
        name=found.name, version=str(found.version), type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=model, properties=[Property(name=f"stargan:{k}", value=v)
                                   for k, v in facts.items() if v],
    )  # fmt: skip
    weights = [
        Component(name=name, type=ComponentType.FILE, bom_ref=name, hashes=digest(sha256, value))
        for name, value in record.files.items() if name.startswith(f"{MODEL}/")
    ]  # fmt: skip
    sets = [
        data(f"raw data {name}".strip(), f"DVC {md5}, revision {record.revision}",
             digest(HashAlgorithm.MD5, md5.removesuffix(".dir")))
        for name, _, md5 in (one.rpartition("=") for one in record.data_md5.split(",") if one)
    ]  # fmt: skip
    if not record.imported:
        about = "images and labels of one label space; the digest of their manifest"
        sets.append(data("dataset", about, digest(sha256, record.dataset)))
    packages = [
        Component(
            name=name, version=version, type=ComponentType.LIBRARY, bom_ref=f"{name}=={version}",
            properties=[Property(name="stargan:marker", value=marker)] if marker else [],
        )
        for (name, version), marker in _packages(folder).items()
    ]  # fmt: skip
    made = Bom(components=[*weights, *sets, *packages])
    made.metadata.component = this
    made.metadata.timestamp = datetime.fromtimestamp(found.creation_timestamp / 1000, UTC)
    made.serial_number = uuid5(NAMESPACE_URL, f"stargan-family:{record.content}/{model}")
    made.register_dependency(this, [*weights, *sets, *packages])
    values: dict[str, Any] = json.loads(JsonV1Dot6(made).output_as_string())
    card = _card(folder, record, [one.name for one in sets])
    values["metadata"]["component"]["modelCard"] = card
    for part in values["components"]:
        if part["type"] == "library":
            name = re.sub(r"[-_.]+", "-", part["name"]).lower()
            part["purl"] = f"pkg:pypi/{name}@{quote(part['version'])}"
    return values


def _packages(folder: Path) -> dict[tuple[str, str], str]:
    """(name, version) -> environment marker of the lock's packages and of those to load it."""
    text = (folder / LOCK).read_text()
    loading = (folder / LOADING).read_text()
    if text.startswith("["):  # where no lock was installed: the packages that were
        locked = dict.fromkeys(map(tuple, json.loads(text)), "")
    else:
        locked = {(name, version): marker for name, version, marker in PINNED.findall(text)}
    more = {(name, version): marker for name, version, marker in PINNED.findall(loading)}
    return dict(sorted((more | locked).items()))


def _card(folder: Path, record: Lineage, sets: list[str]) -> dict[str, Any]:
    """The model card: what was trained on what, the metrics, and the limits of its README."""
    config, text = read_json(folder / MODEL / "config.json"), (folder / CARD).read_text()
    size = config["size"]
    format_ = f"float32 (N, 3, {size}, {size}) in [-1, 1]"
    labels = "float32 (N, labels), 1 for each target label"
    limits = re.split(r"^- ", _section(text, "Limits"), flags=re.MULTILINE)
    use = " ".join(_section(text, "Use").partition("\n\n")[0].split())
    terms = " ".join(_section(text, "Licence note").split())
    parameters = {
        "approach": {"type": "supervised"},  # by labels; there are no pairs of images
        "task": "image-to-image translation",
        "architectureFamily": "convolutional neural network",
        "modelArchitecture": config["name"],
        "inputs": [{"format": f"image: {format_}"}, {"format": f"label: {labels}"}],
        "outputs": [{"format": f"image: {format_}"}],
    }
    if sets:
        parameters["datasets"] = [{"ref": name} for name in sets]
    metrics = {} if record.imported else read_json(folder / METRICS)
    return {
        "modelParameters": parameters,
        "quantitativeAnalysis": {"performanceMetrics": list(_metrics(metrics))},
        "considerations": {
            "useCases": [use],
            "technicalLimitations": [" ".join(one.split()) for one in limits if one],
            "ethicalConsiderations": [
                {"name": "Edited faces can deceive.",
                 "mitigationStrategy": "Label outputs as synthetic wherever they are shown."},
                {"name": terms},
            ],
        },
    }  # fmt: skip


def _section(text: str, title: str) -> str:
    """The text below a heading of the README; empty if it has none."""
    found = re.search(rf"^## {title}\n\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


def _metrics(values: dict[str, float]) -> Iterator[dict[str, Any]]:
    """The metrics with their intervals: of X or X_mean from X_low to X_high."""
    ends: set[str] = set()
    intervals: dict[str, dict[str, Any]] = {}
    for name in values:
        stem = name.removesuffix("_mean")
        low, high = f"{stem}_low", f"{stem}_high"
        if low in values and high in values:
            ends |= {low, high}
            bounds = {"lowerBound": repr(values[low]), "upperBound": repr(values[high])}
            intervals[name] = {"confidenceInterval": bounds}
    for name, value in values.items():
        if name not in ends:
            yield {"type": name, "value": repr(value), **intervals.get(name, {})}
