"""Train, evaluate and register several models under one budget; one page sets them side by side.

python -m pipelines compare models=stargan,attgan,stgan images=2000 seeds=2
"""

import time
from pathlib import Path
from typing import Any

from pipelines import compiled
from pipelines.arguments import LOCAL, parse
from pipelines.local import execute, say
from training import presets
from training.compare import Entry, report
from training.files import write_bytes
from training.models import MODELS

LENGTHS = ("decay_images", "warmup_images", "log_images", "sample_images", "checkpoint_images")
SMOKE = 2_000  # images; a budget below says of itself that it is a smoke test


def budgeted(model: str, preset: str, images: int) -> dict[str, str]:
    """The preset's lengths stretched to `images` (0: the preset's own)."""
    train = presets.resolve(model, preset).train
    if not images:
        return {}
    scaled = {name: getattr(train, name) * images // train.images for name in LENGTHS}
    return {"train.images": str(images)} | {
        f"train.{name}": str(max(value, 0 if name.startswith(("decay", "warm")) else train.batch))
        for name, value in scaled.items()
    }


def compare(pairs: list[str], root: Path | None = None) -> Path:
    """Run every model and seed, each through the whole pipeline; returns the page.

    `pairs` are `key=value`: models (names, comma-separated; all by default), images (of each
    system; the preset's own by default), seeds (1), preset (demo), and whatever the pipeline and
    the presets know. What is done already comes from the cache, so that the same command goes on
    where it stopped.
    """
    given = dict(pair.partition("=")[::2] for pair in pairs)
    models = [name for name in given.pop("models", ",".join(MODELS)).split(",") if name]
    images, seeds = int(given.pop("images", "0")), int(given.pop("seeds", "1"))
    preset = given.setdefault("preset", "demo")
    if unknown := [name for name in models if name not in MODELS]:
        raise ValueError(f"unknown model {', '.join(unknown)}; known: {', '.join(MODELS)}")
    asked: list[tuple[str, int, dict[str, Any]]] = []
    for model in models:  # all of it is checked before anything runs
        settings = budgeted(model, preset, images) | given
        own = {"model": model, "name": f"compare-{model}", "experiment": "compare"}
        for seed in range(seeds):
            words = {**own, **settings, "train.seed": seed}
            arguments = parse([f"{k}={v}" for k, v in words.items()], compiled.parameters())
            asked.append((model, seed, {"image": LOCAL, **arguments}))
    entries: list[Entry] = []
    for model, seed, arguments in asked:
        say(f"\ncompare: {model}, seed {seed}")
        done = execute(arguments, compiled.PACKAGE, root)
        files = (done.file(step, "out") for step in ("train", "evaluate", "unify-labels"))
        entries.append(Entry.read(model, *files))
    budget = f"{images:,} images each" if images else f"the lengths of preset {preset}"
    many = "one seed" if seeds == 1 else f"{seeds} seeds"
    remark = (
        f"A smoke test: {budget}, {many}. It shows that every model runs, not which is better."
        if preset == "smoke" or 0 < images < SMOKE
        else ""
    )
    out = done.root / "report" / f"compare-{time.strftime('%Y%m%d-%H%M%S')}.html"
    title = f"{', '.join(models)}: {budget}, {many}"
    write_bytes(out, report(entries, title, remark).encode())
    return out
