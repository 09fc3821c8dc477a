"""One stage of a trial: train a model to some images, or to its end, and score it.

python -m pipelines.search.trial STAGE.json PARENT

PARENT is the id of the process that starts it; the stage stops when that ends. The stage's result
is written beside it. The training is that of an ordinary run, in the same run folder: it goes on
where an earlier stage stopped, and a later run with these settings finds it.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.core import cli
from training.core.config import EvalConfig, TrainConfig, build, from_json
from training.core.files import read_json, write_json
from training.storage.store import Manifest, open_store

if TYPE_CHECKING:
    import pandas as pd

SPLIT = "val"
STEP = 8  # batches that one step of any model may draw


@dataclass(frozen=True)
class Stage:
    """What one stage does: the manifests' paths, the settings as JSON texts, and its folder.

    `until` images are trained; 0: to the end, with the whole evaluation and the gate's floors.
    """

    dataset: str
    judge: str
    model: str
    preset: str
    model_config: str
    train_config: str
    eval_config: str
    init: str
    code: str  # hash of the code, so that a stage of other code is done again
    folder: str
    until: int = 0
    child: bool = False  # a further seed: a run of its own in MLflow

    @property
    def path(self) -> Path:
        return Path(self.folder) / f"{self.until or 'end'}.json"

    @property
    def result(self) -> Path:
        return self.path.with_suffix(".result.json")

    def done(self) -> "Result | None":
        """The result of an earlier process that did just this stage."""
        if not (self.path.is_file() and self.result.is_file()):
            return None
        same = read_json(self.path) == asdict(self)
        return build(Result, read_json(self.result), "result.") if same else None

    def write(self) -> None:
        """Write the stage for its process; the result of another one is deleted."""
        self.result.unlink(missing_ok=True)
        write_json(self.path, asdict(self))


@dataclass(frozen=True)
class Result:
    """What a stage measured on the validation split; `score` is the mean single-edit success.

    `known` is False if the model was trained further before, so that this moment's score is lost.
    `floors` is empty if the gate's floors are reached, else the reason; `numbers` are the metrics
    of the evaluation.
    """

    images: int
    score: float
    known: bool
    floors: str
    numbers: Mapping[str, float]
    report: str = ""


def run(stage: Stage) -> Result:
    """Train and score; writes the result and returns it. Raises what `train` and `evaluate` do."""
    from training.train import train

    folder = Path(stage.folder)
    model = folder / f"model-{stage.until or 'end'}.json"
    train(
        Path(stage.dataset), model, stage.model, stage.model_config, stage.train_config,
        init=stage.init, experiment="search", preset=stage.preset, child=stage.child,
        until=stage.until,
    )  # fmt: skip
    result = _snapshot(stage, model) if stage.until else _whole(stage, model)
    write_json(stage.result, asdict(result))
    return result


def _snapshot(stage: Stage, model: Path) -> Result:
    """The score alone: seconds instead of the whole evaluation."""
    from training.data.dataset import Faces
    from training.evaluation.judges.judge import load_judge
    from training.evaluation.score import score
    from training.inference.translator import load_translator
    from training.registry.gate import mean_success

    trained, store = Manifest.read(model, "model"), open_store()
    images = trained.meta.images or 0
    # A step draws a few batches at most.
    if images >= stage.until + STEP * from_json(TrainConfig, stage.train_config).batch:
        return Result(images, 0.0, False, "", {})
    judge = load_judge(Manifest.read(Path(stage.judge), "judge"), store)
    judge.require()
    faces = Faces.open(Manifest.read(Path(stage.dataset), "dataset"), SPLIT, store)
    config = from_json(EvalConfig, stage.eval_config)
    table = score(load_translator(trained, store), faces, judge, config, what="snapshot")
    return Result(images, mean_success(table), True, "", {})


def _whole(stage: Stage, model: Path) -> Result:
    """The evaluation of an ordinary run, on the validation split, and the gate's floors."""
    from training.evaluate import evaluate
    from training.evaluation.cache import ScoreCache, weight_digests
    from training.evaluation.fingerprint import fingerprint

    folder, store = Path(stage.folder), open_store()
    report, metrics = folder / "report.html", folder / "metrics.json"
    scored = evaluate(
        model, Path(stage.dataset), Path(stage.judge), eval_config=stage.eval_config,
        out=folder / "evaluation.json", report=report, metrics=metrics,
    )  # fmt: skip
    trained, numbers = Manifest.read(model, "model"), read_json(metrics)
    data, judge = (
        Manifest.read(Path(stage.dataset), "dataset"),
        Manifest.read(Path(stage.judge), "judge"),
    )
    config = from_json(EvalConfig, stage.eval_config)
    if scored.meta.split != SPLIT:
        raise ValueError(f"{model}: scored on {scored.meta.split}; a search scores {SPLIT} only")
    cache = ScoreCache(store, fingerprint(data, judge, config, store), data.digest)
    scores = cache.find(weight_digests(trained))
    if scores is None:
        raise ValueError(f"{model}: its scores are not in the store; run the same command again")
    return Result(
        trained.meta.images or 0, float(numbers["success_mean"]), True,
        _floors(scores.table, scores.kids, config), numbers, str(report),
    )  # fmt: skip


def _floors(table: "pd.DataFrame", kids: Any, config: EvalConfig) -> str:
    """Why the gate would refuse this model if there were no champion, or empty text."""
    from training.registry.gate import decide

    copied = table.assign(success=table["copy_success"])
    blind = table.assign(success=table["blind_success"])
    verdict = decide(None, table, config, (), copied, blind, kids)
    return "" if verdict.promoted else verdict.reason


def end_with(parent: int) -> None:
    """Stop this process, as SIGTERM does, once `parent`, by id, is not its parent any more.

    A kill leaves nothing that trains on in the run folder, also if it came before this call.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def main(argv: list[str] | None = None) -> None:
    path, parent = sys.argv[1:] if argv is None else argv
    end_with(int(parent))
    run(build(Stage, read_json(Path(path)), "stage."))


if __name__ == "__main__":
    cli.entry_point(main)
