"""The promotion gate: a pure function of the scores of challenger and champion.

A table has one row per (image, task), as from `training.evaluation.realism.scored`; kernel
distances (KID), which are of whole sets of images, come beside it. Both models' scores are computed
with the same judge and evaluation set, so that a new data set or judge neither blocks nor shifts
the gate.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from training.core.config import EvalConfig
from training.evaluation.records import Kid
from training.registry import looks
from training.registry.looks import tasks
from training.registry.verdict import Check, Verdict

KEYS = ["dataset", "index", "task"]
METRICS = ["success", "preservation", "identity_cosine", "self_psnr"]
COLUMNS = [*KEYS, "identity", "single", "changed", *METRICS]


def decide(
    champion: pd.DataFrame | None,
    challenger: pd.DataFrame,
    config: EvalConfig,
    seeds: Sequence[pd.DataFrame] = (),
    copy: pd.DataFrame | None = None,
    reconstruction: pd.DataFrame | None = None,
    kids: Sequence[Kid] = (),
    champion_kids: Sequence[Kid] = (),
) -> Verdict:
    """Compare `challenger` with `champion` (None: there is none, and the floors suffice).

    Floors: mean single-edit success and self-reconstruction; realism, unless its bound is 0: the
    raster, the change outside of what edits are about, identity, and the distance from real images
    of the target (`kids`, of each data set; intensities have none); and unless `must_learn` is off,
    the 95 % interval of the gain over copied inputs (`copy`) and over self-reconstructions
    (`reconstruction`) lies above 0, for those tables that are given.
    Superiority: mean single-edit success rises by `min_effect`, which covers seed noise, and the
    95 % interval of the paired difference (bootstrap over identities) lies above 0. `seeds` are
    tables of the challenger's recipe trained from other seeds; if given, the gain must also exceed
    two standard deviations over the seeds.
    Non-inferiority: identity, preservation, self-reconstruction, the worst edit and the measures of
    realism lose at most their margins. Margins apply to point estimates: on a small test set an
    interval as wide as the margin would reject every model.

    An interval needs at least two people per data set. A table with a missing column, no rows,
    other images or tasks, or a non-finite value is refused, and so is one without the distance of
    one of its data sets. The reason names what realism could not be judged.
    """
    tables = {
        "challenger": challenger,
        "champion": champion,
        "copy": copy,
        "reconstruction": reconstruction,
    }
    tables |= {f"seed {i + 1}": table for i, table in enumerate(seeds)}
    for name, table in tables.items():
        if table is not None and (problem := _invalid(table, challenger, config)):
            return Verdict(False, f"refused: {name}: {problem}")
    for name, found in (("challenger", kids), ("champion", champion_kids)):
        if name == "champion" and champion is None:
            continue
        if missing := looks.without_kid(_edits(challenger), found, config):
            return Verdict(
                False,
                f"refused: {name}: kid was not measured for {', '.join(missing)}; score the model "
                "again, or set eval.max_kid=0",
            )
    edits = {name: _edits(table) for name, table in tables.items() if table is not None}
    return _judged(edits, config, kids, champion_kids)


def _judged(
    edits: Mapping[str, pd.DataFrame],
    config: EvalConfig,
    kids: Sequence[Kid],
    champion_kids: Sequence[Kid],
) -> Verdict:
    """The verdict on valid tables by name, of their `_edits` only."""
    challenger, champion = edits["challenger"], edits.get("champion")
    checks = [*_floors(challenger, config), *looks.floors(challenger, config)]
    checks += looks.distances(challenger, kids, config)
    copy, reconstruction = edits.get("copy"), edits.get("reconstruction")
    floors = config.must_learn and (copy is not None or reconstruction is not None)
    if floors or champion is not None:
        checks.append(_enough_people(challenger))
    for baseline, baseline_name in (
        (copy, "a copied input"),
        (reconstruction, "its self-reconstruction"),
    ):
        if baseline is not None and config.must_learn:
            checks.append(_learned(challenger, baseline, baseline_name, config))
    if champion is not None:
        seeds = [table for name, table in edits.items() if name.startswith("seed ")]
        checks += _superiority(champion, challenger, config, seeds)
        checks += _non_inferiority(champion, challenger, config)
        checks += looks.no_less_real(champion, challenger, config)
        checks += looks.no_farther(champion_kids, kids, config)
    return _verdict(checks, champion is None, looks.remarks(challenger, kids, config))


def _verdict(checks: list[Check], first: bool, remarks: Sequence[str]) -> Verdict:
    failed = [check for check in checks if not check.passed]
    if failed:
        reasons = [check.why for check in failed]
    elif first:
        reasons = ["the first champion: every floor is reached"]
    else:
        effect = next(check.value for check in checks if check.name == "effect")
        reasons = [f"mean single-edit success rises by {effect:.3f}, no loss exceeds its margin"]
    return Verdict(not failed, "; ".join([*reasons, *remarks]), tuple(checks))


def _invalid(table: pd.DataFrame, reference: pd.DataFrame, config: EvalConfig) -> str:
    """Why a table cannot be compared; "" if it can."""
    missing = [c for c in COLUMNS if c not in table.columns]
    if missing:
        return f"scores have no column {', '.join(missing)}"
    edits = _edits(table)
    if not len(edits):
        return "no single edit was scored"
    if table.duplicated(KEYS).any():
        return f"{int(table.duplicated(KEYS).sum())} rows of scores are duplicated"
    for name in METRICS:
        # only of changed single edits, which the gate uses
        values = pd.to_numeric(edits[name], errors="coerce").to_numpy(float)
        bad = int((~np.isfinite(values)).sum())
        if bad:
            return f"{name} is not finite in {bad} of {len(values)} rows"
    for setting, name in looks.LOOKS.items():
        if getattr(config, setting) and (problem := looks.unknown(edits, name)):
            return f"{problem}, or set eval.{setting}=0"
    if {tuple(k) for k in table[KEYS].to_numpy()} != {tuple(k) for k in reference[KEYS].to_numpy()}:
        return "its scores are of other images or edits; score both models on one evaluation set"
    return ""


def _edits(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of single edits that change the labels of the image, sorted by KEYS."""
    rows = table[table["single"].astype(bool) & table["changed"].astype(bool)]
    return rows.sort_values(KEYS).reset_index(drop=True)


def _people(table: pd.DataFrame) -> np.ndarray:
    """Cluster ids: data set and person, or the image if the person is unknown."""
    name = table["identity"].astype(str)
    image = "image " + table["index"].astype(str)
    return np.asarray(
        (table["dataset"].astype(str) + "/" + name.where(name != "", image)).to_numpy()
    )


def _per_task(table: pd.DataFrame, metric: str) -> pd.Series:
    return table[metric].astype(float).groupby(tasks(table)).mean()


def mean_success(table: pd.DataFrame) -> float:
    """The main metric: success of single edits, averaged over tasks."""
    return _success(_edits(table))


def _success(table: pd.DataFrame) -> float:
    return float(_per_task(table, "success").mean())


def _psnr(table: pd.DataFrame) -> float:
    return float(table.drop_duplicates(["dataset", "index"])["self_psnr"].mean())


def _interval_low(table: pd.DataFrame, baseline: pd.DataFrame, config: EvalConfig) -> float:
    """Lower end of the 95 % interval of the paired gain in mean single-edit success."""
    from training.evaluation.metrics import bootstrap

    rise = table["success"].to_numpy(float) - baseline["success"].to_numpy(float)
    draws = bootstrap(rise, tasks(table), _people(table), config.bootstrap)
    return float(np.percentile(draws, 2.5))


def _floors(table: pd.DataFrame, config: EvalConfig) -> list[Check]:
    success, psnr = _success(table), _psnr(table)
    return [
        Check("success", success, config.min_success, success >= config.min_success,
              f"mean single-edit success {success:.3f}, floor {config.min_success:.3f}"),
        Check("self_psnr", psnr, config.min_psnr, psnr >= config.min_psnr,
              f"self-reconstruction {psnr:.2f} dB, floor {config.min_psnr:.2f} dB"),
    ]  # fmt: skip


def _enough_people(table: pd.DataFrame) -> Check:
    people = pd.Series(_people(table)).groupby(table["dataset"].to_numpy()).nunique()
    fewest = int(people.min())
    return Check("people", fewest, 2, fewest >= 2,
                 f"{people.idxmin()}: {fewest} person in the test split, at least 2 needed for an "
                 "interval; test more people (data.test_share)")  # fmt: skip


def _learned(
    table: pd.DataFrame, baseline: pd.DataFrame, baseline_name: str, config: EvalConfig
) -> Check:
    lower = _interval_low(table, baseline, config)
    return Check(f"above {baseline_name}", lower, 0.0, lower > 0,
                 f"did not learn: edits are no better than {baseline_name} "
                 f"(lower end of the 95 % interval of the gain {lower:.3f})")  # fmt: skip


def _superiority(
    champion: pd.DataFrame,
    challenger: pd.DataFrame,
    config: EvalConfig,
    seeds: Sequence[pd.DataFrame],
) -> list[Check]:
    effect = _success(challenger) - _success(champion)
    lower = _interval_low(challenger, champion, config)
    # isclose: a gain of exactly the minimum effect is enough despite rounding
    enough = effect >= config.min_effect or math.isclose(effect, config.min_effect)
    checks = [
        Check("effect", effect, config.min_effect, enough,
              f"mean single-edit success changes by {effect:+.3f}, at least "
              f"{config.min_effect:+.3f} is required"),
        Check("interval", lower, 0.0, lower > 0,
              f"the gain is not significant: its 95 % interval starts at {lower:+.3f}"),
    ]  # fmt: skip
    if seeds:
        means = [_success(table) for table in (challenger, *seeds)]
        spread = 2 * float(np.std(means, ddof=1))
        checks.append(
            Check("seeds", effect, spread, effect > spread,
                  f"the gain {effect:+.3f} is within the spread of {len(means)} seeds "
                  f"({spread:.3f})")
        )  # fmt: skip
    return checks


def _non_inferiority(
    champion: pd.DataFrame, challenger: pd.DataFrame, config: EvalConfig
) -> list[Check]:
    def change(metric: str) -> float:
        return float(_per_task(challenger, metric).mean() - _per_task(champion, metric).mean())

    old = _per_task(champion, "success")
    worst = float(_per_task(challenger, "success").min() - old.min())
    table = [
        ("identity", change("identity_cosine"), config.margin_identity, "identity"),
        ("preservation", change("preservation"), config.margin_preservation, "preservation"),
        ("psnr", _psnr(challenger) - _psnr(champion), config.margin_psnr, "self-reconstruction"),
        ("worst", worst, config.margin_worst, f"the worst edit (was {old.idxmin()})"),
    ]
    return [
        Check(name, value, -margin, value >= -margin,
              f"{what} changes by {value:+.3f}, at most {-margin:+.3f} is allowed")
        for name, value, margin, what in table
    ]  # fmt: skip
