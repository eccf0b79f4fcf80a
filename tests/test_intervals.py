"""intervals.py: against slow, obvious ways to the same numbers, and known cases."""

import itertools

import numpy as np
import pytest
from scipy.stats import t

from espnet_prune.evaluation import intervals
from espnet_prune.evaluation.intervals import (
    crossed_interval,
    paired_difference,
    score_interval,
)


def some_system(speakers=8, seed=0, utterances=5):
    """Make edits, characters and the speaker of each utterance."""
    generator = np.random.default_rng(seed)
    names = [f"s{n}" for n in range(speakers) for _ in range(utterances)]
    rates = generator.gamma(2, 0.05, speakers).repeat(utterances)
    characters = generator.integers(20, 90, len(names))
    return generator.binomial(characters, rates), characters, names


def test_an_error_rate_is_pooled():
    found = score_interval([1, 0, 2], [10, 90, 50], ["a", "b", "c"])
    assert found.value == pytest.approx(3 / 150)
    assert found.lower < found.value < found.upper


def test_interval_is_that_of_drawing_whole_speakers():
    edits, characters, names = some_system()
    found = score_interval(edits, characters, names)
    # the same, slowly: draw speakers, collect their utterances, pool
    generator = np.random.default_rng(1)
    speakers = sorted(set(names))
    drawn = []
    for _ in range(4000):
        chosen = [
            index
            for speaker in generator.choice(speakers, len(speakers))
            for index in range(len(names))
            if names[index] == speaker
        ]
        drawn.append(edits[chosen].sum() / characters[chosen].sum())
    # 8 speakers: 2.5 % become the normal probability below 2.365 * sqrt(8 / 7)
    lower, upper = np.quantile(drawn, [0.0057, 0.9943])
    width = upper - lower
    assert found.lower == pytest.approx(lower, abs=0.06 * width)
    assert found.upper == pytest.approx(upper, abs=0.06 * width)
    # the check is not idle: utterances as if they were independent give another
    alone = score_interval(edits, characters, [str(n) for n in range(len(names))])
    assert alone.upper - alone.lower < 0.8 * width


def test_interval_of_a_mean_is_close_to_student_t():
    values = np.random.default_rng(0).normal(3.0, 0.5, 25)
    found = score_interval(values, np.ones(25), [str(n) for n in range(25)])
    error = values.std(ddof=1) / 5 * t.ppf(0.975, 24)
    assert found.lower == pytest.approx(values.mean() - error, abs=0.08 * error)
    assert found.upper == pytest.approx(values.mean() + error, abs=0.08 * error)


def test_more_utterances_of_the_same_speakers_tell_no_more():
    once = score_interval([1, 4, 2], [10, 20, 30], ["a", "b", "c"])
    thrice = score_interval([1, 4, 2] * 3, [10, 20, 30] * 3, ["a", "b", "c"] * 3)
    assert thrice == pytest.approx(once)


def test_one_speaker_allows_no_statement():
    found = score_interval([1, 2], [10, 10], ["a", "a"])
    assert found == (pytest.approx(0.15), None, None)
    found = paired_difference([[1, 2], [5, 5]], [[2, 2], [5, 5]], ["a", "a"])
    assert found == (pytest.approx(0.1), None, None, None)


def test_pairs_see_what_single_intervals_cannot():
    edits, characters, names = some_system(speakers=12)
    better = edits - np.minimum(edits, 1)
    first = score_interval(edits, characters, names)
    second = score_interval(better, characters, names)
    assert first.lower < second.upper
    found = paired_difference([edits, characters], [better, characters], names)
    assert found.value == pytest.approx(second.value - first.value)
    assert found.lower < found.value < found.upper < 0
    assert found.p == pytest.approx(2 / 2**12)


def test_a_difference_has_a_direction():
    a, b = [[1, 2, 3], [9, 9, 9]], [[2, 4, 4], [9, 9, 9]]
    there = paired_difference(a, b, ["x", "y", "z"])
    back = paired_difference(b, a, ["x", "y", "z"])
    assert there.value == pytest.approx(4 / 27)
    assert back.value == pytest.approx(-there.value) and back.p == there.p
    assert back.lower == pytest.approx(-there.upper)


def slow_p(first, second, names):
    """Swap the systems in every way, one speaker after another."""
    speakers = sorted(set(names))
    count = 0
    observed = None
    for swaps in itertools.product([False, True], repeat=len(speakers)):
        swapped = dict(zip(speakers, swaps, strict=True))
        sums = np.zeros((2, 2))
        for i, name in enumerate(names):
            pair = (second, first) if swapped[name] else (first, second)
            for system in (0, 1):
                sums[system] += [pair[system][0][i], pair[system][1][i]]
        difference = sums[1, 0] / sums[1, 1] - sums[0, 0] / sums[0, 1]
        observed = difference if observed is None else observed
        count += abs(difference) >= abs(observed) - 1e-12
    return count / 2 ** len(speakers)


def test_p_is_the_share_of_swaps_that_differ_as_much():
    edits, characters, names = some_system(speakers=7)
    other, more, _ = some_system(speakers=7, seed=3)
    found = paired_difference([edits, characters], [other, more], names)
    wanted = slow_p([edits, characters], [other, more], names)
    assert found.p == pytest.approx(wanted)
    assert 0 < wanted < 1


def test_p_of_many_speakers_is_close_to_the_exact_one(monkeypatch):
    edits, characters, names = some_system(speakers=12)
    other = np.random.default_rng(5).binomial(characters, 0.08)
    exact = paired_difference([edits, characters], [other, characters], names)
    monkeypatch.setattr(intervals, "RESAMPLES", 4000)  # fewer than 2^12
    drawn = paired_difference([edits, characters], [other, characters], names)
    assert drawn.p != exact.p
    assert drawn.p == pytest.approx(exact.p, abs=0.03)


def test_p_of_many_speakers_is_never_zero():
    names = [f"s{n}" for n in range(20)]
    ones = [1] * 20
    found = paired_difference([[0] * 20, ones], [ones, ones], names)
    assert found.p == 1 / 10001  # the systems as they are count as one way


def test_differences_that_are_equal_but_for_rounding_count_as_equal():
    ones = [1] * 3
    found = paired_difference(
        [[0.1, 0.5, 0.9], ones], [[0.3, 0.3, 0.7], ones], ["x", "y", "z"]
    )
    assert found.p == 1  # +0.2, -0.2 and -0.2: no choice of signs gives a smaller sum


def test_equal_systems_do_not_differ():
    edits, characters, names = some_system()
    found = paired_difference([edits, characters], [edits, characters], names)
    assert found == (0, 0, 0, 1)


def test_results_do_not_depend_on_chance_or_order():
    edits, characters, names = some_system()
    once = score_interval(edits, characters, names)
    order = np.random.default_rng(0).permutation(len(names))
    again = score_interval(edits[order], characters[order], [names[n] for n in order])
    assert again == once


# ---- several factors ----


def mean_of(table):
    """Return the mean of a table (trainings, speakers, texts) by its weights."""

    def statistic(weights):
        total = np.einsum(
            "rk,rs,rt,kst->r",
            *(weights[name] for name in ("training", "speaker", "text")),
            table,
            optimize=True,
        )
        size = np.ones(len(total))
        for name in ("training", "speaker", "text"):
            size = size * weights[name].sum(axis=1)
        return total / size

    return statistic


def factors_of(table):
    names = ("training", "speaker", "text")
    return {name: [""] * n for name, n in zip(names, table.shape, strict=True)}


def some_table(generator, spread=(0.3, 0.5, 0.4)):
    """Add effects of 3 trainings, 12 speakers and 8 texts, of mean 0, and noise."""
    shape = (3, 12, 8)
    table = generator.normal(0, 0.5, shape)
    for axis, (number, scale) in enumerate(zip(shape, spread, strict=True)):
        effect = generator.normal(0, scale, number)
        table = table + effect.reshape([-1 if n == axis else 1 for n in range(3)])
    return table


def test_one_factor_gives_the_interval_of_student():
    values = np.random.default_rng(0).normal(3.0, 0.5, 9)
    found = crossed_interval(
        lambda w: (w["speaker"] * values).sum(1) / w["speaker"].sum(1),
        {"speaker": [""] * 9},
    )
    error = values.std(ddof=1) / 3 * t.ppf(0.975, 8)
    assert found.value == pytest.approx(values.mean())
    assert found.upper - found.value == pytest.approx(error, rel=0.1)
    assert found.shares == {"speaker": 1.0}


def test_the_interval_covers_trainings_speakers_and_texts(monkeypatch):
    monkeypatch.setattr(intervals, "CROSSED_RESAMPLES", 400)
    generator = np.random.default_rng(0)
    covered = too_short = 0
    for _ in range(120):
        table = some_table(generator)
        factors = factors_of(table)
        found = crossed_interval(mean_of(table), factors)
        covered += found.lower <= 0 <= found.upper
        # an interval over speakers alone, as of a single training, is too short
        alone = {**factors, "training": ["a", "b", "c"], "text": list("abcdefgh")}
        found = crossed_interval(mean_of(table), alone)
        too_short += not found.lower <= 0 <= found.upper
    assert covered / 120 >= 0.92
    assert too_short / 120 > 0.2


def test_shares_name_the_factor_that_matters():
    table = some_table(np.random.default_rng(1), spread=(2.0, 0.1, 0.1))
    found = crossed_interval(mean_of(table), factors_of(table))
    assert found.shares["training"] > 0.9
    assert sum(found.shares.values()) == pytest.approx(1)


def test_levels_are_drawn_within_their_stratum():
    # two groups of constant values: their difference has no variance
    values = np.array([1.0, 1.0, 1.0, 5.0, 5.0])
    group = np.array([0, 0, 0, 1, 1])

    def difference(weights):
        drawn = weights["speaker"]
        means = [
            (drawn * values)[:, group == g].sum(1) / drawn[:, group == g].sum(1)
            for g in (0, 1)
        ]
        return means[1] - means[0]

    found = crossed_interval(difference, {"speaker": list("aaabb")})
    assert found[:3] == (4.0, 4.0, 4.0)


def test_single_levels_allow_no_statement():
    found = crossed_interval(lambda w: w["speaker"][:, 0], {"speaker": ["a"]})
    assert found == (1.0, None, None, {})
