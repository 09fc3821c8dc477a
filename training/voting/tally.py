"""Statistics of first choices: shares, Bradley-Terry strengths, agreement, and their intervals."""

from dataclasses import dataclass

import numpy as np

from training.evaluation.metrics import Interval, wilson

MISSING = -1


@dataclass(frozen=True)
class Votes:
    """Choices (voters, questions) as the model's number, and the person on each question's face."""

    chosen: np.ndarray
    people: np.ndarray  # (questions,)

    def of(self, questions: np.ndarray) -> "Votes":
        """Those of some questions, given as booleans (questions,)."""
        return Votes(self.chosen[:, questions], self.people[questions])


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


def counts(votes: Votes, models: int) -> np.ndarray:
    """Votes of each model (models,)."""
    return np.bincount(votes.chosen.ravel(), minlength=models).astype(np.float64)


def bootstrap(votes: Votes, models: int, draws: int, seed: int = 0) -> np.ndarray:
    """Votes of each model (draws, models) when voters and people on the faces are drawn anew.

    The two-way cluster bootstrap (the pigeonhole bootstrap of Owen 2007): whole voters and whole
    people are drawn with replacement, independently; a vote weighs the product of how often its
    voter and its person were drawn. Its variance suits random effects of both, but for the factor
    (n − 1)/n of n voters or people, which matters where they are few.
    """
    names, person = np.unique(votes.people, return_inverse=True)
    voters = len(votes.chosen)
    rng = np.random.default_rng(seed)
    by_voter, by_person = (
        rng.multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)
        for n in (voters, len(names))
    )
    member = np.eye(len(names))[person]  # (questions, people)
    out = np.empty((draws, models))
    for model in range(models):
        cells = (votes.chosen == model).astype(np.float64) @ member  # (voters, people)
        out[:, model] = ((by_voter @ cells) * by_person).sum(1)
    return out


def strengths(votes: np.ndarray) -> np.ndarray:
    """Bradley-Terry log-strengths β (…, n) of n models from votes (…, n), with mean 0.

    The first-choice part of the Plackett-Luce model: of the options S, i is chosen with probability
    exp βᵢ / Σ_{j∈S} exp βⱼ; with two models it is Bradley and Terry's. As every question shows all
    models, the likelihood is the multinomial's and β = log shares, centred, is its maximum. A model
    without any vote has no finite maximum; half a vote is then added to every model.
    """
    votes = np.asarray(votes, np.float64)
    lacking = (votes <= 0).any(-1, keepdims=True)
    logs = np.log(np.where(lacking, votes + 0.5, votes))
    return np.asarray(logs - logs.mean(-1, keepdims=True))


def estimates(votes: Votes, models: int, draws: int) -> tuple[list[Estimate], list[Estimate]]:
    """Shares and strengths of the models, with percentile intervals of `bootstrap`.

    A share of 0 or 1 leaves nothing to draw; it has Wilson's interval, as if each voter or each
    person, whichever are fewer, were one trial.
    """
    found, drawn = counts(votes, models), bootstrap(votes, models, draws)
    trials = min(len(votes.chosen), len(np.unique(votes.people)))
    share = found / found.sum()
    drawn_shares = drawn / drawn.sum(1, keepdims=True)
    ends = np.percentile(drawn_shares, [2.5, 97.5], axis=0).T
    shares = []
    for value, (low, high) in zip(share, ends, strict=True):
        if value in (0.0, 1.0):
            low, high = wilson(float(value) * trials, trials)
        shares.append(Estimate(float(value), float(low), float(high)))
    beta = strengths(found)
    lows, highs = np.percentile(strengths(drawn), [2.5, 97.5], axis=0)
    rated = [Estimate(*map(float, one)) for one in zip(beta, lows, highs, strict=True)]
    return shares, rated


def alpha(chosen: np.ndarray) -> float | None:
    """Krippendorff's α for nominal data (observers, units); MISSING where there is none.

    α = 1 − D_o/D_e (Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C): 1
    is agreement, 0 chance. Units with one value are left out. None if nothing can be compared, or
    all values are alike, where it is not defined.
    """
    categories = int(chosen.max(initial=0)) + 1
    table = (chosen[:, :, None] == np.arange(categories)).sum(0)  # (units, categories)
    return _alpha(table, np.ones(len(table)))


def _alpha(table: np.ndarray, weights: np.ndarray) -> float | None:
    """α of values by unit and category, each unit counted `weights` times."""
    number = table.sum(1)
    use = (number > 1) & (weights > 0)
    table, number, weights = table[use].astype(np.float64), number[use], weights[use]
    total = weights @ number
    values = weights @ table
    pairs = values.sum() ** 2 - np.square(values).sum()  # of different values, at random
    if total <= 1 or pairs <= 0:
        return None
    apart = np.square(number) - np.square(table).sum(1)  # of different values within units
    return float(1 - (weights @ (apart / (number - 1))) * (total - 1) / pairs)


def agreement(votes: Votes, draws: int, seed: int = 0) -> tuple[float | None, Interval | None]:
    """α of the voters, and its 95 % interval.

    Only people on the faces are drawn anew: a voter drawn twice would agree with himself.
    """
    value = alpha(votes.chosen)
    if value is None:
        return None, None
    categories = int(votes.chosen.max(initial=0)) + 1
    table = (votes.chosen[:, :, None] == np.arange(categories)).sum(0)
    names, person = np.unique(votes.people, return_inverse=True)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    found = [one for weights in drawn if (one := _alpha(table, weights[person])) is not None]
    low, high = np.percentile(found, [2.5, 97.5])
    return value, (float(low), float(high))
