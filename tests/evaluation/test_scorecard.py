"""The page of a full evaluation, and what is stored of it."""

import json
import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import pandas as pd
import pytest

from training.evaluation.numbers import flat
from training.evaluation.protocol import PROTOCOL
from training.evaluation.records import (
    ComparedModel,
    Comparison,
    Cost,
    Distance,
    DomainDistance,
    DomainKid,
    Drift,
    Evaluation,
    Figure,
    GroupGap,
    GroupScore,
    JudgeFacts,
    Kid,
    MaskResult,
    PaperNumber,
    PaperResult,
    StyleSpread,
    Subject,
    Summary,
    SweepPoint,
    TaskScore,
    Untold,
    Verification,
    stored_symptoms,
    stored_tasks,
)
from training.evaluation.scorecard import render
from training.models.base import Diagnostic

GOLDEN = Path(__file__).parent / "golden"
JUDGE = {
    "config": {"seed": 7},
    "datasets": [
        {
            "name": "celeba", "kind": "binary", "names": ["Male", "Young"], "accuracy": 0.9,
            "second_accuracy": 0.8, "verification_auc": 0.7, "people": 30, "train_images": 1234,
            "test_images": 56, "labels": {
                "Male": {"accuracy": 0.91, "balanced": 0.93, "share": 0.4},
                "Young": {"accuracy": 0.88, "balanced": 0.6, "share": 0.1},
            },
        },
        {
            "name": "units", "kind": "continuous", "names": ["AU06"], "accuracy": 0.85,
            "second_accuracy": 0.8, "verification_auc": None, "people": 0, "train_images": 90,
            "test_images": 12, "error": 0.06,
            "labels": {"AU06": {"accuracy": 0.8, "balanced": 0.85, "share": 0.3}},
        },
        {
            "name": "rafd", "kind": "onehot", "names": ["happy"], "accuracy": 1.0,
            "second_accuracy": 0.9, "verification_auc": None, "people": 1, "train_images": 40,
            "test_images": 8, "labels": {"happy": {"accuracy": 1.0, "balanced": 1.0, "share": 0.2}},
        },
    ],
}  # fmt: skip


def evaluation() -> Evaluation:
    task = TaskScore("celeba", "Male", True, 40, 20, 0.75, 0.6, 0.875, 0.05, 0.1, 0.9, 1, 0.81)
    return Evaluation(
        subject=Subject("f" * 64, "a" * 64, "d" * 64, "test", "e" * 64),
        config={"name": "stgan", "preset": "<b>demo</b>", "model": {"test_int": 1.5}},
        summary=Summary(
            0.7, 0.55, 0.85, 0.4, 0.8, 0.04, 0.125, 0.31, True, 0.82, 0.91, 22.5, 0.75, 0.76, 20.25,
            0.65, 0.66, error_mean=0.3, error_others_mean=0.02, copy_error_mean=0.6,
            error_low=0.25, error_high=0.35, success_combined=0.5, raster=3.25, raster_low=3.0,
            raster_high=3.5, background=0.5, background_low=0.4, background_high=0.6,
            likeness=0.3, likeness_low=0.2, likeness_high=0.4,
        ),
        tasks=[
            task,
            replace(task, task="Young", success=0.4, low=0.25, high=0.55),
            replace(task, task="G+A", single=False, success=0.5, others=0),
            replace(task, dataset="units", task="AU06", error=0.3, error_others=0.02,
                    copy_error=0.6),
            replace(task, dataset="rafd", task="happy", success=0.8, people=1234),
        ],
        domains=[
            DomainDistance("celeba", "Male", 20, {"frechet_vgg": Distance(12.345678, 1.5, 13.0),
                                                  "fid": Distance(99.5, 30.25, 101.0)}),
            DomainDistance("celeba", "not_Male", 9, {"frechet_vgg": Distance(8.0, 1.25),
                                                     "fid": Distance(77.0, 20.0)}),
        ],
        kids=[
            Kid("kid_vgg", "celeba", 200, 60, (
                DomainKid("celeba", "Male", 120, 90, 0, True, 0.25, 0.5),
                DomainKid("celeba", "not_Male", 80, 70, 4, True, 0.75, 0.5),
            ), value=0.5, value_low=0.4, value_high=0.6, inputs=0.5, inputs_low=0.3, ratio=1.0,
               low=0.75, high=1.25),
        ],
        diversity=[StyleSpread("latent", "celeba", "Male", "lpips", 0.25, 0.5, 32)],
        styles=[DomainDistance("celeba", "Male", 64, {"frechet_vgg": Distance(11.0, 1.5)},
                               way="latent")],
        cost=Cost(8430528.0, 53000000.0, 1.0, 9.9637, 31.04, 44.0),
        judge=JudgeFacts.read(JUDGE),
        masks=[
            MaskResult("celeba", "rafd", 64, 0.5, (0.4, 0.6), 0.125, (0.05, 0.2), 0.125),
            MaskResult("celeba", "other", 64, 0.1, (0.05, 0.2), 0.125, (0.05, 0.2), 0.125),
        ],
        verification=[
            Verification("celeba", 60, 7080, 1000, 0.8, 7, 0.5, 0.4, 0.6, 60, 0.95),
            Verification("rafd", 4, 24, 1000),
        ],
        sweep=[
            SweepPoint(1.0, 0.7, 0.4, 0.91, 0.82),
            SweepPoint(1.5, 0.8, 0.5, None, 0.75),
        ],
        symptoms=[
            Diagnostic("balance", 1.25, -0.1, 1.0, "D has left G behind"),
            Diagnostic("diversity", 0.02, 0.01, 10.0, "one picture for all"),
        ],
        training={"seconds": 600.0, "images": 2000.0, "data_wait_share": 0.05, "balance": 0.5,
                  "steps": 9.0},
        comparison=Comparison("rafd", (
            ComparedModel("joint", "e" * 64, 0.7, 0.6, 0.8, 0.82, 22.5),
            ComparedModel("single", "stargan@champion", 0.5, 0.4, 0.6, 0.8, 21.0),
        )),
        pictures=[Figure(f"{kind}_celeba.png", b"png", f"caption of {kind} & more")
                  for kind in ("samples", "fig7_proper", "fig7_wrong", "fig6", "worst", "looks")],
        table=pd.DataFrame(),
    )  # fmt: skip


def text(page: str) -> str:
    """The visible text of a page, one line per element."""
    parts = map(unescape, re.split("<[^>]*>", page.split("</style>")[1]))
    return "\n".join(" ".join(part.split()) for part in parts if part.strip()) + "\n"


FACTS = {
    "the mean, its interval and both baselines": [
        "Single edits succeed in 70.0 % [55.0 – 85.0 %]. Baselines: a copied input scores 4.0 %, "
        "the model's self-reconstruction 12.5 %.",
    ],
    "the best single edit": ["best edit", "rafd happy: 80.0 %"],
    "the worst single edit": ["worst edit", "celeba Young: 40.0 %"],
    "both reconstructions": [
        "22.50 dB, 0.750", "cycle PSNR, cycle SSIM (E3)", "20.25 dB, 0.650",
    ],
    "a verification with enough impostors": [
        "50.0 % [40.0 – 60.0 %] at a threshold passed by 7 of 7,080 impostor pairs (of 60 people), "
        "1 in 1,000; genuine pairs 95.0 %",
    ],
    "a verification with too few": ["unknown: 24 impostor pairs (of 4 people), 1,000 required"],
    "the distances' means over domains": ["10.2 (floor, real to real: 1.38)"],
    "a domain's distances": [
        "celeba", "Male", "12.35", "1.5", "13", "99.5", "30.25", "101", "20",
    ],
    "a domain without a distance to training images": [
        "celeba", "not_Male", "8", "1.25", "–", "77", "20", "–", "9",
    ],
    "a task beside the judge's accuracy on its label": [
        "celeba", "Male", "75.0 %", "60.0 – 87.5 %", "5.0 %", "91.0 %", "90.0 %", "0.810", "40",
        "20",
    ],
    "a combination, which leaves no other label": [
        "celeba", "G+A", "50.0 %", "60.0 – 87.5 %", "5.0 %", "–", "0.810", "40", "20",
    ],
    "the error of intensities": [
        "Mean absolute error of the judged intensity (0 to 1): 0.300 [0.250 – 0.350]; of a copied "
        "input 0.600; of the judge on real images 0.060.",
    ],
    "the realism of the edits": [
        "stripes and checkerboards", "3.25 [3.00 – 3.50] grey levels",
        "change outside of what edits are about", "0.500 [0.400 – 0.600]",
        "distance from real images of the target by the VGG judge (E4)",
        "1.00 [0.75 – 1.25] times that of the unedited inputs; KID 0.5 [0.4 – 0.6]",
    ],
    "a domain's distance beside its inputs'": [
        "celeba", "KID", "not_Male", "0.75", "0.5", "80", "70",
        "all; without 4 edits that no real image matches",
    ],
    "the pictures of what looks wrong": ["What looks wrong", "caption of looks & more"],
    "the diversity of styles": ["latent", "celeba", "Male", "0.250", "0.500", "32"],
    "the distance over many styles": ["latent", "celeba", "Male", "11", "1.5", "–", "64"],
    "an intensity beyond training, nothing preserved": [
        "1.5", "80.0 %", "50.0 %", "–", "0.750",
    ],
    "a symptom out of its range": ["balance", "1.25", "-0.1", "1", "D has left G behind"],
    "a symptom in its range": ["diversity", "0.02", "0.01", "10", "healthy"],
    "a mask above chance": [
        "Expressions of rafd on 64 faces of celeba: 50.0 % [40.0 – 60.0 %] with the proper mask, "
        "which exceeds chance (12.5 %); 12.5 % [5.0 – 20.0 %] with the wrong one.",
    ],
    "a mask at chance": [
        "Expressions of other on 64 faces of celeba: 10.0 % [5.0 – 20.0 %] with the proper mask, "
        "which does not exceed chance (12.5 %); 12.5 % [5.0 – 20.0 %] with the wrong one.",
    ],
    "the compared model": ["single", "50.0 %", "40.0 – 60.0 %", "0.800", "21.00"],
    "a picture's caption": ["Worst edits", "caption of worst & more"],
    "the cost": ["GMAC per translation", "9.964", "images/s, batch 1", "31.0"],
    "the training's length": ["training time", "10.0 min", "training images", "2,000"],
    "the judge's own scores": [
        "celeba", "90.0 %", "80.0 %", "0.700", "30", "1,234", "56",
        "units", "85.0 %", "80.0 %", "–", "not trained", "90", "12",
    ],
    "a label that the judge does not know": [
        "The judge is unreliable for celeba Young: balanced accuracy below 70 %.",
    ],
    "what may be compared": [
        "fingerprint", "f" * 64, "protocol", f"ours, number {PROTOCOL}", "split", "test", "judge",
        "a" * 64,
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def whole_page() -> str:
    return text(render(evaluation()))


@pytest.mark.parametrize("fact", FACTS)
def test_the_page_shows(fact: str, whole_page: str) -> None:
    """Each number of the evaluation beside its name, rounded for a reader."""
    assert "\n".join(["", *FACTS[fact], ""]) in whole_page


def test_an_unsuccessful_sparse_evaluation_has_a_page() -> None:
    """Without styles, masks, intensities, distances, a comparison or a training's summary."""
    full = evaluation()
    summary = replace(full.summary, learned=False, preservation_mean=None, error_mean=None)
    sparse = replace(full, summary=summary, tasks=full.tasks[:2], domains=[], diversity=[],
                     styles=[], masks=[], verification=[], sweep=[], symptoms=[], training={},
                     comparison=None, pictures=full.pictures[:1])  # fmt: skip
    page_text = text(render(sparse))
    assert "Did not learn: single edits succeed in 70.0 % [55.0 – 85.0 %]" in page_text
    assert "celeba: too few test images for a Fréchet distance (at least 8 per side)." in page_text
    for word in ("Intensities", "Diversity (E5)", "Test intensity", "Symptoms", "Training",
                 "Two models", "mask"):  # fmt: skip
        assert word not in page_text


def test_numbers_by_a_papers_protocol_are_apart_and_named() -> None:
    """In tables of their own; an evaluation by ours has none, and no other number changes."""
    by_paper = PaperResult("stgan", "celeba", "every image, each attribute flipped", 8, (
        PaperNumber("accuracy", 0.8605, 16), PaperNumber("accuracy", 0.5, 8, "Male"),
    ), "too few images: Male to Young")  # fmt: skip
    full = evaluation()
    found = replace(full, papers=[by_paper], subject=replace(full.subject, protocol="paper"))
    page = text(render(found))
    title = "AttGAN (TIP 2019) and STGAN (CVPR 2019)"
    assert "protocol of all numbers but those by the papers': ours, number 8" in page
    assert f"\nBy the protocol of {title}: celeba\n" in page
    assert f"\nProtocol: {title}\nflipped attribute classified as flipped\nall\n86.05 %\n" in page
    assert "Not measured: too few images: Male to Young." in page
    assert "units, rafd: no paper has a number for intensities." in page
    assert "By the protocol" not in text(render(full))
    details, metrics = found.details(), flat(found)
    assert (details["protocol"], details["papers"][0]["protocol"]) == ("paper", "stgan")
    new = {k: v for k, v in metrics.items() if k.startswith("paper_")}
    assert {k: v for k, v in metrics.items() if k not in new} == flat(full)
    assert new["paper_stgan_accuracy_celeba_Male"] == 0.5


def test_details_and_metrics_keep_their_stored_names_and_order() -> None:
    stored = json.loads((GOLDEN / "evaluation.json").read_text())
    found = evaluation()
    for name, value in (("details", found.details()), ("metrics", flat(found))):
        assert json.dumps(value) == json.dumps(stored[name]), name


def test_stored_details_can_be_read() -> None:
    found = evaluation()
    details = json.loads(json.dumps(found.details()))
    assert stored_tasks(details) == found.tasks
    assert stored_symptoms(details) == found.symptoms
    with pytest.raises(ValueError, match=r"stored TaskScore: .*success.*; evaluate"):
        stored_tasks({"tasks": [{"dataset": "celeba", "task": "Male"}]})


def test_a_number_that_is_not_finite_is_refused_by_name() -> None:
    broken = replace(evaluation(), cost=replace(evaluation().cost, gmac=float("nan")))
    with pytest.raises(ValueError, match="not finite: gmac; the model or the judge is broken"):
        flat(broken)


def test_drift_from_the_training_images_is_shown_with_its_p_value() -> None:
    found = Drift("celeba", 0.0312, 0.044, 0.006, 999, 1000, 384, 246, 51)
    whole = replace(evaluation(), drifts=[found, Untold("rafd", "too few people")])
    page = " ".join(re.sub(r"<[^>]+>", " ", unescape(render(whole))).split())
    assert "celeba 0.0312 0.044 ± 0.006 246 51 1,000 384 no difference found" in page
    assert "rafd unknown: too few people" in page
    numbers = flat(whole)
    assert numbers["drift_celeba"] == 0.0312
    assert numbers["drift_p_celeba"] == 0.044
    assert not [name for name in numbers if "drift" in name and "rafd" in name]
    assert whole.details()["drift"][1] == {"dataset": "rafd", "why": "too few people"}
    assert "drift" not in evaluation().details()


def test_groups_and_gaps_are_on_the_page_and_the_gaps_among_the_numbers() -> None:
    groups = [
        GroupScore("celeba", "Male", "Male", 40, 12, {"success": (0.5, 0.4, 0.6)}),
        GroupScore("celeba", "Male", "not Male", 6, 2, {}),
    ]
    gap = GroupGap("celeba", "success", "Male", "not Male", "Male", 0.2, -0.1, 0.5, 3)
    whole = replace(evaluation(), groups=groups, gaps=[gap])
    page = " ".join(re.sub(r"<[^>]+>", " ", unescape(render(whole))).split())
    assert "celeba Male Male 40 12 0.50 [0.40 – 0.60] – – –" in page
    assert "celeba Male not Male 6 2 – – – –" in page
    assert "celeba success not Male and Male 0.200 -0.100 – 0.500 3" in page
    numbers = flat(whole)
    assert {name: numbers[name] for name in numbers if name.startswith("gap_")} == {
        "gap_success": 0.2, "gap_success_low": -0.1, "gap_success_high": 0.5,
    }  # fmt: skip
    assert whole.details()["groups"][0]["scores"] == {"success": (0.5, 0.4, 0.6)}
    assert "By group of people" not in render(evaluation())
