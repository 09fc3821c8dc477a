"""Numbers of a comparison, on hand-made score tables."""

import io
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats

from training.core.config import EvalConfig
from training.data.labels import LabelSet, LabelSpace
from training.engine.schedule import Schedule
from training.engine.throughput import PROGRESS_POINTS, step_at, synthetic_labels
from training.evaluation.comparison.figures import shared_models
from training.evaluation.comparison.page import (
    Group,
    System,
    distance,
    distance_interval,
    intervals,
    seeds_interval,
)
from training.evaluation.comparison.runs import ComparedRun
from training.evaluation.metrics import wilson
from training.evaluation.paper_tables import Table, of_systems
from training.evaluation.records import Kid, PaperNumber, PaperResult
from training.evaluation.summary import summarise
from training.models import MODELS
from training.models.configure import resolve
from training.rendering.charts import Mark, cost_plot
from training.rendering.html import render
from training.storage.meta import EvaluationMeta
from training.storage.store import Manifest


def scores(success: float, people: int = 20) -> pd.DataFrame:
    """Score table of two tasks, two images per person; a share of the edits succeeds."""
    stream = np.random.default_rng(0)
    count = 2 * people
    rows = []
    for task in ("Male", "Young"):
        hits = (stream.random(count) < success).astype(float)
        rows.append(
            pd.DataFrame(
                {
                    "dataset": "celeba", "index": range(count), "task": task, "single": True,
                    "identity": [f"p{i // 2}" for i in range(count)], "changed": True,
                    "success": hits, "copy_success": 0.0, "blind_success": 0.0,
                    "preservation": stream.random(count), "others": 1,
                    "identity_cosine": stream.random(count), "background": stream.random(count),
                    "raster": list(stream.random((count, 3))), "likeness": 0.5,
                    **{k: stream.random(count) for k in ("self_psnr", "self_ssim",
                       "self_ssim_gaussian", "cycle_psnr", "cycle_ssim", "cycle_ssim_gaussian")},
                    **dict.fromkeys(("error", "error_others", "copy_error"), float("nan")),
                }
            )
        )  # fmt: skip
    return pd.concat(rows, ignore_index=True)


def test_interval_of_one_seed_equals_the_evaluation() -> None:
    table = scores(0.6)
    numbers, _ = summarise(table, EvalConfig())
    found = intervals([table])
    assert found["success_mean"] == pytest.approx((numbers.success_low, numbers.success_high))
    assert found["raster"] == pytest.approx((numbers.raster_low, numbers.raster_high))
    assert found["background"] == pytest.approx((numbers.background_low, numbers.background_high))


def test_seeds_that_differ_widen_the_interval() -> None:
    """A bootstrap over people alone would ignore the difference between seeds."""
    same = intervals([scores(0.5), scores(0.5)])["success_mean"]
    apart = intervals([scores(0.1), scores(0.9)])["success_mean"]
    assert apart[0] < 0.2 < 0.8 < apart[1]
    assert apart[1] - apart[0] > 2 * (same[1] - same[0])


def test_interval_over_seeds_is_students_t() -> None:
    """Only the seeds' means count if people do not differ; shares are clipped to 0..1."""
    seeds = [0.5, 0.6, 0.55]
    found = seeds_interval(np.tile(seeds, (10, 1)), 1.0)
    expected = stats.t.interval(0.95, 2, np.mean(seeds), stats.sem(seeds))
    assert found == pytest.approx(expected)
    assert seeds_interval(np.tile([0.2, 0.9], (10, 1)), 1.0) == (0, 1)
    alike = (
        np.random.default_rng(0).normal(20, 1, (4_000, 1)).repeat(2, 1)
    )  # variance between people only
    assert seeds_interval(alike, np.inf) == pytest.approx((20 - 1.96, 20 + 1.96), abs=0.1)


def test_interval_is_not_a_point_if_all_edits_succeed() -> None:
    """Twenty people: Wilson's interval in the evaluation, for one seed and for several."""
    table = scores(1.0)
    numbers, _ = summarise(table, EvalConfig())
    expected = numbers.success_low, numbers.success_high
    assert expected == pytest.approx(wilson(20, 20))
    assert intervals([table])["success_mean"] == pytest.approx(expected)
    assert intervals([table, table])["success_mean"] == pytest.approx(expected)


def test_preservation_is_none_without_other_labels() -> None:
    """Preservation is None without other labels, not 1."""
    numbers, _ = summarise(scores(0.5).assign(others=0), EvalConfig(bootstrap=50))
    assert numbers.preservation_mean is None
    assert summarise(scores(0.5), EvalConfig(bootstrap=50))[0].preservation_mean is not None


def test_shared_models_have_a_common_edit_and_image(
    make_dataset: Callable[..., Path], tmp_path: Path, store: Path
) -> None:
    """The second group shares hair with the first, the third Male: no edit is in all three."""
    groups = []
    for k, names in enumerate((("Blond_Hair", "Male"), ("Blond_Hair", "Young"), ("Male", "Bald"))):
        (tmp_path / str(k)).mkdir()
        data = Manifest.read(
            make_dataset(tmp_path / str(k) / "d.json", (LabelSet("celeba", "binary", names),))
        )
        meta = EvaluationMeta(identity="", judge="", dataset="", split="test", model="")
        scored = Manifest("evaluation", (), meta)
        groups.append([ComparedRun(f"model{k}", data, scored, data)])
    assert list(shared_models(groups)) == ["model0", "model1"]
    assert list(shared_models(groups[1:])) == []


def test_every_mean_lies_in_its_interval() -> None:
    table = scores(0.6)
    found = intervals([table])
    assert set(found) == {"success_mean", "preservation_mean", "identity_cosine", "self_psnr",
                          "self_ssim", "raster", "background"}  # fmt: skip
    older = table.drop(columns=["raster", "background", "likeness"])
    assert set(found) - set(intervals([older])) == {"raster", "background"}
    assert not {"raster", "background"} & set(intervals([table, older]))
    images = table.drop_duplicates("index")
    for name, values in (("self_psnr", images["self_psnr"]), ("self_ssim", images["self_ssim"]),
                         ("success_mean", table["success"]),
                         ("preservation_mean", table["preservation"]),
                         ("background", table["background"]),
                         ("identity_cosine", table["identity_cosine"])):  # fmt: skip
        low, high = found[name]
        assert low < values.mean() < high


@pytest.mark.parametrize("name", MODELS)
def test_throughput_is_measured_within_the_schedule(name: str) -> None:
    """At fixed positions of its schedule, none beyond the end, for any batches per step."""
    config = resolve(name, "demo")
    space = LabelSpace(tuple(labels for labels, _ in synthetic_labels(config.data)))
    train, phases = config.train, config.model.phases(space)
    schedule = Schedule(phases, 1, train.batch, train.warmup_images)
    for progress in PROGRESS_POINTS:
        images = int(progress * train.images)
        found = schedule.images(step_at(schedule, images, train.batch))
        assert images <= found < images + 4 * train.batch


def system(name: str, **known: Any) -> System:
    """A system whose fields are 0 or None, except `known`."""
    floats = {f.name: 0.0 for f in fields(System) if f.type == "float" or f.type is float}
    unknown = {f.name: None for f in fields(System) if "None" in str(f.type)}
    rest = {"learned": True, "models": 1.0, "intervals": {}, "seeds": {0: 0.5}, "tasks": {},
            "alarms": ()}  # fmt: skip
    return System(name=name, **{**floats, **unknown, **rest, **known})


def page(*systems: System, papers: tuple[Table, ...] = ()) -> str:
    """The text of a comparison page, with spaces between cells."""
    seeds = sorted({seed for s in systems for seed in s.seeds})
    group = Group(systems, "celeba", 0.0, seeds, (b"", ""), b"", papers)
    html = render("comparison", title="", made="", remark="", failed=(), groups=[group],
                  across=None)  # fmt: skip
    return " ".join(re.sub("<[^>]*>", " ", html.split("</style>")[1]).split())


def test_every_seed_is_on_the_page_where_there_are_several() -> None:
    """A missing seed is shown as a dash."""
    text = page(
        system("stargan", seeds={0: 0.5, 2: 0.25}), system("diat", seeds={2: 0.125})
    )  # fmt: skip
    assert "seed 0 seed 2 stargan 50.0 25.0 diat – 12.5" in text
    assert "seed" not in page(system("stargan")).replace("over seeds", "")


def test_numbers_by_papers_protocols_have_their_own_tables() -> None:
    error = PaperResult("stargan", "rafd", "neutral images only", 60, (
        PaperNumber("error", 0.0212, 420),
    ))  # fmt: skip
    tables = of_systems({"stargan": [[error]], "diat": [[]]})
    text = page(system("stargan", success_mean=0.5), system("diat"), papers=tuple(tables))
    ours, apart = text.split("Protocol: StarGAN (CVPR 2018), table 3, on rafd;")
    assert "Protocol: ours model learned" in ours
    assert "2.12 %" not in ours
    expected = "classification error of the edits, by image stargan 2.12 % diat –"
    assert expected in apart.split("The same held-out images")[0]


def test_every_table_of_a_comparison_names_its_protocol_or_says_that_it_has_none() -> None:
    error = PaperResult("stargan", "rafd", "neutral images only", 60, (
        PaperNumber("error", 0.0212, 420),
    ))  # fmt: skip
    systems = (system("stargan", seeds={0: 0.5, 2: 0.25}), system("diat"))
    group = Group(
        systems, "celeba", 0.0, [0, 2], (b"", ""), b"", tuple(of_systems({"a": [[error]]}))
    )
    html = render("comparison", title="", made="", remark="", failed=(), groups=[group],
                  across=None)  # fmt: skip
    tables = html.split("<table>")[1:]
    assert len(tables) == 6
    for table in tables:
        found = re.match(r"\s*<caption>([^<]*)</caption>", table)
        assert found is not None
        assert found[1].startswith(("Protocol: ", "Cost, independent of the protocol"))


def kid(dataset: str, ratio: float | None, half: float = 0.0) -> Kid:
    ends = {} if ratio is None else {"low": ratio - half, "high": ratio + half}
    return Kid("kid_vgg", dataset, 100, 30, (), ratio=ratio, **ends)


def test_the_distance_of_a_system_covers_people_data_sets_and_seeds() -> None:
    assert distance([]) is None
    assert distance([kid("celeba", 0.5, 0.1), kid("rafd", None)]) is None
    one = distance([kid("celeba", 0.5, 0.1)])
    assert one == (0.5, pytest.approx((0.4, 0.6)))
    assert one is not None
    assert distance_interval([one]) == one[1]
    # independent: half of √(0.3² + 0.4²)
    assert distance([kid("celeba", 0.5, 0.3), kid("rafd", 1.5, 0.4)]) == (
        1.0, pytest.approx((0.75, 1.25))
    )  # fmt: skip
    assert distance_interval([one, one]) == pytest.approx(one[1])
    apart = distance_interval([(v, (v - 1e-9, v + 1e-9)) for v in (0.5, 0.6, 0.55)])
    expected = stats.t.interval(0.95, 2, 0.55, stats.sem([0.5, 0.6, 0.55]))
    assert apart == pytest.approx(expected)


def test_realism_is_on_the_page_and_a_dash_where_it_was_not_measured() -> None:
    ends = {"raster": (1.0, 2.0), "kid": (0.5, 1.0), "background": (0.25, 0.5)}
    text = page(
        system("stargan", raster=1.5, kid=0.75, background=0.375, intervals=ends), system("diat")
    )
    assert "1.50 [1.00 – 2.00] 0.75 [0.50 – 1.00] 0.375 [0.250 – 0.500] diat" in text
    assert "diat yes – 100.0 0.0 – – – – – – – Success is measured" in text


def test_long_names_do_not_shrink_the_plots() -> None:
    """The plots have the same size for any name, without warnings."""
    sizes = [
        Image.open(io.BytesIO(cost_plot([Mark(name, 0.5, 0.4, 0.6, 1e6, 1.0, 2.0)]))).size
        for name in ("a", "attgan:" + "shortcut_layers=0+" * 12)
    ]
    assert sizes[0] == sizes[1]


def test_page_lists_intensity_errors() -> None:
    intensities_system = system(
        "ganimation", error_mean=0.31, copy_error_mean=0.62, judge_error=0.05
    )
    line = "ganimation 0.310 (copied input 0.620, the judge on real images 0.050)."
    assert line in page(intensities_system, system("stargan"))
    assert "judged intensities" not in page(system("stargan"))
