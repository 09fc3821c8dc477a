"""E6 as face verification, on people whose vectors are drawn: no judge is trained here."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from training.core.config import EvalConfig
from training.data.labels import LabelSet
from training.evaluation.numbers import verification_numbers
from training.evaluation.score import View
from training.evaluation.verification import verification

LABELS = LabelSet("celeba", "binary", ("Male",))
CONFIG = EvalConfig(bootstrap=50)


@dataclass
class People:
    """A data set whose images say by their number who is on them; two of each person."""

    people: int
    known: bool = True

    @property
    def identity(self) -> list[str]:
        return [f"p{i // 2}" if self.known else "" for i in range(2 * self.people)]

    def images(self, rows: list[int]) -> Tensor:
        return torch.tensor(rows)[:, None, None, None].expand(-1, 1, 1, 3)


class Drawn:
    """A judge to whom images of one person look alike, and few of two people do."""

    def __init__(self, people: int) -> None:
        stream = torch.Generator().manual_seed(0)
        whole = torch.randn(people, 8, generator=stream).repeat_interleave(2, 0)
        self.vectors = F.normalize(whole + 0.2 * torch.randn(2 * people, 8, generator=stream))

    def features(self, judged: int, images: Tensor) -> Tensor:
        return images[:, 0, 0, 0]

    def embed(self, judged: int, rows: Tensor) -> Tensor:
        return self.vectors[rows]


def verified(people: int, cosines: Any, monkeypatch: pytest.MonkeyPatch, **more: Any) -> Any:
    """What is found of edits with these cosines, one an image, and the judge."""
    monkeypatch.setattr("training.evaluation.verification.to_float", lambda images: images)
    part, judge = People(people, **more), Drawn(people)
    rows = list(range(2 * people))
    view = View(LABELS, 0, 0, lambda c: c, rows, torch.zeros(len(rows), 1), [])
    table = pd.DataFrame(
        {"dataset": "celeba", "index": rows, "identity": part.identity, "single": True,
         "changed": True, "identity_cosine": cosines}
    )  # fmt: skip
    faces: Any = type("", (), {"parts": [part]})
    (found,) = verification(table, faces, judge, [view], CONFIG)  # type: ignore[arg-type]
    return found, judge


def test_a_copy_is_verified_and_another_person_as_often_as_an_impostor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Against every pair of two people, counted one by one."""
    found, judge = verified(60, 1.0, monkeypatch)
    v = judge.vectors.double().numpy()
    impostors = [float(v[i] @ v[j]) for i in range(120) for j in range(i) if i // 2 != j // 2]
    assert (found.impostors, found.people) == (len(impostors), 60) == (7080, 60)
    passing = sum(score > found.threshold + 1e-6 for score in impostors)
    assert passing == found.passing == 7
    assert found.rate == 1
    assert found.genuine == 60
    real = np.mean([v[2 * i] @ v[2 * i + 1] > found.threshold for i in range(60)])
    assert found.real_rate == pytest.approx(real)
    strangers = [v[i] @ v[(i + 2) % 120] for i in range(120)]
    other, _ = verified(60, strangers, monkeypatch)
    assert other.rate == np.mean([score > found.threshold for score in strangers]) < 0.05


@pytest.mark.parametrize(("people", "known", "pairs"), [(20, True, 760), (60, False, 0)])
def test_with_too_few_impostors_there_is_no_rate_and_it_is_said(
    people: int, known: bool, pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forty images of twenty people are 760 pairs; of nobody known there is none."""
    found, _ = verified(people, 1.0, monkeypatch, known=known)
    assert verification_numbers([found]) == {"verification_impostors_celeba": pairs}
    assert found.people == (people if known else 0)
    assert found.needed == 1_000
    assert found.rate is None


def test_a_known_rate_is_a_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = verified(60, 1.0, monkeypatch)
    assert verification_numbers([found])["verification_rate_celeba"] == 1
