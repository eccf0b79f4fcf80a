"""How sure a result is: bootstrap intervals and paired tests over speakers.

A score of a system is a ratio of two sums over its utterances: edits over characters
for a pooled error rate, values over their number for a mean. Utterances of one speaker
resemble each other, so whole speakers are drawn, not utterances: the intervals say what
other speakers might have given, with these texts.

Resampling is SciPy's ``bootstrap``, with the sums of one speaker as one observation and
a fixed seed. With few speakers a plain percentile interval is too short. The
percentiles are therefore moved outwards by what Student's t and the bias of the
bootstrap variance ask for: the expanded percentile interval of T. C. Hesterberg, "What
Teachers Should Know About the Bootstrap", The American Statistician 69 (2015), section
5.3, which is a percentile interval of a higher confidence. With ten speakers of 20
utterances the 95 % interval of a difference still held the truth in 92 % of 400
simulated experiments.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 10_000
SEED = 0


class Interval(NamedTuple):
    """A score and its interval; ``lower`` and ``upper`` are None of one speaker."""

    value: float
    lower: float | None
    upper: float | None


class Difference(NamedTuple):
    """The second system minus the first, its interval, and the two-sided p value.

    None stands where one speaker allows no statement.
    """

    value: float | None
    lower: float | None
    upper: float | None
    p: float | None


def score_interval(
    numerators: Sequence[float],
    denominators: Sequence[float],
    speakers: Sequence[str],
    confidence: float = 0.95,
) -> Interval:
    """Give the score of one system with its interval.

    Args:
        numerators: What is summed up, one number an utterance.
        denominators: What the sum is over, each above 0.
        speakers: Speaker of each utterance.
        confidence: Of the interval.

    """
    sums = _sum_by_speaker([numerators, denominators], speakers)
    value = float(_ratio(*sums))
    return Interval(value, *_bootstrap(sums, _ratio, confidence))


def paired_difference(
    first: Sequence[Sequence[float]],
    second: Sequence[Sequence[float]],
    speakers: Sequence[str],
    confidence: float = 0.95,
) -> Difference:
    """Compare two systems on the utterances that both have.

    The interval draws the same speakers for both systems. The p value is that of
    SciPy's ``permutation_test`` of paired samples: if there were no difference, the
    systems could change places for any speaker. All ways to do so are tried, or as many
    random ones as ``RESAMPLES`` if there are more; p is then the share of ways, with
    the systems as they are as one more, that differ at least as much.
    S speakers cannot give less than 2 / 2^S: five are too few for 0.05.

    Args:
        first: Numerators and denominators of the first system, in the order of
            ``speakers``.
        second: The same of the second system.
        speakers: Speaker of each utterance.
        confidence: Of the interval.

    """
    sums = _sum_by_speaker([*first, *second], speakers)
    value = float(_difference(*sums))
    lower, upper = _bootstrap(sums, _difference, confidence)
    p = _permutation_p(sums) if sums.shape[1] > 1 else None
    return Difference(value, lower, upper, p)


def _ratio(numerators, denominators, axis: int = -1):
    return numerators.sum(axis) / denominators.sum(axis)


def _difference(a, over_a, b, over_b, axis: int = -1):
    return _ratio(b, over_b, axis) - _ratio(a, over_a, axis)


def _sum_by_speaker(
    values: Sequence[Sequence[float]], speakers: Sequence[str]
) -> np.ndarray:
    """Add up each row (U,) over the utterances of each of S speakers (rows, S)."""
    _, index = np.unique(np.asarray(speakers), return_inverse=True)
    return np.stack([np.bincount(index, weights=row) for row in values])


def _bootstrap(
    sums: np.ndarray, statistic: Callable[..., np.ndarray], confidence: float
) -> tuple[float | None, float | None]:
    """Give the ends of the expanded percentile interval of sums (rows, S)."""
    from scipy import stats

    number = sums.shape[1]
    if number < 2:
        return None, None
    quantile = stats.t.ppf((1 - confidence) / 2, number - 1)
    tail = stats.norm.cdf(np.sqrt(number / (number - 1)) * quantile)
    found = stats.bootstrap(
        tuple(sums),
        statistic,
        n_resamples=RESAMPLES,
        batch=1000,
        vectorized=True,
        paired=True,
        confidence_level=1 - 2 * tail,
        method="percentile",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return float(found.low), float(found.high)


def _permutation_p(sums: np.ndarray) -> float:
    """Count how often systems that change places differ as much (4, S)."""
    from scipy import stats

    number = sums.shape[1]
    of_systems = np.concatenate([sums[:2], sums[2:]], axis=1)  # (2, 2 S)

    def difference(first: np.ndarray, second: np.ndarray, axis: int) -> np.ndarray:
        # what changes places is the index of a speaker's sums, two numbers at once
        a, over_a = of_systems[:, first.astype(int)]
        b, over_b = of_systems[:, second.astype(int)]
        return np.abs(_difference(a, over_a, b, over_b, axis))

    found = stats.permutation_test(
        (np.arange(number), np.arange(number, 2 * number)),
        difference,
        permutation_type="samples",
        n_resamples=RESAMPLES,
        batch=1000,
        vectorized=True,
        alternative="greater",
        rng=np.random.default_rng(SEED),
    )
    return float(found.pvalue)
