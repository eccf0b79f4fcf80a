"""Convert forced-alignment labels to tokens and frame durations.

Aligners write the ends of phones in seconds. Training needs the number of mel frames of
each token; their sum must be exactly the number of frames. Times stay in seconds as
long as possible, so that one set of labels is valid for every sampling rate and hop
size.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from espnet_prune.errors import UserError
from espnet_prune.text.normalise import read_lines

PAUSE = "sp"  # our token for the sil, sp or empty label of aligners
PAUSE_LABELS = frozenset({"", "sil", "sp", "<eps>"})
# Labels are written with two or three decimals.
LARGEST_GAP = 0.005  # seconds between the end of an interval and the next start


class Interval(NamedTuple):
    """The label from ``start`` to ``end``, in seconds."""

    start: float
    end: float
    label: str


def frame_count(num_samples: int, hop_length: int) -> int:
    """Count the frames of ESPnet's STFT.

    ESPnet pads the samples so that frame k is centred on sample k * hop_length.
    """
    return 1 + num_samples // hop_length


def frame_durations(
    ends: Sequence[float], fs: int, hop_length: int, num_frames: int
) -> np.ndarray:
    """Count the frames of each token.

    Frame k is centred on sample k * hop_length (ESPnet pads the signal by half a
    window) and belongs to the token that contains this sample. Tokens shorter than a
    hop may get no frame. The last token takes all frames up to the end, so that the sum
    is exact. The caller must check that the labels fit the recording.

    Args:
        ends: End of each token in seconds, never decreasing (T_text,).
        fs: Sampling rate of the features in Hz, not that of the labelled recording.
        hop_length: Samples per frame.
        num_frames: Frames of the utterance, ``frame_count(samples, hop_length)``.

    Returns:
        Frames of each token, int64, never negative (T_text,).
    """
    times = np.asarray(ends, dtype=np.float64)
    if times.ndim != 1 or len(times) == 0:
        raise UserError("the labels contain no interval: remove the utterance")
    if not np.isfinite(times).all() or times[0] < 0 or (np.diff(times) < 0).any():
        raise UserError(
            "the labels' times are not in order: align the utterance again or remove it"
        )
    # Whole samples first: 0.48 s at 16 kHz is not exactly 7680.0 in floating point.
    samples = np.rint(times * fs).astype(np.int64)
    boundaries = np.minimum(-(-samples // hop_length), num_frames)
    boundaries[-1] = num_frames
    return np.diff(boundaries, prepend=0)


def read_labels(path: str | Path) -> list[Interval]:
    """Read the phones of a ``.lab`` file or of a Praat TextGrid.

    Args:
        path: A file of lines START, END, LABEL between tabs, in seconds, or one that
            ends in ``.TextGrid`` and has a tier ``phones``.
    """
    path = Path(path)
    if path.suffix.lower() == ".textgrid":
        return _read_textgrid(path)
    intervals = []
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        fields = [field.strip() for field in line.split("\t")]
        try:
            start, end = map(float, fields[:2])
            label = fields[2] if len(fields) > 2 else ""  # pauses may have no label
        except ValueError:
            raise UserError(
                f"line {number} of {path} is not START, END, LABEL between tabs: "
                f"{line[:80]!r}"
            ) from None
        intervals.append(Interval(start, end, label))
    return intervals


def _read_textgrid(path: Path) -> list[Interval]:
    try:
        from praatio import textgrid
    except ImportError as error:
        raise UserError(
            f"{path} needs a package to be read: pip install praatio"
        ) from error
    try:
        grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=True)
        entries = grid.getTier("phones").entries
    except Exception as error:  # the library raises many kinds of error
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise UserError(
            f"{path} is not a TextGrid with a tier `phones` ({reason})"
        ) from error
    return [Interval(entry.start, entry.end, entry.label) for entry in entries]


def tokens_and_ends(intervals: Sequence[Interval]) -> tuple[list[str], list[float]]:
    """Return tokens of intervals: one per phone, and one for neighbouring pauses.

    The intervals are in order and without gaps, from time 0 on.

    Returns:
        Tokens (T_text,) and the end of each in seconds (T_text,).
    """
    tokens: list[str] = []
    ends: list[float] = []
    before = 0.0
    for interval in intervals:
        # written so that NaN is refused
        fits = abs(interval.start - before) <= LARGEST_GAP
        if not (fits and interval.start <= interval.end < math.inf):
            raise UserError(
                f"the labels jump from {before:g} s to {interval.start:g} s: align "
                "the utterance again or remove it"
            )
        before = interval.end
        token = PAUSE if interval.label in PAUSE_LABELS else interval.label
        if tokens and tokens[-1] == token == PAUSE:
            ends[-1] = interval.end
        else:
            tokens.append(token)
            ends.append(interval.end)
    if not set(tokens) - {PAUSE}:
        raise UserError("the labels contain no phone: remove the utterance")
    return tokens, ends
