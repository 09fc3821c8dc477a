"""E6 as face verification, on random identity vectors instead of a trained judge."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from training.core.config import EvalConfig
from training.core.names import named
from training.data.labels import LabelSet
from training.evaluation.numbers import verification_numbers
from training.evaluation.score import View
from training.evaluation.verification import verification

LABELS = LabelSet("celeba", "binary", ("Male",))
CONFIG = EvalConfig(bootstrap=50)


@dataclass
class People:
    """A data set with two images per person; pixel values are row numbers."""

    people: int
    known: bool = True

    @property
    def identity(self) -> list[str]:
        return [f"p{i // 2}" if self.known else "" for i in range(2 * self.people)]

    def images(self, rows: list[int]) -> Tensor:
        return torch.tensor(rows)[:, None, None, None].expand(-1, 1, 1, 3)


class RandomJudge:
    """A judge with similar identity vectors for images of the same person."""

    def __init__(self, people: int) -> None:
        stream = torch.Generator().manual_seed(0)
        whole = torch.randn(people, 8, generator=stream).repeat_interleave(2, 0)
        self.vectors = F.normalize(whole + 0.2 * torch.randn(2 * people, 8, generator=stream))

    def features(self, judged: int, images: Tensor) -> Tensor:
        return images[:, 0, 0, 0]

    def embed(self, judged: int, rows: Tensor) -> Tensor:
        return self.vectors[rows]


def verified(people: int, cosines: Any, monkeypatch: pytest.MonkeyPatch, **more: Any) -> Any:
    """Verification of edits with these cosines, one per image, and the judge."""
    monkeypatch.setattr("training.evaluation.verification.to_float", lambda images: images)
    part, judge = People(people, **more), RandomJudge(people)
    rows = list(range(2 * people))
    view = View(LABELS, 0, 0, lambda c: c, rows, torch.zeros(len(rows), 1), [])
    table = pd.DataFrame(
        {"dataset": "celeba", "index": rows, "identity": part.identity, "single": True,
         "changed": True, "identity_cosine": cosines}
    )  # fmt: skip
    faces: Any = type("", (), {"parts": [part]})
    (result,) = verification(table, faces, judge, [view], CONFIG)  # type: ignore[arg-type]
    return result, judge


def test_a_copy_is_verified_and_another_person_as_often_as_an_impostor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Against every pair of two people, counted one by one."""
    result, judge = verified(60, 1.0, monkeypatch)
    v = judge.vectors.double().numpy()
    impostors = [float(v[i] @ v[j]) for i in range(120) for j in range(i) if i // 2 != j // 2]
    assert (result.impostors, result.people) == (len(impostors), 60) == (7080, 60)
    passing = sum(score > result.threshold + 1e-6 for score in impostors)
    assert passing == result.passing == 7
    assert result.rate == 1
    assert result.genuine == 60
    real = np.mean([v[2 * i] @ v[2 * i + 1] > result.threshold for i in range(60)])
    assert result.real_rate == pytest.approx(real)
    strangers = [v[i] @ v[(i + 2) % 120] for i in range(120)]
    other, _ = verified(60, strangers, monkeypatch)
    assert other.rate == np.mean([score > result.threshold for score in strangers]) < 0.05


@pytest.mark.parametrize(("people", "known", "pairs"), [(20, True, 760), (60, False, 0)])
def test_no_rate_with_too_few_impostors(
    people: int, known: bool, pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forty images of twenty people give 760 impostor pairs; without identities there are none."""
    result, _ = verified(people, 1.0, monkeypatch, known=known)
    assert named(verification_numbers([result])) == {"verification_impostors_celeba": pairs}
    assert result.people == (people if known else 0)
    assert result.needed == 1_000
    assert result.rate is None


def test_a_known_rate_is_a_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    result, _ = verified(60, 1.0, monkeypatch)
    assert named(verification_numbers([result]))["verification_rate_celeba"] == 1
