"""Read the ratings of a listening test; compute MOS, SMOS and their intervals.

The result of a system is the mean of its ratings. Ratings by one listener resemble each
other, and so do ratings of one text. The intervals therefore are for other listeners
and other texts, from variances that are clustered both ways: A. C. Cameron, J. B.
Gelbach and D. L. Miller, "Robust Inference With Multiway Clustering", Journal of
Business & Economic Statistics 29 (2011). In simulations with 16 listeners and 15 texts,
they contain the true value in 95 to 97 % of cases. Intervals that treat all ratings as
independent do so in 56 % if listeners differ by half a point.
"""

import csv
import io
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from espnet_prune.errors import UserError
from espnet_prune.evaluation import tables
from espnet_prune.evaluation.documents import LISTENING, Block, Document
from espnet_prune.evaluation.intervals import CONFIDENCE, Interval
from espnet_prune.evaluation.listening import COLUMNS, FORMAT
from espnet_prune.evaluation.scoring import choose_baseline
from espnet_prune.loading import load_json, reading

RESULT = f"{LISTENING}.csv"  # written by `collect`, perhaps beside the ratings
METHOD = """\
In brackets: 95 % intervals over raters and utterances (variance clustered both ways).
+-: the 95 % interval of most papers, which takes all ratings to be independent and is
too short. 1 to 5: how often each rating was given.
"""


class Rating(NamedTuple):
    """The rating of one listener for one clip."""

    rater: str
    part: str
    clip: str
    rating: int


def read_key(path: Path) -> dict[str, Any]:
    """Read the key of a test."""
    what = "a key of a listening test"
    remedy = "give the file that was written with the page"
    with reading(path, what, remedy):
        key = load_json(path, what, remedy, FORMAT)
        parts = key["parts"].items()
        every = [Rating("a", part, clip, 3) for part, clips in parts for clip in clips]
        systems = {key["clips"][rating.clip]["system"] for rating in every}
        if not systems <= set(key["systems"]):
            raise ValueError("it has clips of other systems than it names")
        lay_out(every, key, 1, {})  # so that no later use of it fails
    return key


def find_files(paths: Iterable[Path]) -> list[Path]:
    """Return the CSV files among files and folders."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(path.glob("*.csv"))
            files += [file for file in found if file.name != RESULT]
        elif path.is_file():
            files.append(path)
        else:
            raise UserError(f"there is no {path}; name the CSV files of the listeners")
    if not files:
        raise UserError(
            "there is no CSV file of ratings; name the files of the listeners"
        )
    return files


def read_ratings(
    files: Sequence[Path], key: dict[str, Any], keep_unfinished: bool = False
) -> tuple[list[Rating], dict[str, int]]:
    """Read the files of the listeners.

    Returns:
        The ratings, and how many each unfinished listener left blank.
    """
    ratings: list[Rating] = []
    unfinished: dict[str, int] = {}
    seen: dict[str, Path] = {}
    for file in files:
        rater, found = _read_file(file, key)
        same = " ".join(rater.casefold().split())
        if same in seen:
            raise UserError(
                f"{seen[same]} and {file} are both by {rater}; remove one, or write "
                "another name in it if they are two people"
            )
        seen[same] = file
        left = sum(map(len, key["parts"].values())) - len(found)
        if left and not keep_unfinished:
            raise UserError(
                f"{file} by {rater} lacks {left} ratings; ask for the rest, leave the "
                "file out, or give --keep_unfinished"
            )
        if left:
            unfinished[rater] = left
        ratings += found
    return ratings, unfinished


def _read_file(file: Path, key: dict[str, Any]) -> tuple[str, list[Rating]]:
    """Read the ratings of one listener, without blank ones."""
    foreign = f"{file} is not a file of ratings of this test"
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{foreign} ({error}); leave it out") from error
    # spreadsheets of some countries write semicolons
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    try:
        # newline="": a name in quotes may hold a line break
        stream = io.StringIO(text, newline="")
        rows = list(csv.DictReader(stream, delimiter=delimiter))
    except csv.Error as error:  # for instance if the page was given instead
        raise UserError(f"{foreign} ({error}); leave it out") from error
    if not rows or not set(COLUMNS) <= set(rows[0]):
        raise UserError(f"{foreign}: columns are missing; leave it out")
    for number, row in enumerate(rows, 2):
        if any(row[name] is None for name in COLUMNS):
            raise UserError(f"line {number} of {file} lacks columns; correct it")
    raters = {row["rater"] for row in rows}
    if len(raters) > 1:
        raise UserError(
            f"{file} contains ratings by several people; give one file for each"
        )
    (rater,) = raters
    found: dict[tuple[str, str], Rating] = {}
    for number, row in enumerate(rows, 2):
        where = f"line {number} of {file}"
        part, clip, value = row["part"], row["clip"], row["rating"]
        if row["test"] != key["test"]:
            raise UserError(
                f"{foreign}: its test is {row['test']}, that of the key "
                f"{key['test']}; leave it out, or give the key that was made with "
                "that page"
            )
        if clip not in key["parts"].get(part, ()):
            raise UserError(f"{where} rates a clip that is not in the test; correct it")
        if (part, clip) in found:
            raise UserError(f"{where} rates a clip a second time; correct it")
        if not value:
            continue
        if value not in ("1", "2", "3", "4", "5"):
            raise UserError(f"{where} has the rating {value!r}, not 1 to 5; correct it")
        found[part, clip] = Rating(rater, part, clip, int(value))
    return rater, list(found.values())


def summarise(
    ratings: Sequence[Rating], key: dict[str, Any], baseline: str
) -> list[dict[str, Any]]:
    """Make a row for each part and system that has ratings."""
    given: dict[tuple[str, str], dict[tuple[str, str], int]] = {}
    for rating in ratings:
        clip = key["clips"][rating.clip]
        who_and_what = rating.rater, clip["utterance"]
        given.setdefault((rating.part, clip["system"]), {})[who_and_what] = (
            rating.rating
        )
    rows = []
    for part, system in itertools.product(key["parts"], key["systems"]):
        own = given.get((part, system), {})
        if not own:
            continue
        first = given.get((part, baseline), {}) if system != baseline else {}
        pairs = {pair: own[pair] - first[pair] for pair in own if pair in first}
        difference = clustered_interval(pairs)._asdict() if pairs else {}
        values = list(own.values())
        rows.append(
            {
                "part": part,
                "system": system,
                **clustered_interval(own)._asdict(),
                "plus_minus": independent_half_width(values),
                "difference": difference.get("value"),
                "difference_lower": difference.get("lower"),
                "difference_upper": difference.get("upper"),
                "ratings": len(values),
                "raters": len({rater for rater, _ in own}),
                "utterances": len({utterance for _, utterance in own}),
                **{f"rated_{i}": values.count(i) for i in range(1, 6)},
            }
        )
    return rows


def independent_half_width(values: Sequence[float]) -> float | None:
    """Return half of the 95 % interval of a mean as in most papers, by Student's t.

    It treats all ratings as independent, although those by one listener are not. It is
    None for a single rating.
    """
    if len(values) < 2:
        return None
    from scipy.stats import t

    error = np.std(values, ddof=1) / np.sqrt(len(values))
    return float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * error)


def clustered_interval(values: Mapping[tuple[str, str], float]) -> Interval:
    """Return the mean of ratings, or of differences, over listeners and utterances.

    With e the n deviations from the mean, the variance is

        V(listeners) + V(utterances) - V(pairs), V(c) = C / (C - 1) sum (sum e)^2 / n^2

    where the inner sum is over one cluster, the outer one over all C clusters. It is at
    least as large as each of the first two. Student's t has one degree of freedom less
    than there are listeners, or utterances if there are fewer. The ends of the interval
    are None for a single listener or utterance.
    """
    from scipy.stats import t

    numbers = np.array(list(values.values()), dtype=float)
    mean = float(numbers.mean())
    clusters = [
        np.unique(names, return_inverse=True)[1] for names in zip(*values, strict=True)
    ]
    fewest = min(int(index.max()) for index in clusters)
    if fewest < 1:
        return Interval(mean, None, None)
    raters, utterances, pairs = (
        _clustered_variance(numbers - mean, index)
        for index in (*clusters, np.arange(len(numbers)))
    )
    variance = max(raters + utterances - pairs, raters, utterances)
    half = float(t.ppf((1 + CONFIDENCE) / 2, fewest) * np.sqrt(variance))
    return Interval(mean, mean - half, mean + half)


def _clustered_variance(deviations: np.ndarray, index: np.ndarray) -> float:
    """Return the variance of a mean whose values come in independent clusters."""
    sums = np.bincount(index, weights=deviations)
    return len(sums) / (len(sums) - 1) * (sums**2).sum() / len(deviations) ** 2


def unvaried(ratings: Sequence[Rating]) -> list[tuple[str, str, int]]:
    """Return listeners who rated all clips of a part the same, with part and rating."""
    found: dict[tuple[str, str], list[int]] = {}
    for rating in ratings:
        found.setdefault((rating.rater, rating.part), []).append(rating.rating)
    return [
        (rater, part, values[0])
        for (rater, part), values in found.items()
        if len(values) > 1 and len(set(values)) == 1
    ]


def lay_out(
    ratings: Sequence[Rating],
    key: dict[str, Any],
    raters: int,
    unfinished: dict[str, int],
) -> tuple[Document, list[dict[str, Any]]]:
    """Return the page of the result, and the numbers that it shows."""
    if not ratings:
        raise UserError(
            "these files contain no rating; give the files of other listeners"
        )
    baseline = choose_baseline(key["systems"])
    rows = summarise(ratings, key, baseline)
    blocks: list[Block] = []
    for part in key["parts"]:
        own = [_line_of(row, part) for row in rows if row["part"] == part]
        if own:
            columns = [
                tables.Column(name, name)
                for name in own[0]
                if any(line[name] is not None for line in own)
            ]
            blocks.append({"table": tables.grid(own, columns)})
    about = f"Difference: to {baseline}, for the same listeners and utterances."
    blocks.append({"text": f"{about}\n{METHOD}"})
    items = [
        f"{rater} left {left} samples blank." for rater, left in unfinished.items()
    ]
    items += [
        f"{rater} gave every sample of {part} a {rating}: consider leaving it out."
        for rater, part, rating in unvaried(ratings)
    ]
    blocks += [{"items": items}] if items else []
    title = f"{key['title']}, {raters} listeners, test {key['test']}"
    return Document(title, blocks), rows


def _line_of(row: dict[str, Any], part: str) -> dict[str, Any]:
    """Return one row with the headings of its part."""
    value = [row[end] for end in ("value", "lower", "upper")]
    ends = ("difference", "difference_lower", "difference_upper")
    half = row["plus_minus"]
    return {
        "system": row["system"],
        part: tables.with_ends(value, ".2f"),
        "+-": None if half is None else f"{half:.2f}",
        "difference": tables.with_ends([row[end] for end in ends], "+.2f"),
        **{name: row[name] for name in ("ratings", "raters", "utterances")},
        **{str(i): row[f"rated_{i}"] for i in range(1, 6)},
    }
