"""The gate's conditions on realism, of tables of single edits and of distances from real images."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from training.core.config import EvalConfig
from training.evaluation.records import Kid
from training.registry.verdict import Check

KID = "kid_vgg"  # by the features of the frozen second judge, which every evaluation has
# columns of `training.evaluation.realism` by their bound
LOOKS = {"max_raster": "raster", "max_background": "background", "min_identity": "likeness"}
# why one of them can be unknown for every edit, or for those of one task
UNKNOWN = {
    "raster": "sides that are odd or below 14 px show none",
    "background": "it needs 8 training images with the label and 8 without, and pixels that the "
    "label does not concern",
    "likeness": "the second judge does not tell people apart (judge.images trains it longer)",
}
# largest half-width of the distance's 95 % interval, as a share of the bound, for it to be judged
WIDTH = 0.25


def tasks(table: pd.DataFrame) -> np.ndarray:
    return np.asarray((table["dataset"].astype(str) + "/" + table["task"].astype(str)).to_numpy())


def remarks(table: pd.DataFrame, kids: Sequence[Kid], config: EvalConfig) -> list[str]:
    """What was not judged although it has a bound, and what was compared loosely: sentences."""
    out = []
    for setting, name in LOOKS.items():
        if getattr(config, setting):
            known = table[name].notna().groupby(tasks(table)).any()
            if not known.all():
                edits = ", ".join(known.index[~known])
                out.append(f"{name} is not judged for {edits}: {UNKNOWN[name]}")
    if not config.max_kid:
        return out
    for dataset in _datasets(table):
        found = _kid(kids, dataset)
        if found is None:
            out.append(f"kid is not judged for {dataset}: intensities have no target domains")
        elif found.ratio is not None and found.skipped:
            out.append(f"kid is not judged for {', '.join(found.skipped)}: edits and real images "
                       "of three people are needed")  # fmt: skip
        loose = [f"{d.dataset} {d.domain}" for d in found.domains if not d.matched] if found else []
        if loose:
            out.append(f"kid of {', '.join(loose)} is from real images whose other labels differ: "
                       "too few have the edits' combinations")  # fmt: skip
    return out


def unknown(table: pd.DataFrame, name: str) -> str:
    """Why one of `LOOKS` cannot be judged, and what to do; "" if it can."""
    if name not in table:
        return f"{name} was not measured; score the model again"
    values = table[name].dropna()
    if values.empty:
        return f"{name} is unknown for every edit: {UNKNOWN[name]}; use other images"
    finite = np.isfinite(np.stack(values.to_list()).astype(float).reshape(len(values), -1)).all(1)
    if not finite.all():
        bad = int((~finite).sum())
        return f"{name} is not finite in {bad} of {len(values)} rows; score the model again"
    return ""


def floors(table: pd.DataFrame, config: EvalConfig) -> list[Check]:
    """Floors of realism that are means over single edits."""
    from training.evaluation.summary import looks

    says = {
        "raster": "stripes or checkerboards of {:.2f} grey levels, at most {:.2f} allowed",
        "background": "edits change {:.3f} of the picture outside of what they are about, at most "
        "{:.3f} allowed",
        "likeness": "identity {:.3f} between different people (0) and the same image (1), floor "
        "{:.3f}",
    }
    judged = {setting: name for setting, name in LOOKS.items() if getattr(config, setting)}
    measured = looks(table, config.bootstrap) if judged else {}
    checks = []
    for setting, name in judged.items():
        bound, found = getattr(config, setting), measured[name]
        most = setting.startswith("max")
        passed = found.value <= bound if most else found.value >= bound
        why = says[name].format(found.value, bound)
        if found.low <= bound <= found.high:
            why += (f" (95 % interval {found.low:.2f} to {found.high:.2f}: more images may decide "
                    "otherwise, eval.limit)")  # fmt: skip
        checks.append(Check(name, found.value, bound, passed, why, most, found.low, found.high))
    return checks


def _datasets(table: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(table["dataset"].astype(str)))


def without_kid(table: pd.DataFrame, kids: Sequence[Kid], config: EvalConfig) -> list[str]:
    """Data sets whose labels have target domains, but whose distance was not measured."""
    if not config.max_kid:
        return []
    # only intensities have an error
    errors = table["error"] if "error" in table else pd.Series(np.nan, table.index)
    domains = errors.isna().groupby(table["dataset"].astype(str)).any()
    return [d for d in _datasets(table) if domains[d] and _kid(kids, d) is None]


def distances(table: pd.DataFrame, kids: Sequence[Kid], config: EvalConfig) -> list[Check]:
    """The floor of the distance from real images of each data set with target domains."""
    if not config.max_kid:
        return []
    found = [one for d in _datasets(table) if (one := _kid(kids, d)) is not None]
    strangers = bool((table["identity"].astype(str) == "").any())
    checks = [_distance(one, config.max_kid, strangers) for one in found]
    if len(found) < 2:
        return checks
    return [
        check._replace(name=f"kid {one.dataset}", why=f"{one.dataset}: {check.why}")
        for check, one in zip(checks, found, strict=True)
    ]


def _distance(found: Kid, bound: float, strangers: bool) -> Check:
    """`strangers`: there are images of unknown people, each of which counts as one."""
    few = "too few images to judge realism: "
    people_are = "people (an image of an unknown person counts as one)" if strangers else "people"
    fix = "score more images of more people (eval.limit, data.test_share), or eval.max_kid=0"
    if found.ratio is None or found.low is None or found.high is None:
        why = (f"{few}no target has edits and real images of three people "
               f"({', '.join(found.skipped)}); {fix}")  # fmt: skip
        return Check("kid", 0.0, bound, False, why, True)
    if not np.isfinite([found.ratio, found.low, found.high, found.inputs_low or 0.0]).all():
        why = "the distance from real images is not finite; score the model again"
        return Check("kid", 0.0, bound, False, why, True)
    half = (found.high - found.low) / 2
    passed = False
    if not found.paired and (found.inputs_low or 0.0) <= 0:
        why = (f"{few}the judge does not tell {found.images} inputs from real images of their "
               f"target; {fix}")  # fmt: skip
    elif found.low > bound or found.high < bound or half <= WIDTH * bound:
        passed = found.ratio <= bound
        real, by = "real images of their target", " (KID)"
        if found.paired:
            real, by = "real images of the same person with their target labels", ""
        why = (f"edits are {found.ratio:.2f} times as far from {real} as the unedited inputs{by}, "
               f"at most {bound:.2f} allowed")  # fmt: skip
    else:
        people = math.ceil(found.people * (half / (WIDTH * bound)) ** 2)
        why = (f"{few}{found.images} edits, {found.people} {people_are}, interval ± {half:.2f} "
               f"where ± {WIDTH * bound:.2f} decides; about {people} people needed; "
               f"{fix}")  # fmt: skip
    return Check("kid", found.ratio, bound, passed, why, True, found.low, found.high)


def _kid(kids: Sequence[Kid], dataset: str) -> Kid | None:
    return next((k for k in kids if (k.kind, k.dataset) == (KID, dataset)), None)


def no_less_real(
    champion: pd.DataFrame, challenger: pd.DataFrame, config: EvalConfig
) -> list[Check]:
    """The raster and the change outside of what edits are about rise by at most their margins."""
    from training.evaluation.summary import look_means

    margins = {"raster": config.margin_raster, "background": config.margin_background}
    judged = [name for setting, name in LOOKS.items() if getattr(config, setting)]
    if not judged:
        return []
    old, new = look_means(champion), look_means(challenger)
    return [_rise(n, new[n] - old[n], margins[n]) for n in judged if n in margins]


def no_farther(old: Sequence[Kid], new: Sequence[Kid], config: EvalConfig) -> list[Check]:
    """The distance of each data set from its real images rises by at most its margin."""
    if not config.max_kid:
        return []
    both = [(before, one) for one in new if (before := _kid(old, one.dataset)) and one.kind == KID]
    names = ["kid"] if len(both) == 1 else [f"kid {one.dataset}" for _, one in both]
    return [
        _rise(name, one.ratio - before.ratio, config.margin_kid)
        for name, (before, one) in zip(names, both, strict=True)
        # too few images are a reason of `_distance`
        if one.ratio is not None and before.ratio is not None
    ]


def _rise(name: str, value: float, margin: float) -> Check:
    why = f"{name} rises by {value:.3f}, at most {margin:.3f} is allowed"
    return Check(f"{name} change", value, margin, value <= margin, why, True)
