"""Promote a version: score challenger and champion with one judge on one data set, then the gate.

Scores are cached in the store by weights, fingerprint and data set, so that repeating a promotion
is cheap.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.core.config import EvalConfig, from_json
from training.core.files import read_json, sha256_file
from training.core.retry import may_pass
from training.core.shown import shown
from training.data.labels import LabelSpace
from training.evaluation.protocol import OURS
from training.registry import lineage, signature
from training.registry import versions as registry
from training.registry.note import describe_version
from training.registry.openlineage import recorded
from training.registry.verdict import Check, Verdict, VerdictFiles
from training.storage.meta import DatasetMeta, JudgeMeta
from training.storage.store import Manifest, Store, open_store
from training.tracking import client as tracking

if TYPE_CHECKING:  # pandas, which a version that is champion already does not need
    import pandas as pd

    from training.evaluation.records import Drift, Figure, Scores, Untold

PROMOTED = ("promote", "override")  # changes of the alias whose reason is a verdict's
TRIES = 5  # attempts if another process changes the champion meanwhile


@dataclass
class Scorer:
    """Scores models on one data set with one judge."""

    dataset: Manifest[DatasetMeta]
    judge: Manifest[JudgeMeta]
    config: EvalConfig
    store: Store

    @cached_property
    def fingerprint(self) -> str:
        """The fingerprint of images, judge, tasks and protocol, equal for comparable scores."""
        from training.evaluation.fingerprint import fingerprint

        return fingerprint(self.dataset, self.judge, self.config, self.store)

    @cached_property
    def space(self) -> LabelSpace:
        """The data set's."""
        return LabelSpace.from_json(read_json(self.dataset.local("label_space.json", self.store)))

    def scores(self, files: Mapping[str, Path]) -> "Scores":
        """The scores of a model's files by name, from the cache if `evaluate` stored them."""
        from training.evaluation.cache import ScoreCache

        digests = {name: sha256_file(path) for name, path in files.items()}
        cache = ScoreCache(self.store, self.fingerprint, self.dataset.digest)
        found = cache.find(digests)
        if found is None:
            found = self._score(files)
            cache.keep(digests, found)
        return found

    def _score(self, files: Mapping[str, Path]) -> "Scores":
        from training.data.dataset import Faces
        from training.evaluation.judges.judge import load_judge
        from training.evaluation.realism import reals, scored
        from training.inference.translator import translator_from_files

        judge = load_judge(self.judge, self.store)
        judge.require()
        faces = Faces.open(self.dataset, self.config.eval_split, self.store)
        real = (faces, *reals(self.dataset, self.config, self.store))
        return scored(translator_from_files(dict(files)), *real, judge, self.config)[0]

    def drifts(self) -> "list[Drift | Untold]":
        """The drift of the scored images from the training images, from the cache if it is kept."""
        from training.data.dataset import Faces
        from training.evaluation.cache import ScoreCache
        from training.evaluation.drift_sides import of_scored
        from training.evaluation.judges.judge import load_judge
        from training.evaluation.realism import reals

        cache = ScoreCache(self.store, self.fingerprint, self.dataset.digest)
        found = cache.find_drifts()
        if found is None:
            faces = Faces.open(self.dataset, self.config.eval_split, self.store)
            train = reals(self.dataset, self.config, self.store)[1]
            found = of_scored(load_judge(self.judge, self.store), faces, train)
            cache.keep_drifts(found)
        return found

    def pictures(self, files: Mapping[str, Path], checks: Sequence[Check]) -> "list[Figure]":
        """Figures of the failed conditions of realism."""
        from training.evaluation.evidence import KINDS, evidence

        failed = {check.name.split()[0] for check in checks if not check.passed}
        if not failed & set(KINDS):
            return []
        from training.data.dataset import Faces
        from training.evaluation.judges.judge import load_judge
        from training.evaluation.realism import reals
        from training.inference.translator import translator_from_files

        faces = Faces.open(self.dataset, self.config.eval_split, self.store)
        train = reals(self.dataset, self.config, self.store)[1]
        judge = load_judge(self.judge, self.store)
        translator = translator_from_files(dict(files))
        return evidence(translator, faces, train, judge, self.config, self.scores(files), failed)

    def fits(self, files: Mapping[str, Path]) -> bool:
        """Whether a model has the label space and image size of the data set."""
        size = self.dataset.meta.data.get("size")
        return bool(
            read_json(files["label_space.json"]) == self.space.to_json()
            and size in (None, read_json(files["config.json"])["size"])
        )


@tracking.answered()
@recorded("promote", ("version", "dataset", "judge"))
def promote(
    version: Path,
    dataset: Path,
    judge: Path,
    eval_config: str,
    override: str,
    out: Path,
    replicates: Path | None = None,
    report: Path | None = None,
    metrics: Path | None = None,
) -> dict[str, Any]:
    """Make a registered version the champion if it passes the gate or `override` gives a reason.

    `version` is the JSON written by `register`; `dataset` and `judge` are the current manifests;
    `replicates` is a manifest of models of the same recipe from other seeds. Challenger and
    champion are verified, then scored. Returns the verdict, and writes it to `out` (JSON), as an
    HTML page to `report` (by default next to it), with the figures of its conditions to `metrics`,
    and to the version's MLflow run. A version that already is champion remains so without being
    scored. Raises LineageError for altered versions.
    """
    registered = read_json(version)
    name, number = str(registered["name"]), str(registered["version"])
    files = VerdictFiles(out, report or out.with_name(f"{out.name}.html"), metrics)
    scorer = Scorer(
        Manifest.read(dataset, "dataset"),
        Manifest.read(judge, "judge"),
        from_json(EvalConfig, eval_config),
        open_store(),
    )
    for _ in range(TRIES):
        champion = registry.champion(name)
        if champion == number:
            if signature.required_key():
                lineage.verify(f"{name}/{number}", data=False)
            return _already_champion(name, number, files)
        verdict = _judge(scorer, name, number, champion, override, replicates)
        if verdict.checks or verdict.promoted:  # else no score was compared
            _keep_protocol(name, number, scorer.config.protocol)  # read once it is champion
        drifts = _drifts(scorer) if verdict.checks else []  # takes long: before the alias is moved
        if not verdict.promoted:
            break
        try:
            kind = "override" if verdict.reason.startswith("override: ") else "promote"
            registry.move(name, champion, number, kind, verdict.reason)
            break
        except registry.OvertakenError as error:
            conflict = error
    else:
        raise conflict
    return _record(scorer, name, number, champion, verdict, drifts, files)


def _drifts(scorer: Scorer) -> "list[Drift | Untold]":
    """The scored images' drift, for information: a fault is told and ends no promotion."""
    try:
        return scorer.drifts()
    except (OSError, ValueError) as error:
        from training.evaluation.records import Untold

        why = f"it could not be measured: {shown(str(error))}"
        return [Untold(one.name, why) for one in scorer.space.sets]


def _already_champion(name: str, number: str, files: VerdictFiles) -> dict[str, Any]:
    moves = [m for m in registry.history(name) if m["to"] == number]
    if moves and moves[-1]["kind"] in PROMOTED:  # its step may have died before it told so
        _tell(name, number, f"promoted: {moves[-1]['why']}")
    since = f" since {moves[-1]['when']} ({moves[-1]['why']})" if moves else ""
    verdict = Verdict(True, f"version {number} is champion{since}")
    result = {
        "promoted": True,
        "changed": False,
        "reason": verdict.reason,
        "name": name,
        "version": number,
        "champion": number,
        "alias": registry.ALIAS,
        "checks": [],
    }
    files.write(result, number, verdict)
    return result


def _judge(
    scorer: Scorer,
    name: str,
    number: str,
    champion: str | None,
    override: str,
    replicates: Path | None,
) -> Verdict:
    """The gate's verdict, or a promotion if there is a reason to override a refusal."""
    challenger = lineage.store_files(f"{name}/{number}", data=True)
    current = f"{name}/{champion}" if champion else ""
    verdict = _gate(scorer, challenger, current, replicates, lost=bool(override))
    if override and not verdict.promoted:
        return Verdict(True, f"override: {override} (gate: {verdict.reason})", verdict.checks)
    return verdict


def _gate(
    scorer: Scorer,
    challenger: Mapping[str, Path],
    champion: str,
    replicates: Path | None,
    *,
    lost: bool,
) -> Verdict:
    """The gate's verdict; with `lost` also where the champion's files are not what they should be.

    Without it their LineageError, SignatureError or ValueError is raised.
    """
    if champion and (judged := _protocol_of(champion)) != scorer.config.protocol:
        return Verdict(
            False,
            f"refused: {champion}, the champion, was judged with eval.protocol={judged}, this run "
            f"judges with {scorer.config.protocol}; run with eval.protocol={judged}, or promote "
            "with a reason to override",
        )
    if not scorer.fits(challenger):
        return Verdict(
            False, "the challenger has other labels or another image size than the data set"
        )
    try:
        champion_files = lineage.store_files(champion) if champion else None
    except ValueError as error:
        if not lost or may_pass(error):
            raise
        return Verdict(False, f"the champion cannot be compared: {error}")
    if champion_files is not None and not scorer.fits(champion_files):
        return Verdict(
            False,
            f"{champion}, the champion, has other labels or another image size than this data set; "
            "register under another name, or promote with a reason to override",
        )
    return _compared(scorer, challenger, champion, champion_files, replicates)


def _compared(
    scorer: Scorer,
    challenger: Mapping[str, Path],
    champion: str,
    champion_files: Mapping[str, Path] | None,
    replicates: Path | None,
) -> Verdict:
    """The verdict on the scores of models that fit the data set."""
    from training.evaluation.score import BrokenModelError
    from training.registry.gate import decide

    try:
        table, kids = scorer.scores(challenger)
    except BrokenModelError as error:
        return Verdict(False, f"refused: challenger: {error}")
    try:
        old = scorer.scores(champion_files) if champion_files is not None else None
    except BrokenModelError as error:
        return Verdict(False, f"{champion}, the champion, cannot be compared: {error}; roll back, "
                       "or promote with a reason to override")  # fmt: skip
    try:
        seeds = _replicated(scorer, replicates, challenger) if replicates else []
    except BrokenModelError as error:
        return Verdict(False, f"refused: {error}")
    return decide(
        old.table if old else None,
        table,
        scorer.config,
        seeds,
        table.assign(success=table["copy_success"]),
        table.assign(success=table["blind_success"]),
        kids,
        old.kids if old else (),
    )


def _protocol_of(reference: str) -> str:
    """The protocol with which a version was judged; versions without the tag: ours."""
    return str(registry.version(reference).tags.get("protocol", OURS))


def _replicated(scorer: Scorer, replicates: Path, names: Iterable[str]) -> "list[pd.DataFrame]":
    """Score tables of the models of other seeds, from their files called `names`.

    Raises BrokenModelError that names the seed.
    """
    from training.evaluation.score import BrokenModelError

    models = Manifest.read(replicates, "replicates")
    tables = []
    for seed in models.meta.seeds:
        files = {name: models.local(f"{seed}/{name}", scorer.store) for name in names}
        try:
            tables.append(scorer.scores(files).table)
        except BrokenModelError as error:
            raise BrokenModelError(f"seed {seed} of the replicates: {error}") from error
    return tables


def _record(
    scorer: Scorer,
    name: str,
    number: str,
    champion: str | None,
    verdict: Verdict,
    drifts: "Sequence[Drift | Untold]",
    files: VerdictFiles,
) -> dict[str, Any]:
    """Write the verdict to its files, the version's tags and its MLflow run."""
    result = {
        "promoted": verdict.promoted,
        "changed": verdict.promoted,
        "reason": verdict.reason,
        "name": name,
        "version": number,
        "champion": number if verdict.promoted else champion,
        "before": champion,
        "alias": registry.ALIAS,
        "identity": scorer.fingerprint,
        "judge": scorer.judge.digest,
        "checks": [check._asdict() for check in verdict.checks],
    }
    status = "promoted" if verdict.promoted else "not promoted"
    _tell(name, number, f"{status}: {verdict.reason}")
    refused = not verdict.promoted or verdict.reason.startswith("override: ")
    weights = lineage.store_files(f"{name}/{number}", data=True) if refused else {}
    pictures = scorer.pictures(weights, verdict.checks) if refused else []
    files.write(result, champion, verdict, pictures, drifts)
    if run_id := registry.version(f"{name}/{number}").run_id:
        logged = {"promotion/verdict.json": files.verdict, "promotion/verdict.html": files.report}
        tracking.log_results(run_id, {}, logged)
    return result


def _keep_protocol(name: str, number: str, protocol: str) -> None:
    if _protocol_of(f"{name}/{number}") != protocol:
        tracking.client().set_model_version_tag(name, number, "protocol", protocol)


def _tell(name: str, number: str, verdict: str) -> None:
    """Write a verdict to the description of the version's run and, last, to the version's tag."""
    if registry.tag(name, number, "verdict") == verdict:
        return
    if run_id := registry.version(f"{name}/{number}").run_id:
        describe_version(run_id, name, number, verdict)
    tracking.client().set_model_version_tag(name, number, "verdict", verdict)


def rollback(name: str, reason: str) -> str:
    """Restore the previous champion after verifying it; returns its version."""
    present = registry.champion(name)
    target = registry.previous(name, present)
    lineage.verify(f"{name}/{target}", data=False)
    registry.move(name, present, target, "rollback", reason)
    return target
