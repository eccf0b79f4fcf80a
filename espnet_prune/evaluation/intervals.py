"""Bootstrap intervals and paired tests over speakers, and over several factors.

A score of a system is a ratio of two sums over its utterances: edits over characters
for a pooled error rate, values over their number for a mean. Utterances of one speaker
resemble each other, so whole speakers are drawn, not utterances. The intervals are for
other speakers with the same texts.

Resampling is SciPy's ``bootstrap``, with the sums of one speaker as one observation and
a fixed seed. With few speakers, a plain percentile interval is too short. Student's t
and the bias of the bootstrap variance therefore give wider percentiles: the expanded
percentile interval of T. C. Hesterberg, "What Teachers Should Know About the
Bootstrap", The American Statistician 69 (2015), section 5.3, which is a percentile
interval of a higher confidence. With ten speakers of 20 utterances, the 95 % interval
of a difference contained the true value in 92 % of 400 simulated experiments.

``crossed_interval`` is for an experiment whose trainings, speakers and texts could all
have been others. It is a crossed bootstrap: in every resample, each factor is drawn on
its own, and the weight of a value is the product of those of its training, its speaker
and its text (A. B. Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1,
2007). From n levels, n - 1 are drawn, which makes the variance right for few levels
(Hesterberg, section 5.2). The interval is that of Student's t with the degrees of
freedom of Satterthwaite, because three trainings give only a rough variance.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 10_000
CROSSED_RESAMPLES = 2000  # enough for a standard error of two digits
SEED = 0

Weights = Mapping[str, np.ndarray]


class Interval(NamedTuple):
    """A score and its interval, whose ends are None for a single speaker."""

    value: float
    lower: float | None
    upper: float | None


class Difference(NamedTuple):
    """The second system minus the first, its interval, and the two-sided p value.

    Interval and p value are None for a single speaker.
    """

    value: float | None
    lower: float | None
    upper: float | None
    p: float | None


class Crossed(NamedTuple):
    """A value, its interval, and the share of its variance that each factor has.

    The ends are None if no factor has two levels; such factors have no share.
    """

    value: float
    lower: float | None
    upper: float | None
    shares: dict[str, float]


def crossed_interval(
    statistic: Callable[[Weights], np.ndarray], factors: Mapping[str, Sequence[str]]
) -> Crossed:
    """Return a value with its interval over several factors at once.

    Args:
        statistic: Function of the weights (R, n) of the n levels of every factor, which
            returns the value of each of R resamples (R,). Weights are 1 on average.
        factors: Name of each factor, and the stratum of each of its levels (n,). Levels
            are drawn within their stratum, for instance speakers within a test set and
            trainings within a system. A stratum of one level is not drawn.
    """
    from scipy import stats

    rng = np.random.default_rng(SEED)
    strata = {name: np.asarray(of) for name, of in factors.items()}
    plain = {name: np.ones((1, len(of))) for name, of in strata.items()}
    value = float(statistic(plain)[0])

    def variance(chosen):
        drawn = {
            name: _draw_levels(of, chosen.get(name, ()), rng)
            for name, of in strata.items()
        }
        return float(np.nanvar(statistic(drawn), ddof=1))

    drawable = {
        name: [str(one) for one in np.unique(of) if np.count_nonzero(of == one) > 1]
        for name, of in strata.items()
    }
    parts = {
        (name, stratum): variance({name: (stratum,)})
        for name, several in drawable.items()
        for stratum in several
    }
    total = sum(parts.values())
    if not total:
        same = value if parts else None
        return Crossed(value, same, same, {})
    shares = {
        name: sum(parts[name, stratum] for stratum in several) / total
        for name, several in drawable.items()
        if several
    }
    freedom = total**2 / sum(
        part**2 / (np.count_nonzero(strata[name] == stratum) - 1)
        for (name, stratum), part in parts.items()
    )
    reach = stats.t.ppf((1 + CONFIDENCE) / 2, freedom) * np.sqrt(variance(drawable))
    return Crossed(value, value - float(reach), value + float(reach), shares)


def _draw_levels(
    strata: np.ndarray, chosen: Sequence[str], rng: np.random.Generator
) -> np.ndarray:
    """Draw n - 1 of the n levels of the chosen strata, with replacement (R, levels)."""
    weights = np.ones((CROSSED_RESAMPLES, len(strata)))
    for stratum in chosen:
        (index,) = np.nonzero(strata == stratum)
        number = len(index)
        drawn = rng.multinomial(number - 1, [1 / number] * number, CROSSED_RESAMPLES)
        weights[:, index] = drawn * (number / (number - 1))
    return weights


def score_interval(
    numerators: Sequence[float], denominators: Sequence[float], speakers: Sequence[str]
) -> Interval:
    """Return the score of one system with its interval.

    Each utterance has a term of the numerator, one of the denominator, which is above
    0, and a speaker.
    """
    sums = _sum_by_speaker([numerators, denominators], speakers)
    value = float(_ratio(*sums))
    return Interval(value, *_bootstrap(sums, _ratio))


def paired_difference(
    first: Sequence[Sequence[float]],
    second: Sequence[Sequence[float]],
    speakers: Sequence[str],
) -> Difference:
    """Compare two systems on the utterances that both have.

    Each system is given by the numerators and denominators of its utterances, in the
    order of ``speakers``. For the interval, the same speakers are drawn for both
    systems. The p value is that of SciPy's ``permutation_test`` of paired samples:
    without a difference, the systems could change places for any speaker. All
    permutations are tried, or ``RESAMPLES`` random ones if there are more; p is the
    share of permutations that differ at least as much, and the observed order counts as
    one permutation. S speakers cannot give less than 2 / 2^S: five speakers are too few
    for 0.05.
    """
    sums = _sum_by_speaker([*first, *second], speakers)
    value = float(_difference(*sums))
    lower, upper = _bootstrap(sums, _difference)
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
    sums: np.ndarray, statistic: Callable[..., np.ndarray]
) -> tuple[float | None, float | None]:
    """Return the ends of the expanded percentile interval of sums (rows, S)."""
    from scipy import stats

    number = sums.shape[1]
    if number < 2:
        return None, None
    quantile = stats.t.ppf((1 - CONFIDENCE) / 2, number - 1)
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
    """Count the permutations of the systems that differ as much (4, S)."""
    from scipy import stats

    number = sums.shape[1]
    of_systems = np.concatenate([sums[:2], sums[2:]], axis=1)  # (2, 2 S)

    def difference(first: np.ndarray, second: np.ndarray, axis: int) -> np.ndarray:
        # the permutation exchanges indices, because a speaker has two sums
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
