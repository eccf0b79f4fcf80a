"""Scores of one metric on the axis of distance, with intervals and slopes."""

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from espnet_prune.evaluation.intervals import Crossed, Weights, crossed_interval

PER = 0.1  # slopes are given for this step of distance


class Training(NamedTuple):
    """One training of a system."""

    system: str
    seed: str

    @classmethod
    def parse(cls, name: str) -> "Training":
        """Read a name such as ``dense_s2``; without ``_sN``, the seed is 0."""
        match = re.fullmatch(r"(.+)_s(\d+)", name)
        return cls(*match.groups()) if match else cls(name, "0")


class Score(NamedTuple):
    """The score of one utterance, as a numerator and a denominator."""

    set: str
    utterance: str
    speaker: str
    text: str
    training: Training
    ratio: tuple[float, float]


class _Set(NamedTuple):
    """What was scored in a set, by its U utterances that count."""

    speakers: np.ndarray  # number of the speaker of each utterance (U,)
    texts: np.ndarray  # number of its text (U,)
    ratios: dict[Training, np.ndarray]  # numerators and denominators (2, U)


class Axis:
    """The scores of one metric on the axis of distance.

    In a set, only utterances count that all trainings with scores of the set have.

    Args:
        scores: Scores of the metric.
        distances: Set -> speaker -> distance; other speakers are left out.

    Attributes:
        sets: Names of the sets, the nearest first.
        systems: Names of the systems, in the order of the scores.
        factors: Levels of each factor, by their stratum, see ``crossed_interval``.
    """

    def __init__(
        self, scores: Iterable[Score], distances: Mapping[str, Mapping[str, float]]
    ):
        kept = [s for s in scores if s.speaker in distances.get(s.set, {})]
        self.trainings = list(dict.fromkeys(score.training for score in kept))
        self.systems = list(dict.fromkeys(t.system for t in self.trainings))
        ratios: dict[str, dict[tuple, dict[Training, tuple]]] = {}
        for one in kept:
            key = (one.utterance, one.speaker, one.text)
            ratios.setdefault(one.set, {}).setdefault(key, {})[one.training] = one.ratio
        said: dict[str, list[tuple]] = {}
        for name, utterances in ratios.items():
            heard = {training for found in utterances.values() for training in found}
            every = [key for key, found in utterances.items() if found.keys() == heard]
            if every:
                said[name] = every
        known = {name: sorted({key[1] for key in said[name]}) for name in said}
        mean = {
            name: np.mean([distances[name][who] for who in known[name]])
            for name in said
        }
        self.sets = sorted(said, key=lambda name: mean[name])
        speakers = [(name, who) for name in self.sets for who in known[name]]
        self._distances = np.array([distances[name][who] for name, who in speakers])
        said_by: dict[str, set] = {}
        for name, every in said.items():
            for _, speaker, text in every:
                said_by.setdefault(text, set()).add((name, speaker))
        self.factors = {
            "seed": [training.system for training in self.trainings],
            "speaker": [name for name, _ in speakers],
            # a text of one speaker is drawn with the speaker
            "text": [
                "shared" if len(by) > 1 else f"only: {text}"
                for text, by in said_by.items()
            ],
        }
        speaker_at = {level: number for number, level in enumerate(speakers)}
        text_at = {text: number for number, text in enumerate(said_by)}
        self._sets = {
            name: _Set(
                np.array([speaker_at[name, speaker] for _, speaker, _ in every]),
                np.array([text_at[text] for _, _, text in every]),
                {
                    training: np.array([ratios[name][key][training] for key in every]).T
                    for training in self.trainings
                    if training in ratios[name][every[0]]
                },
            )
            for name, every in said.items()
        }

    def count(self, name: str) -> tuple[int, int]:
        """Return the numbers of speakers and of utterances of a set."""
        speakers = self._sets[name].speakers
        return len(set(speakers)), len(speakers)

    def seeds(self, system: str) -> list[Training]:
        """Return the trainings of a system."""
        return [training for training in self.trainings if training.system == system]

    def has(self, name: str, *systems: str) -> bool:
        """Return whether all these systems have scores of a set."""
        found = {training.system for training in self._sets[name].ratios}
        return found >= set(systems)

    def distance(self, name: str, weights: Weights | None = None) -> np.ndarray:
        """Return the mean distance of the speakers of a set (R,)."""
        here = np.array(self.factors["speaker"]) == name
        drawn = np.ones((1, len(here))) if weights is None else weights["speaker"]
        return drawn[:, here] @ self._distances[here] / drawn[:, here].sum(axis=1)

    def value(self, name: str, system: str, weights: Weights) -> np.ndarray:
        """Return the score of a system in a set (R,), a ratio of two sums."""
        found = self._sets[name]
        drawn = weights["speaker"][:, found.speakers] * weights["text"][:, found.texts]
        over = under = np.zeros(len(drawn))
        for number, training in enumerate(self.trainings):
            if training.system == system and training in found.ratios:
                sums = drawn @ found.ratios[training].T
                weight = weights["seed"][:, number]
                over, under = over + weight * sums[:, 0], under + weight * sums[:, 1]
        with np.errstate(invalid="ignore"):  # a resample may have no utterance
            return over / under

    def of_training(self, name: str, training: Training) -> float | None:
        """Return the score of one training in a set."""
        ratios = self._sets[name].ratios
        if training not in ratios:
            return None
        over, under = ratios[training].sum(axis=1)
        return float(over / under)

    def score(self, name: str, system: str) -> Crossed:
        """Return the score of a system in a set, with its interval."""
        return crossed_interval(
            functools.partial(self.value, name, system),
            self._drawn(systems=[system], sets=[name]),
        )

    def difference(self, name: str, system: str, baseline: str) -> Crossed:
        """Return the score of a system minus that of the baseline in a set."""
        return crossed_interval(
            lambda w: self.value(name, system, w) - self.value(name, baseline, w),
            self._drawn(systems=[system, baseline], sets=[name]),
        )

    def slope(self, system: str, baseline: str) -> Crossed | None:
        """Return the slope of the difference per ``PER`` of distance.

        None with fewer than two sets of different distances.
        """
        sets = [name for name in self.sets if self.has(name, system, baseline)]
        if len({float(self.distance(name)[0]) for name in sets}) < 2:
            return None

        def statistic(weights: Weights) -> np.ndarray:
            at = np.stack([self.distance(name, weights) for name in sets])
            gain = np.stack(
                [
                    self.value(name, system, weights)
                    - self.value(name, baseline, weights)
                    for name in sets
                ]
            )
            at = at - at.mean(axis=0)
            return PER * (at * gain).sum(axis=0) / (at**2).sum(axis=0)

        drawn = self._drawn(systems=[system, baseline], sets=sets)
        return crossed_interval(statistic, drawn)

    def _drawn(
        self, systems: Sequence[str], sets: Sequence[str]
    ) -> dict[str, list[str]]:
        """Return the factors; levels that the value does not have are not drawn."""
        texts = {number for name in sets for number in self._sets[name].texts}
        return {
            "seed": [
                of if of in systems else f"{of}: {number}"
                for number, of in enumerate(self.factors["seed"])
            ],
            "speaker": [
                of if of in sets else f"{of}: {number}"
                for number, of in enumerate(self.factors["speaker"])
            ],
            "text": [
                of if number in texts else f"not said: {number}"
                for number, of in enumerate(self.factors["text"])
            ],
        }
