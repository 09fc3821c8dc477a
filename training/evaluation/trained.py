"""A trained model as one HTML page, before it is evaluated: last pictures, times and losses."""

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from training.rendering import html
from training.storage.meta import ModelMeta
from training.storage.store import Manifest, Store

SAMPLES = "samples/"  # begins the names of a model's grids
# Fields of a training summary: label on the page and format.
FACTS = {
    "seconds": ("training time", lambda v: f"{v / 60:.1f} min"),
    "images": ("training images", lambda v: f"{v:,.0f}"),
    "images_per_second": ("images/s", lambda v: f"{v:.1f}"),
    "data_wait_share": ("time waiting for data", html.percent),
    "checkpoint_seconds": ("time blocked by checkpoints", lambda v: f"{v:.1f} s"),
    "memory_mib": ("peak memory of rank 0", lambda v: f"{v:,.0f} MiB"),
    "gpu_memory_mib": ("peak GPU memory", lambda v: f"{v:,.0f} MiB"),
    "gpu_utilisation": ("GPU utilisation", lambda v: f"{v:.0f} %"),
    "cost": ("cost at train.price_per_hour", lambda v: f"{v:.2f}"),
    "balance_least": ("D's lead over G, lowest", lambda v: f"{v:.3g}"),
    "balance_most": ("D's lead over G, highest", lambda v: f"{v:.3g}"),
    "balance": ("D's lead over G, final", lambda v: f"{v:.3g}"),
}


def facts(training: Mapping[str, float]) -> list[tuple[str, str]]:
    """A training summary as labels and formatted values, those that it has."""
    return [(label, form(training[name])) for name, (label, form) in FACTS.items()
            if name in training]  # fmt: skip


def page(model: Manifest[ModelMeta], store: Store | None = None) -> str:
    """Self-contained HTML page of a model; a manifest of an older version has no losses."""
    names = [entry.name for entry in model.entries if entry.name.startswith(SAMPLES)]
    return html.render(
        "training",
        model=model.meta,
        pictures=[
            (PurePosixPath(name).stem, model.local(name, store).read_bytes())
            for name in sorted(names)
        ],
        facts=facts(model.about.get("training", {})),
        losses=model.about.get("losses", {}),
    )


def numbers(about: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], float]]:
    """The training summary and the last losses of what a model's manifest is about."""
    for name, value in about.get("training", {}).items():
        yield (name,), value
    for term, value in about.get("losses", {}).items():
        yield ("loss", *term.split("/")), value
