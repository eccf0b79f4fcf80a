"""Make listening tests: one web page for all listeners, and its key.

The names of the clips do not show their systems. The key file does; the maker of the
test keeps it. Every listener hears every clip of a part (MOS, SMOS), each in another
order. A part is divided into rounds: each round has every text once, and the systems
take turns from round to round, so that no system is heard mostly early or mostly late.
"""

import base64
import hashlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from espnet_prune.errors import UserError
from espnet_prune.evaluation.metrics import Utterance
from espnet_prune.evaluation.page import (
    MEDIA_TYPES,
    Sound,
    encode_sound,
    read_sound,
    render,
)
from espnet_prune.evaluation.scoring import GROUND_TRUTH, System

LEVEL = -26.0  # dB relative to full scale, of active speech, as in ITU-T P.800 tests
PAGE, KEY = "listening_test.html", "listening_test.key.json"
FORMAT = 1  # version of the key; increase it when older ones cannot be read any more
COLUMNS = ("test", "rater", "seed", "part", "position", "clip", "rating")
PARTS: dict[str, dict[str, Any]] = {
    "MOS": {
        "title": "Naturalness",
        "task": "Listen to the whole sample. Its text is:",
        "question": "How natural does the sample sound?",
        "scale": [
            [5, "Excellent, completely natural"],
            [4, "Good, mostly natural"],
            [3, "Fair, equally natural and unnatural"],
            [2, "Poor, mostly unnatural"],
            [1, "Bad, completely unnatural"],
        ],
        "reference": False,
    },
    "SMOS": {
        "title": "Similarity of voices",
        "task": "Listen to the reference, which has other words, and to the sample. "
        "Judge only the voice, not the words and not the quality. The text of the "
        "sample is:",
        "question": "How similar is the voice of the sample to that of the reference?",
        "scale": [
            [5, "The same person, for certain"],
            [4, "Probably the same person"],
            [3, "Hard to say"],
            [2, "Probably another person"],
            [1, "Another person, for certain"],
        ],
        "reference": True,
    },
}


def choose_utterances(
    data: dict[str, Utterance], systems: Sequence[System], number: int, seed: int
) -> tuple[list[str], list[str]]:
    """Draw utterances that all systems have, from as many speakers as possible.

    A speaker is drawn a second time only after every speaker was drawn once.

    Returns:
        The utterances to rate, and one for practice, which is one of those to rate if
        there is no other.
    """
    draw = random.Random(seed)
    speakers: dict[str, list[str]] = {}
    for name, utterance in data.items():
        if all(name in system.wavs for system in systems):
            speakers.setdefault(utterance.speaker, []).append(name)
    found = sum(map(len, speakers.values()))
    if not 1 <= number <= found:
        raise UserError(
            f"{number} utterances are wanted, but all systems have only {found} in "
            "common; choose a smaller --utterances"
        )
    for names in speakers.values():
        draw.shuffle(names)
    drawn: list[str] = []
    while len(drawn) < found:
        left = [speaker for speaker in speakers if speakers[speaker]]
        drawn += [speakers[speaker].pop() for speaker in draw.sample(left, len(left))]
    return drawn[:number], [drawn[number % found]]


def deal_rounds(
    utterances: Sequence[str], systems: Sequence[str], draw: random.Random
) -> list[list[tuple[str, str]]]:
    """Divide all pairs of utterance and system into rounds, as a Latin square.

    Each round has every utterance once.
    """
    utterances = draw.sample(list(utterances), len(utterances))
    systems = draw.sample(list(systems), len(systems))
    return [
        [
            (utterance, systems[(i + shift) % len(systems)])
            for i, utterance in enumerate(utterances)
        ]
        for shift in range(len(systems))
    ]


def level(sound: Sound) -> Sound:
    """Scale the active parts of a recording to ``LEVEL``, because louder sounds better.

    Frames of 20 ms are active if they are within 30 dB of the loudest one. A recording
    that would be clipped stays quieter; silence is not changed.
    """
    frame = max(1, sound.fs // 50)
    padded = np.pad(sound.wave, (0, -len(sound.wave) % frame))
    # the square of a large float32 would be infinite
    powers = np.square(padded.reshape(-1, frame), dtype=np.float64).mean(axis=1)
    if powers.max() < 1e-20:
        return sound
    power = powers[powers >= powers.max() * 1e-3].mean()
    gain = min(10 ** (LEVEL / 20) / np.sqrt(power), 0.99 / np.abs(sound.wave).max())
    return sound._replace(wave=sound.wave * gain)


class ListeningTest(NamedTuple):
    """A listening test: the page, the key, and the duration of its clips in seconds."""

    page: str
    key: dict[str, Any]
    seconds: float


def make_test(
    data: dict[str, Utterance],
    systems: Sequence[System],
    number: int,
    parts: Sequence[str] = tuple(PARTS),
    seed: int = 0,
    title: str = "Listening test",
    send: str = "send the file to the person who gave you this page",
) -> ListeningTest:
    """Make the page of a listening test and its key.

    Ground truth may lack utterances. ``parts`` are names from ``PARTS``, in this order,
    and ``send`` ends the sentence "Now save your ratings and ...".
    """
    required = [s for s in systems if not s.name.startswith(GROUND_TRUTH)] or systems
    chosen, practice = choose_utterances(data, required, number, seed)
    wavs = {system.name: system.wavs for system in systems}
    sounds: dict[str, bytes] = {}  # path -> sound
    seconds = 0.0

    def sound_of(path: Path) -> bytes:
        nonlocal seconds
        if str(path) not in sounds:
            sound = level(read_sound(path))
            seconds += len(sound.wave) / sound.fs
            sounds[str(path)] = encode_sound(sound, "FLAC")
        return sounds[str(path)]

    contents = {
        (name, system): sound_of(wavs[system][name])
        for name in dict.fromkeys([*chosen, *practice])
        for system in wavs
        if name in wavs[system]
    }
    references = {str(data[name].reference): b"" for name, _ in contents}
    if any(PARTS[part]["reference"] for part in parts):
        references = {path: sound_of(Path(path)) for path in references}
    # the same sounds and the same seed give the same test and identifier
    digest = hashlib.blake2b(repr((seed, list(parts))).encode())
    for (name, system), sound in contents.items():
        digest.update(f"{name}\n{system}\n{data[name].text}\n".encode() + sound)
    for sound in references.values():
        digest.update(sound)
    draw = random.Random(digest.digest())
    codes = {pair: _code(f"{draw.getrandbits(48):012x}") for pair in contents}
    reference_codes = {
        path: _code(f"{draw.getrandbits(48):012x}") for path in references
    }

    shown, rated = [], {}
    for part in parts:
        rounds = [
            [codes[pair] for pair in pairs if pair in codes]
            for pairs in deal_rounds(chosen, list(wavs), draw)
        ]
        first = draw.choice([pair for pair in codes if pair[0] in practice])
        rounds = [clips for clips in rounds if clips]
        rated[part] = sorted(clip for clips in rounds for clip in clips)
        shown.append(
            {"name": part, **PARTS[part], "practice": [codes[first]], "rounds": rounds}
        )
    used = {clip for part in shown for clip in part["practice"]}.union(*rated.values())
    pairs = {codes[pair]: pair for pair in codes if codes[pair] in used}
    audio = {code: contents[pair] for code, pair in pairs.items()}
    audio.update({code: references[path] for path, code in reference_codes.items()})
    identifier = _code(digest.hexdigest()[:12])
    content = {
        "id": identifier,
        "send": send,
        "type": MEDIA_TYPES["FLAC"],
        "parts": shown,
        # sorted, because the order of creation would show the systems
        "clips": {
            code: {
                "text": data[pairs[code][0]].text,
                "reference": reference_codes[str(data[pairs[code][0]].reference)],
            }
            for code in sorted(pairs)
        },
        "audio": {
            code: base64.b64encode(audio[code]).decode("ascii")
            for code in sorted(audio)
        },
    }
    key = {
        "format": FORMAT,
        "test": identifier,
        "title": title,
        "seed": seed,
        "systems": list(wavs),
        "parts": rated,
        "clips": {
            code: {"system": system, "utterance": name, "speaker": data[name].speaker}
            for code, (name, system) in sorted(pairs.items())
        },
    }
    page = render("listening.html", title=title, content=content)
    return ListeningTest(page, key, seconds)


def _code(digits: str) -> str:
    """Return hexadecimal digits that begin with a letter.

    If a listener opened the ratings in a spreadsheet, it would save 12345678e901 and
    123456789012 as numbers.
    """
    return f"c{digits}"
