"""The promotion gate: its conditions, on hand-made score tables."""

import html as html_text
import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from training.core.config import EvalConfig
from training.evaluation.records import DomainKid, Kid
from training.registry.gate import METRICS, decide, mean_success
from training.registry.verdict import Verdict
from training.rendering import html

REAL = EvalConfig(bootstrap=200)
CONFIG = replace(REAL, max_kid=0.0)  # the distance is not in the tables
TASKS = ("Black_Hair", "Male", "Young")


def scores(success: dict[str, float] | float, people: int = 60, seed: int = 0, **more: Any) -> Any:
    """Score table with two images per person and every task; a share of the people succeeds."""
    rows = []
    for person in range(people):
        for image in range(2):
            for task in (*TASKS, "H+G"):
                share = success if isinstance(success, float) else success.get(task, 0.9)
                rows.append(
                    {
                        "dataset": "celeba",
                        "index": 2 * person + image,
                        "identity": f"p{person}",
                        "task": task,
                        "single": task in TASKS,
                        "changed": True,
                        "success": float((person * 7 + seed) % people < share * people),
                        "preservation": 0.9,
                        "identity_cosine": 0.8,
                        "self_psnr": 22.0,
                        "raster": [0.25, 0.0],
                        "background": 0.2,
                        "likeness": 0.6,
                    }
                    | more
                )
    return pd.DataFrame(rows)


def failed(verdict: Verdict) -> list[str]:
    return [check.name for check in verdict.checks if not check.passed]


def test_the_first_model_needs_the_floors_only() -> None:
    assert decide(None, scores(0.6), CONFIG).promoted
    low = decide(None, scores(0.4), CONFIG)
    assert not low.promoted
    assert failed(low) == ["success"]
    assert "0.400, floor 0.500" in low.reason
    assert failed(decide(None, scores(0.9, self_psnr=14.0), CONFIG)) == ["self_psnr"]


def test_a_clear_gain_is_promoted() -> None:
    verdict = decide(scores(0.7), scores(0.9), CONFIG)
    assert verdict.promoted
    assert "rises by 0.200" in verdict.reason
    assert {c.name for c in verdict.checks} >= {"success", "effect", "interval", "worst"}


def test_a_gain_below_the_minimum_effect_is_not_promoted() -> None:
    config = replace(CONFIG, min_effect=0.1)
    assert failed(decide(scores(0.7, 200), scores(0.77, 200), config)) == ["effect"]


def test_a_gain_that_is_not_significant_is_not_promoted() -> None:
    """Ten people: one more success exceeds the minimum effect, but not the interval."""
    verdict = decide(scores(0.7, people=10), scores(0.8, people=10), CONFIG)
    assert failed(verdict) == ["interval"]
    assert "not significant" in verdict.reason


def test_images_of_one_person_do_not_count_as_many() -> None:
    """A rise on images of many people passes; the same rise on images of one person does not."""
    old, new = scores(0.5), scores(0.7)
    strangers = [table.assign(identity="") for table in (old, new)]
    risen = old["index"].isin(old["index"][new["success"] > old["success"]])
    name = (old["index"] % 9).astype(str).where(~risen, "the one")
    few = [table.assign(identity=name) for table in (old, new)]
    assert decide(*strangers, CONFIG).promoted
    assert failed(decide(*few, CONFIG)) == ["interval"]


@pytest.mark.parametrize(
    ("metric", "value", "check"),
    [
        ("identity_cosine", 0.74, "identity"),
        ("preservation", 0.84, "preservation"),
        ("self_psnr", 20.9, "psnr"),
    ],
)
def test_a_loss_beyond_its_margin_is_refused_by_name(metric: str, value: float, check: str) -> None:
    worse = scores(0.9, **{metric: value})
    verdict = decide(scores(0.7), worse, CONFIG)
    assert failed(verdict) == [check]
    assert not verdict.promoted


def test_a_better_mean_does_not_compensate_for_a_worse_worst_attribute() -> None:
    old = scores({"Black_Hair": 0.7, "Male": 0.7, "Young": 0.7})
    new = scores({"Black_Hair": 1.0, "Male": 1.0, "Young": 0.55})
    assert failed(decide(old, new, CONFIG)) == ["worst"]


def test_a_model_no_better_than_a_copied_input_did_not_learn() -> None:
    config = replace(CONFIG, min_success=0.0)
    verdict = decide(None, scores(0.3), config, copy=scores(0.3))
    assert failed(verdict) == ["above a copied input"]
    assert "did not learn" in verdict.reason
    assert decide(None, scores(0.6), config, copy=scores(0.1)).promoted


def test_one_person_leaves_no_interval() -> None:
    """A bootstrap over one person has no variance, so any rise would seem certain."""
    alone = [scores(share).assign(identity="p0") for share in (0.6, 0.7)]
    verdict = decide(*alone, CONFIG)
    assert failed(verdict) == ["people"]
    assert "celeba: 1 person in the test split" in verdict.reason
    assert failed(decide(None, alone[1], CONFIG, copy=scores(0.1).assign(identity="p0"))) == [
        "people"
    ]


def test_a_model_no_better_than_its_self_reconstruction_did_not_learn() -> None:
    """Its edits are no better than its self-reconstruction."""
    table = scores(0.7)
    assert decide(None, table, CONFIG, copy=scores(0.1), reconstruction=scores(0.2)).promoted
    verdict = decide(None, table, CONFIG, copy=scores(0.1), reconstruction=table)
    assert failed(verdict) == ["above its self-reconstruction"]
    assert "its self-reconstruction" in verdict.reason


def test_the_gain_must_exceed_the_spread_over_seeds() -> None:
    old, new = scores(0.7), scores(0.8)
    assert decide(old, new, CONFIG, seeds=[scores(0.79), scores(0.81)]).promoted
    wide = decide(old, new, CONFIG, seeds=[scores(0.65), scores(0.9)])
    assert failed(wide) == ["seeds"]
    assert "3 seeds" in wide.reason


def test_combinations_and_unchanged_images_do_not_decide() -> None:
    table = scores(0.8)
    table.loc[table["task"] == "H+G", "success"] = 0.0
    same = table.iloc[:3].assign(index=999, changed=False, success=0.0)
    assert mean_success(pd.concat([table, same])) == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("whose", ["challenger", "champion", "copy", "seed 1"])
def test_a_value_that_is_not_finite_is_refused(metric: str, bad: float, whose: str) -> None:
    tables = {name: scores(0.9) for name in ("challenger", "copy", "seed 1")}
    tables["champion"] = scores(0.5)
    tables[whose].loc[5, metric] = bad
    verdict = decide(
        tables["champion"], tables["challenger"], CONFIG, [tables["seed 1"]], tables["copy"]
    )
    assert not verdict.promoted
    assert f"refused: {whose}: {metric} is not finite" in verdict.reason


@pytest.mark.parametrize("column", ["success", "identity", "single", "self_psnr"])
def test_a_missing_column_is_refused_by_name(column: str) -> None:
    verdict = decide(None, scores(0.9).drop(columns=column), CONFIG)
    assert not verdict.promoted
    assert column in verdict.reason


def test_tables_of_other_images_empty_ones_and_repeated_rows_are_refused() -> None:
    table = scores(0.9)
    assert "other images" in decide(scores(0.5, people=30), table, CONFIG).reason
    assert "no single edit" in decide(None, table.iloc[:0], CONFIG).reason
    twice = pd.concat([table, table.iloc[:2]])
    assert "2 rows of scores are duplicated" in decide(None, twice, CONFIG).reason


# of what the properties below state realism is no part, and the number of draws neither
PLAIN = replace(CONFIG, bootstrap=100, max_raster=0.0, max_background=0.0, min_identity=0.0)

shares = st.integers(0, 20).map(lambda n: n / 20)
tables = st.builds(
    lambda a, b, c, d, e, f: scores(
        {"Black_Hair": a, "Male": b, "Young": c},
        people=20,
        preservation=d,
        identity_cosine=e,
        self_psnr=10 + 20 * f,
    ),
    *[shares] * 6,
)


@settings(max_examples=20)
@given(tables)
def test_no_model_replaces_itself(table: Any) -> None:
    assert not decide(table, table, PLAIN).promoted


MARGINS = {
    "preservation": PLAIN.margin_preservation,
    "identity_cosine": PLAIN.margin_identity,
    "self_psnr": PLAIN.margin_psnr,
}


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Any, Any]:
    """A model and one that edits better; in some pairs one fact speaks against the other."""
    spoilt = draw(st.sampled_from(["", "", "", "success", "effect", "worst", *MARGINS]))
    low = 3 if spoilt == "success" else 8
    old = [draw(st.integers(low, 12)) for _ in TASKS]
    rises = [0, 1] if spoilt == "effect" else [4, 8]
    new = [share + draw(st.integers(*rises)) for share in old]
    if spoilt == "worst":
        new[0] = min(old) - 3
    start = {"preservation": 0.9, "identity_cosine": 0.8}
    start["self_psnr"] = draw(st.sampled_from([15.2, 22.0]))
    end = {}
    for metric, value in start.items():
        moves = [-4.0, -1.1] if metric == spoilt else [-0.1, 0.0, 2.0]
        end[metric] = value + MARGINS[metric] * draw(st.sampled_from(moves))
    one, other = (
        scores({task: n / 20 for task, n in zip(TASKS, shares, strict=True)}, 20, **metrics)
        for shares, metrics in ((old, start), (new, end))
    )
    return one, other


@settings(max_examples=30)
@given(pairs())
def test_two_models_never_replace_each_other(pair: tuple[Any, Any]) -> None:
    a, b = pair
    assume(decide(a, b, PLAIN).promoted)
    assert not decide(b, a, PLAIN).promoted


@settings(max_examples=50)
@given(pairs())
def test_a_promoted_challenger_breaks_no_condition(pair: tuple[Any, Any]) -> None:
    """Recomputed here from the tables."""
    a, b = pair
    assume(decide(a, b, PLAIN).promoted)

    def means(table: Any, metric: str) -> Any:
        return table[table["single"]].groupby("task")[metric].mean()

    rise = means(b, "success").mean() - means(a, "success").mean()
    assert rise >= PLAIN.min_effect - 1e-9
    assert means(b, "success").mean() >= PLAIN.min_success
    assert means(b, "success").min() >= means(a, "success").min() - PLAIN.margin_worst - 1e-9
    assert b["self_psnr"].mean() >= PLAIN.min_psnr
    for metric, margin in MARGINS.items():
        assert b[metric].mean() >= a[metric].mean() - margin - 1e-9


@settings(max_examples=20)
@given(tables, tables)
def test_a_challenger_is_promoted_if_every_condition_holds(a: Any, b: Any) -> None:
    verdict = decide(a, b, PLAIN)
    assert verdict.promoted == all(check.passed for check in verdict.checks)


@settings(max_examples=20)
@given(tables, tables, st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing(a: Any, b: Any, random: Any) -> None:
    def shuffled(table: Any) -> Any:
        return table.iloc[random.sample(range(len(table)), len(table))]

    one, other = decide(a, b, PLAIN), decide(shuffled(a), shuffled(b), PLAIN)
    assert (one.promoted, failed(one)) == (other.promoted, failed(other))


@settings(max_examples=30)
@given(pairs(), st.sampled_from(sorted(MARGINS)), st.sampled_from([0.5, 1.5, 4.0]))
def test_a_worse_metric_mends_no_condition(
    pair: tuple[Any, Any], metric: str, margins: float
) -> None:
    a, b = pair
    worse = b.assign(**{metric: b[metric] - margins * MARGINS[metric]})
    assert set(failed(decide(a, b, PLAIN))) <= set(failed(decide(a, worse, PLAIN)))


@pytest.mark.parametrize("metric", sorted(MARGINS))
def test_a_loss_within_its_margin_is_promoted(metric: str) -> None:
    old, new = scores(0.7), scores(0.9)
    worse = new.assign(**{metric: new[metric] - MARGINS[metric] / 2})
    assert decide(old, worse, CONFIG).promoted


def test_decisions_are_the_same_each_time() -> None:
    a, b = scores(0.70), scores(0.76)
    values = {decide(a, b, CONFIG).checks for _ in range(3)}
    assert len(values) == 1
    assert np.isfinite([check.value for check in values.pop()]).all()


def kid(ratio: float, half: float) -> Kid:
    """A distance of 80 people with the interval ratio ± half."""
    return Kid("kid_vgg", "celeba", images=300, people=80, domains=(), ratio=ratio,
               low=ratio - half, high=ratio + half, inputs_low=0.1)  # fmt: skip


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("raster", [9.0, 4.0], "stripes or checkerboards of 3.61 grey levels"),
        ("background", 0.9, "edits change 0.900 of the picture outside"),
        ("likeness", 0.1, "identity 0.100"),
    ],
)
def test_a_first_champion_must_look_right(column: str, value: Any, says: str) -> None:
    table = scores(0.9).assign(**{column: [value] * len(scores(0.9))})
    verdict = decide(None, table, CONFIG)
    assert failed(verdict) == [column]
    assert says in verdict.reason
    key = {"raster": "max_raster", "background": "max_background", "likeness": "min_identity"}
    assert decide(None, table, replace(CONFIG, **{key[column]: 0.0})).promoted


def test_edits_far_from_real_images_are_refused() -> None:
    table = scores(0.9)
    far = decide(None, table, REAL, kids=[kid(REAL.max_kid + 0.1, 0.05)])
    assert failed(far) == ["kid"]
    assert "times as far from real images of their target" in far.reason
    assert decide(None, table, REAL, kids=[kid(REAL.max_kid - 0.1, 0.05)]).promoted
    assert decide(None, table, replace(REAL, max_kid=0.0), kids=[kid(9.0, 0.05)]).promoted


def test_a_wide_interval_around_the_bound_is_too_few_images() -> None:
    """The number of people named is that at which the half-width is a quarter of the bound."""
    bound = REAL.max_kid
    near = decide(None, scores(0.9), REAL, kids=[kid(bound - 0.05, bound)])
    assert failed(near) == ["kid"]
    assert "too few images to judge realism: 300 edits, 80 people" in near.reason
    assert "about 1280 people needed" in near.reason
    # an interval that leaves no doubt decides, however wide
    far = decide(None, scores(0.9), REAL, kids=[kid(3 * bound, bound)])
    assert "as far from real images" in far.reason
    blind = decide(None, scores(0.9), REAL, kids=[replace(kid(1.2, 0.1), inputs_low=-0.1)])
    assert "does not tell 300 inputs from real images" in blind.reason
    none = decide(
        None, scores(0.9), REAL, kids=[replace(kid(0, 0), ratio=None, skipped=("celeba Male",))]
    )
    assert "no target has edits and real images of three people (celeba Male)" in none.reason


@pytest.mark.parametrize("name", ["raster", "background", "kid"])
def test_a_challenger_must_not_look_worse_by_more_than_the_margin(name: str) -> None:
    old, new = scores(0.7), scores(0.9)
    kids, old_kids = [kid(0.3, 0.02)], [kid(0.3, 0.02)]
    assert decide(old, new, REAL, kids=kids, champion_kids=old_kids).promoted
    if name == "raster":
        new = new.assign(raster=[[(0.5 + REAL.margin_raster + 0.1) ** 2, 0.0]] * len(new))
    elif name == "background":
        new = new.assign(background=0.2 + REAL.margin_background + 0.01)
    else:
        kids = [kid(0.3 + REAL.margin_kid + 0.01, 0.02)]
    verdict = decide(old, new, REAL, kids=kids, champion_kids=old_kids)
    assert failed(verdict) == [f"{name} change"]


def test_scores_without_a_measure_that_has_a_bound_are_refused() -> None:
    bare = scores(0.9).drop(columns="background")
    verdict = decide(None, bare, CONFIG)
    assert not verdict.promoted
    assert "background was not measured" in verdict.reason
    assert "eval.max_background=0" in verdict.reason
    assert decide(None, bare, replace(CONFIG, max_background=0.0)).promoted


def joint(first: Kid, second: Kid, **more: Any) -> tuple[Any, list[Kid]]:
    """A table of two data sets, and the distances of both."""
    table = pd.concat([scores(0.9), scores(0.9).assign(dataset="rafd", **more)], ignore_index=True)
    return table, [first, replace(second, dataset="rafd")]


def test_each_data_set_is_as_near_to_real_images_as_its_inputs() -> None:
    """A near one does not compensate for a far one, and the reason names it."""
    table, kids = joint(kid(0.5, 0.05), kid(1.5, 0.05))
    verdict = decide(None, table, REAL, kids=kids)
    assert failed(verdict) == ["kid rafd"]
    assert "rafd: edits are 1.50 times as far from real images" in verdict.reason
    risen = joint(kid(0.5, 0.05), kid(0.5 + REAL.margin_kid + 0.1, 0.05))[1]
    old = joint(kid(0.5, 0.05), kid(0.5, 0.05))[1]
    worse = decide(table.assign(success=0.0), table, REAL, kids=risen, champion_kids=old)
    assert failed(worse) == ["kid rafd change"]


@pytest.mark.parametrize("whose", ["challenger", "champion"])
def test_scores_without_the_distance_of_a_data_set_are_refused(whose: str) -> None:
    table, kids = joint(kid(0.5, 0.05), kid(0.5, 0.05))
    known = {"kids": kids, "champion_kids": kids}
    known["kids" if whose == "challenger" else "champion_kids"] = kids[:1]
    verdict = decide(table.assign(success=0.5), table, REAL, **known)
    assert not verdict.promoted
    assert f"refused: {whose}: kid was not measured for rafd; score the model" in verdict.reason
    assert decide(table.assign(success=0.5), table, CONFIG).promoted


def test_intensities_have_no_distance_and_the_verdict_says_so() -> None:
    table, kids = joint(kid(0.5, 0.05), kid(0.5, 0.05), error=0.1)
    verdict = decide(None, table, REAL, kids=kids[:1])
    assert verdict.promoted
    assert "kid is not judged for rafd: intensities have no target domains" in verdict.reason
    alone = decide(None, scores(0.9, error=0.1), REAL)
    assert alone.promoted
    assert "kid is not judged for celeba: intensities" in alone.reason


def test_the_verdict_names_targets_and_labels_that_could_not_be_judged() -> None:
    """A target without real images; a label with fewer than 8 training images."""
    table = scores(0.9)
    table.loc[table["task"] == "Young", "background"] = math.nan
    some = replace(kid(0.5, 0.05), skipped=("celeba Bald", "celeba not_Young"))
    verdict = decide(None, table, REAL, kids=[some])
    assert verdict.promoted
    assert "kid is not judged for celeba Bald, celeba not_Young: edits and real" in verdict.reason
    assert "background is not judged for celeba/Young: it needs 8 training images" in verdict.reason
    loose = DomainKid("celeba", "Male", 90, 40, 0, matched=False, value=0.1, inputs=0.2)
    near = decide(None, scores(0.9), REAL, kids=[replace(kid(0.5, 0.05), domains=(loose,))])
    assert "kid of celeba Male is from real images whose other labels differ" in near.reason


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("raster", None, "raster is unknown for every edit: sides that are odd or below 14 px"),
        ("background", math.nan, "background is unknown for every edit: it needs 8 training"),
        ("likeness", math.nan, "the second judge does not tell people apart"),
        ("raster", [math.nan, 1.0], "raster is not finite in 360 of 360 rows"),
        ("likeness", math.inf, "likeness is not finite in 360 of 360 rows"),
    ],
)
def test_a_measure_that_is_unknown_or_not_finite_is_refused_with_its_cause(
    column: str, value: Any, says: str
) -> None:
    table = scores(0.9)
    bad = table.assign(**{column: pd.Series([value] * len(table), index=table.index)})
    verdict = decide(None, bad, CONFIG)
    assert not verdict.promoted
    assert says in verdict.reason
    switch = {"raster": "max_raster", "background": "max_background", "likeness": "min_identity"}
    assert f"or set eval.{switch[column]}=0" in verdict.reason


def test_a_distance_that_is_not_finite_is_refused() -> None:
    broken = replace(kid(0.5, 0.05), ratio=math.nan, low=math.nan, high=math.nan)
    verdict = decide(None, scores(0.9), REAL, kids=[broken])
    assert failed(verdict) == ["kid"]
    assert "not finite" in verdict.reason


def test_images_of_unknown_people_are_counted_as_people_and_the_verdict_says_so() -> None:
    """Without any identity the gate works as with one image of each person."""
    table = scores(0.9, identity="")
    assert decide(None, table, REAL, kids=[kid(0.5, 0.05)], copy=scores(0.1, identity="")).promoted
    near = decide(None, table, REAL, kids=[kid(0.95, 1.0)])
    assert "80 people (an image of an unknown person counts as one)" in near.reason


def test_a_refusal_that_more_images_could_change_says_so() -> None:
    """Eight people whose rasters differ: the interval holds the bound."""
    table = scores(0.9, people=8)
    power = [[2.0 * (i % 5), 1.0] for i in table["index"]]
    verdict = decide(None, table.assign(raster=power), CONFIG)
    assert failed(verdict) == ["raster"]
    assert "more images may decide otherwise, eval.limit" in verdict.reason
    sure = decide(None, table.assign(raster=[[36.0, 0.0]] * len(table)), CONFIG)
    assert "more images" not in sure.reason


def test_the_verdicts_page_names_every_condition_in_plain_words() -> None:
    """No setting's or column's name stands for a condition."""
    old, new, kids = scores(0.7), scores(0.9), [kid(0.3, 0.02)]
    seeds = [scores(0.88), scores(0.92)]
    first = decide(None, new, REAL, copy=scores(0.1), reconstruction=scores(0.1), kids=kids)
    later = decide(old, new, REAL, copy=scores(0.1), seeds=seeds, kids=kids, champion_kids=kids)
    seen: set[str] = set()
    for verdict in (first, later):
        page = html.render(
            "promotion", name="m", version="1", champion="", verdict=verdict, pictures=[],
            drifts=[],
        )  # fmt: skip
        shown = [html_text.unescape(cell) for cell in re.findall("<tr><td>([^<]*)</td>", page)]
        assert len(shown) == len(set(shown)) == len(verdict.checks)
        assert not set(shown) & {check.name for check in verdict.checks}
        seen |= set(shown)
    some = {
        "gain over a copied input",
        "stripes and checkerboards, grey levels: change",
        "identity kept",
        "distance from real images, times the inputs'",
    }
    assert some <= seen
