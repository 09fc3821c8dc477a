"""Register a model's files as a version: one that was trained here, or one that was imported."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from training.core.files import read_json
from training.core.temporary import temporary_folder
from training.data.labels import LabelSpace
from training.registry import lineage
from training.registry import versions as registry
from training.registry.lineage import Lineage


def label_space(files: Mapping[str, Path]) -> LabelSpace:
    return LabelSpace.from_json(read_json(files["label_space.json"]))


def reads_source(name: str) -> bool:
    """Whether the model is conditioned on the source labels, too."""
    from training.models import MODELS

    return MODELS[name].reads_source


def supported_options(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the edit options that the model supports."""
    from training.models import model_from_json

    return model_from_json(config["name"], config["model"]).supported_options


def publish(
    name: str,
    files: Mapping[str, Path],
    record: Lineage,
    run_id: str,
    fill: Callable[[Path], str],
) -> tuple[Any, bool]:
    """Register `files` as a version, unless one has their content; returns (version, created).

    `fill` writes the release's own files into the version's folder and returns the card.
    """
    from training.registry import pyfunc  # imports torch, not needed for a known version
    from training.registry.card import description

    config = read_json(files["config.json"])
    with temporary_folder() as temporary:
        folder = Path(temporary) / "pyfunc"
        pyfunc.save(
            folder,
            files,
            label_space(files),
            config["size"],
            {"content": record.content},
            source=reads_source(config["name"]),
        )
        text = description(fill(folder))
        record = replace(record, files=lineage.digests(folder))
        tags = {**record.tags(), "lineage": lineage.write(folder, record)}
        model_id = registry.log_model(name, folder, run_id, tags)
    return registry.add(name, model_id, run_id, record.content, tags, text)
