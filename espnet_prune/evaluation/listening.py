"""Listening tests: one web page for all raters, and what its ratings say.

The page shows clips under names that tell nothing; the key, which stays with whoever
made the test, says what each is. Every rater hears every clip of a part (MOS, SMOS), in
an order of their own. A part is dealt into rounds: each round has every text once, and
the systems take turns from round to round, so that no system is heard mostly early or
mostly late.

The result of a system is the mean of its ratings. Ratings by one rater resemble each
other and so do ratings of one text; the intervals therefore say what other raters and
other texts might have given, by variances that are clustered both ways: A. C. Cameron,
J. B. Gelbach and D. L. Miller, "Robust Inference With Multiway Clustering", Journal of
Business & Economic Statistics 29 (2011). In simulations of 16 raters and 15 texts they
hold the truth 95 to 97 times in 100; intervals that take all ratings to be independent
do so 56 times where raters differ by half a point.
"""

import base64
import csv
import hashlib
import html
import importlib.resources
import io
import itertools
import json
import random
import re
from pathlib import Path
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from scipy.stats import t

from espnet_prune.errors import UserError
from espnet_prune.evaluation.intervals import Interval
from espnet_prune.evaluation.page import (
    MEDIA_TYPES,
    Sound,
    encode_sound,
    read_sound,
)
from espnet_prune.evaluation.scorers import Utterance
from espnet_prune.evaluation.scoring import GROUND_TRUTH, System

LEVEL = -26.0  # dB relative to full scale, of active speech, as in ITU-T P.800 tests
RESULT = "listening.csv"  # of `collect`, which may write where the ratings lie
FORMAT = 1  # of the key file; raise it when older ones cannot be read any more
COLUMNS = ("test", "rater", "seed", "part", "position", "clip", "rating")
PARTS: Dict[str, Dict[str, Any]] = {
    "MOS": {
        "title": "Naturalness",
        "task": "Listen to the whole sample. It should say:",
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
        "task": "Listen to the reference, which says other words, and to the sample. "
        "Judge the voice only, neither the words nor the quality. The sample says:",
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


# ------------------------------------------------------------------------ the page


def choose_utterances(
    data: Dict[str, Utterance], systems: Sequence[System], number: int, seed: int
) -> Tuple[List[str], List[str]]:
    """Draw utterances that all systems said, from as many speakers as possible.

    No speaker is drawn a second time before every one was drawn once.

    Args:
        data: What was to be said.
        systems: Which recordings there are.
        number: How many to draw.
        seed: Of the draw.

    Returns:
        The utterances to rate, and one for practice; it is one of those to rate if
        there is no other.

    Raises:
        UserError: There are not so many.

    """
    draw = random.Random(seed)
    speakers: Dict[str, List[str]] = {}
    for name, utterance in data.items():
        if all(name in system.wavs for system in systems):
            speakers.setdefault(utterance.speaker, []).append(name)
    found = sum(map(len, speakers.values()))
    if not 1 <= number <= found:
        raise UserError(
            f"{number} utterances are asked for, {found} were said by every system; "
            "choose another --utterances"
        )
    for names in speakers.values():
        draw.shuffle(names)
    drawn: List[str] = []
    while len(drawn) < found:
        left = [speaker for speaker in speakers if speakers[speaker]]
        drawn += [speakers[speaker].pop() for speaker in draw.sample(left, len(left))]
    return drawn[:number], [drawn[number % found]]


def deal_rounds(
    utterances: Sequence[str], systems: Sequence[str], draw: random.Random
) -> List[List[Tuple[str, str]]]:
    """Deal every pair of utterance and system into rounds, as a Latin square.

    Returns:
        For each round its (utterance, system); each utterance is there once.

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
    """Bring the active parts of a recording to ``LEVEL``, for loudness sounds good.

    Active are frames of 20 ms within 30 dB of the loudest one. A recording that would
    be clipped stays quieter; silence stays as it is.
    """
    frame = max(1, sound.fs // 50)
    padded = np.pad(sound.wave, (0, -len(sound.wave) % frame))
    powers = (padded.reshape(-1, frame) ** 2).mean(axis=1)
    if not powers.any():
        return sound
    power = powers[powers >= powers.max() * 1e-3].mean()
    gain = min(10 ** (LEVEL / 20) / np.sqrt(power), 0.99 / np.abs(sound.wave).max())
    return sound._replace(wave=sound.wave * gain)


class ListeningTest(NamedTuple):
    """A listening test: the page, the key, and how long its clips last in seconds."""

    page: str
    key: Dict[str, Any]
    seconds: float


def make_test(
    data: Dict[str, Utterance],
    systems: Sequence[System],
    number: int,
    parts: Sequence[str] = tuple(PARTS),
    seed: int = 0,
    title: str = "Listening test",
    send: str = "send the file to whoever gave you this page",
) -> ListeningTest:
    """Make the page of a listening test and its key.

    Args:
        data: Texts and references.
        systems: What is compared. A system of ground truth need not have all.
        number: Utterances.
        parts: Of ``PARTS``, in this order.
        seed: Of the draw of utterances and of the rounds.
        title: Of the page.
        send: What to do with the ratings, at the end of "Now save your ratings and".

    Raises:
        UserError: There are too few utterances, or a recording cannot be read.

    """
    required = [s for s in systems if not s.name.startswith(GROUND_TRUTH)] or systems
    chosen, practice = choose_utterances(data, required, number, seed)
    wavs = {system.name: system.wavs for system in systems}
    sounds: Dict[str, bytes] = {}  # by their path
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
    # the same sounds and the same seed make the same test, its identifier included
    digest = hashlib.blake2b(repr((seed, list(parts))).encode())
    for (name, system), content in contents.items():
        digest.update(f"{name}\n{system}\n{data[name].text}\n".encode() + content)
    for content in references.values():
        digest.update(content)
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
        # sorted, for the order of making would tell the systems apart
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
            code: {
                "system": system,
                "utterance": name,
                "speaker": data[name].speaker,
            }
            for code, (name, system) in sorted(pairs.items())
        },
    }
    return ListeningTest(_fill(title, content), key, seconds)


def _code(digits: str) -> str:
    """Begin hexadecimal digits with a letter.

    A spreadsheet in which a rater looks at the ratings would save 12345678e901 and
    123456789012 as the numbers that they look like.
    """
    return f"c{digits}"


def _fill(title: str, content: Dict[str, Any]) -> str:
    """Put a test into the template."""
    template = importlib.resources.files(__package__) / "listening.html"
    values = {
        "@TITLE@": html.escape(title),
        # "</script>" in a text would end the data
        "@DATA@": json.dumps(content, ensure_ascii=False).replace("<", "\\u003c"),
    }
    text = template.read_text(encoding="utf-8")
    return re.sub("|".join(values), lambda found: values[found[0]], text)


# --------------------------------------------------------------------- the ratings


class Rating(NamedTuple):
    """What one rater gave one clip."""

    rater: str
    part: str
    clip: str
    rating: int


def read_key(path: Path) -> Dict[str, Any]:
    """Read the key of a test.

    Raises:
        UserError: It is none.

    """
    try:
        key = json.loads(path.read_text(encoding="utf-8"))
        if key["format"] != FORMAT:
            raise UserError(
                f"{path} is a key of format {key['format']}, not {FORMAT}; read it "
                "with the version of espnet_prune that made it"
            )
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{path} is no key of a listening test ({type(error).__name__}); give the "
            "file that was written beside the page"
        ) from error
    return key


def find_files(paths: Iterable[Path]) -> List[Path]:
    """List the CSV files among files and folders.

    Raises:
        UserError: A path is missing, or there is none.

    """
    files: List[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(path.glob("*.csv"))
            files += [file for file in found if file.name != RESULT]
        elif path.is_file():
            files.append(path)
        else:
            raise UserError(f"there is no {path}; name the CSV files of the raters")
    if not files:
        raise UserError("there is no CSV file of ratings; name the files of the raters")
    return files


def read_ratings(
    files: Sequence[Path], key: Dict[str, Any], keep_unfinished: bool = False
) -> Tuple[List[Rating], Dict[str, int]]:
    """Read what the raters sent.

    Args:
        files: One a rater.
        key: Of the test.
        keep_unfinished: Take what there is of a rater who did not rate everything.

    Returns:
        The ratings, and how many each unfinished rater left blank.

    Raises:
        UserError: A file is none of this test, is damaged or unfinished, or two are of
            one rater.

    """
    ratings: List[Rating] = []
    unfinished: Dict[str, int] = {}
    seen: Dict[str, Path] = {}
    for file in files:
        rater, found = _read_file(file, key)
        same = " ".join(rater.casefold().split())
        if same in seen:
            raise UserError(
                f"{seen[same]} and {file} are both by {rater}; remove one, or give "
                "another name in it if they are two people"
            )
        seen[same] = file
        left = sum(map(len, key["parts"].values())) - len(found)
        if left and not keep_unfinished:
            raise UserError(
                f"{file} by {rater} lacks {left} ratings; ask for the rest, leave the "
                "file out, or take what there is by --keep_unfinished"
            )
        if left:
            unfinished[rater] = left
        ratings += found
    return ratings, unfinished


def _read_file(file: Path, key: Dict[str, Any]) -> Tuple[str, List[Rating]]:
    """Read the ratings of one rater, without those that were left blank."""
    foreign = f"{file} is no file of ratings of this test"
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{foreign} ({error}); leave it out") from error
    # spreadsheets of some countries write semicolons
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    try:
        rows = list(csv.DictReader(io.StringIO(text), delimiter=delimiter))
    except csv.Error as error:  # for instance of the page, which was given in its place
        raise UserError(f"{foreign} ({error}); leave it out") from error
    if not rows or not set(COLUMNS) <= set(rows[0]):
        raise UserError(f"{foreign}: it lacks the columns of one; leave it out")
    raters = {row["rater"] for row in rows}
    if len(raters) > 1:
        raise UserError(f"{file} holds ratings by several people; give one file each")
    (rater,) = raters
    found: Dict[Tuple[str, str], Rating] = {}
    for number, row in enumerate(rows, 2):
        where = f"line {number} of {file}"
        part, clip, value = row["part"], row["clip"], row["rating"]
        if row["test"] != key["test"]:
            raise UserError(
                f"{foreign}: it is of {row['test']}, the key of {key['test']}; leave "
                "it out, or give the key that was made with that page"
            )
        if clip not in key["parts"].get(part, ()):
            raise UserError(f"{where} rates a clip that is not in the test; mend it")
        if (part, clip) in found:
            raise UserError(f"{where} rates a clip a second time; mend it")
        if not value:
            continue
        if value not in ("1", "2", "3", "4", "5"):
            raise UserError(f"{where} has the rating {value!r}, not 1 to 5; mend it")
        found[part, clip] = Rating(rater, part, clip, int(value))
    return rater, list(found.values())


# ------------------------------------------------------------------------ the result


def summarise(
    ratings: Sequence[Rating], key: Dict[str, Any], baseline: str
) -> List[Dict[str, Any]]:
    """Make a row for each part and system that has ratings.

    Args:
        ratings: Of all raters.
        key: Of the test.
        baseline: The system that differences are taken to.

    """
    given: Dict[Tuple[str, str], Dict[Tuple[str, str], int]] = {}
    for rating in ratings:
        clip = key["clips"][rating.clip]
        who_and_what = rating.rater, clip["utterance"]
        given.setdefault((rating.part, clip["system"]), {})[
            who_and_what
        ] = rating.rating
    rows = []
    for part, system in itertools.product(key["parts"], key["systems"]):
        own = given.get((part, system), {})
        if not own:
            continue
        first = given.get((part, baseline), {}) if system != baseline else {}
        pairs = {pair: own[pair] - first[pair] for pair in own if pair in first}
        difference = crossed_interval(pairs) if pairs else Interval(None, None, None)
        values = list(own.values())
        rows.append(
            {
                "part": part,
                "system": system,
                **crossed_interval(own)._asdict(),
                "plus_minus": independent_half_width(values),
                "difference": difference.value,
                "difference_lower": difference.lower,
                "difference_upper": difference.upper,
                "ratings": len(values),
                "raters": len({rater for rater, _ in own}),
                "utterances": len({utterance for _, utterance in own}),
                **{f"rated_{i}": values.count(i) for i in range(1, 6)},
            }
        )
    return rows


def independent_half_width(values: Sequence[float]) -> Optional[float]:
    """Give half the 95 % interval of a mean as papers do, by Student's t.

    It takes all ratings to be independent, which those by one rater are not. None of a
    single rating.
    """
    if len(values) < 2:
        return None
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    return float(t.ppf(0.975, len(values) - 1) * error)


def crossed_interval(
    values: Dict[Tuple[str, str], float], confidence: float = 0.95
) -> Interval:
    """Give the mean of ratings, or of differences, over raters and utterances.

    With e the deviations from the mean, of which there are n, the variance is

        V(raters) + V(utterances) - V(pairs),  V(c) = C / (C - 1) sum (sum e)^2 / n^2

    where the inner sum is over one cluster, the outer one over all C of them. It is
    taken as no less than either of the first two. Student's t has one degree of freedom
    less than there are raters, or utterances if those are fewer.

    Args:
        values: By rater and utterance.
        confidence: Of the interval.

    Returns:
        The ends are None of a single rater or utterance.

    """
    numbers = np.array(list(values.values()), dtype=float)
    mean = float(numbers.mean())
    clusters = [np.unique(names, return_inverse=True)[1] for names in zip(*values)]
    fewest = min(int(index.max()) for index in clusters)
    if fewest < 1:
        return Interval(mean, None, None)
    raters, utterances, pairs = (
        _clustered_variance(numbers - mean, index)
        for index in (*clusters, np.arange(len(numbers)))
    )
    variance = max(raters + utterances - pairs, raters, utterances)
    half = float(t.ppf((1 + confidence) / 2, fewest) * np.sqrt(variance))
    return Interval(mean, mean - half, mean + half)


def _clustered_variance(deviations: np.ndarray, index: np.ndarray) -> float:
    """Give the variance of a mean whose values come in independent clusters."""
    sums = np.bincount(index, weights=deviations)
    return len(sums) / (len(sums) - 1) * (sums**2).sum() / len(deviations) ** 2


def unvaried(ratings: Sequence[Rating]) -> List[Tuple[str, str, int]]:
    """Name raters who gave all clips of a part the same, their part and rating."""
    found: Dict[Tuple[str, str], List[int]] = {}
    for rating in ratings:
        found.setdefault((rating.rater, rating.part), []).append(rating.rating)
    return [
        (rater, part, values[0])
        for (rater, part), values in found.items()
        if len(values) > 1 and len(set(values)) == 1
    ]
