"""Labels in seconds become tokens and frames whose sum is exact."""

import math

import numpy as np
import pytest
import torch
from espnet2.tts.feats_extract.log_mel_fbank import LogMelFbank

from espnet_prune import UserError
from espnet_prune.data.labels import (
    Interval,
    frame_count,
    frame_durations,
    read_labels,
    tokens_and_ends,
)

# The example of the published labels' own description.
MATTHEW = """0.0\t0.03\tsil
0.03\t0.13\tM
0.13\t0.23\tAE1
0.23\t0.28\tTH
0.28\t0.34\tY
0.34\t0.4\tUW0
0.4\t0.48\tK
0.48\t0.56\tAH1
0.56\t0.65\tTH
0.65\t0.71\tB
0.71\t0.8\tER0
0.8\t0.84\tT
0.84\t0.87\tsp
0.87\t0.95\tIH1
0.95\t0.99\tZ
0.99\t1.05\tS
1.05\t1.1\tAH0
1.1\t1.17\tP
1.17\t1.25\tR
1.25\t1.38\tAY1
1.38\t1.5\tZ
1.5\t1.59\tD
1.59\t1.65\tsp
1.65\t1.67\t
"""
GRID = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0.0
xmax = {end}
tiers? <exists>
size = 2
item []:
{tiers}"""


def as_textgrid(tiers):
    """Lay out tiers of intervals as the published TextGrids are."""
    end = max(interval.end for tier in tiers.values() for interval in tier)
    text = ""
    for number, (name, intervals) in enumerate(tiers.items(), 1):
        text += f"        item [{number}]:\n" + " " * 16 + 'class = "IntervalTier"\n'
        text += " " * 16 + f'name = "{name}"\n' + " " * 16 + "xmin = 0.0\n"
        text += " " * 16 + f"xmax = {end}\n"
        text += " " * 16 + f"intervals: size = {len(intervals)}\n"
        for index, (start, stop, label) in enumerate(intervals, 1):
            text += " " * 24 + f"intervals [{index}]:\n"
            text += " " * 32 + f"xmin = {start:.3f}\n" + " " * 32 + f"xmax = {stop}\n"
            text += " " * 32 + f'text = "{label}"\n'
    return GRID.format(end=end, tiers=text)


# ---------------------------------------------------------------------------- frames


def slow_durations(ends, fs, hop_length, num_frames):
    """Ask of each frame in which token its centre lies."""
    samples = [round(end * fs) for end in ends]
    counts = [0] * len(ends)
    for frame in range(num_frames):
        centre = frame * hop_length
        within = [token for token, end in enumerate(samples) if centre < end]
        counts[within[0] if within else -1] += 1
    return counts


@pytest.mark.parametrize(
    "fs, hop_length",
    [(16000, 256), (22050, 256), (24000, 300), (8000, 80), (44100, 7), (16000, 4096)],
)
def test_each_frame_belongs_to_the_token_around_its_centre(fs, hop_length):
    rng = np.random.default_rng(fs + hop_length)
    for _ in range(20):
        steps = rng.integers(0, 30, rng.integers(1, 40))  # hundredths of a second
        ends = np.cumsum(steps) / 100
        samples = max(1, int(ends[-1] * fs) + int(rng.integers(-400, 400)))
        frames = frame_count(samples, hop_length)
        found = frame_durations(ends, fs, hop_length, frames)
        assert found.sum() == frames and (found >= 0).all()
        assert found.dtype == np.int64 and len(found) == len(ends)
        assert found.tolist() == slow_durations(ends, fs, hop_length, frames)


def test_no_token_is_off_by_more_than_a_frame():
    """At random lengths: frames times hop differ from seconds by less than a hop."""
    rng = np.random.default_rng(0)
    for fs, hop_length in ((16000, 256), (22050, 256), (24000, 300)):
        lengths = rng.uniform(0.03, 0.4, 50)
        ends = np.cumsum(lengths)
        frames = frame_count(int(ends[-1] * fs), hop_length)
        found = frame_durations(ends, fs, hop_length, frames)
        assert np.abs(found - lengths * fs / hop_length).max() < 1.01
        assert found.min() >= 1  # 30 ms, the shortest phone of an aligner


def test_exact_boundaries_are_not_lost_in_floating_point():
    # 0.48 s at 16 kHz is sample 7680, frame 30 at hop 256: the next token's.
    assert frame_durations([0.48, 0.96], 16000, 256, 61).tolist() == [30, 31]
    ends = np.arange(1, 500) * 0.01
    found = frame_durations(ends, 16000, 160, frame_count(499 * 160, 160))
    assert found[:-1].tolist() == [1] * 498 and found[-1] == 2


def test_frames_are_those_of_espnet():
    for samples, hop_length in ((16000, 256), (16128, 256), (24300, 300), (1025, 80)):
        extract = LogMelFbank(fs=16000, n_fft=1024, hop_length=hop_length)
        _, lengths = extract(torch.zeros(1, samples), torch.tensor([samples]))
        assert frame_count(samples, hop_length) == int(lengths)


def test_labels_longer_than_the_recording_take_no_frame_of_it():
    assert frame_durations([0.5, 1.0, 2.0], 16000, 160, 101).tolist() == [50, 50, 1]
    assert frame_durations([0.5, 1.0, 2.0], 16000, 160, 60).tolist() == [50, 10, 0]


@pytest.mark.parametrize(
    "ends", [[], [0.3, 0.2], [-0.1, 0.2], [0.1, float("nan")], [0.1, float("inf")]]
)
def test_times_that_cannot_be_are_refused(ends):
    with pytest.raises(UserError, match="remove"):
        frame_durations(ends, 16000, 256, 100)


# ---------------------------------------------------------------------------- labels


def test_published_example(tmp_path):
    (tmp_path / "a.lab").write_text(MATTHEW)
    tokens, ends = tokens_and_ends(read_labels(tmp_path / "a.lab"))
    assert " ".join(tokens) == (
        "sp M AE1 TH Y UW0 K AH1 TH B ER0 T sp IH1 Z S AH0 P R AY1 Z D sp"
    )
    assert len(ends) == len(tokens) and ends[:2] == [0.03, 0.13] and ends[-1] == 1.67
    frames = frame_count(int(1.67 * 24000), 300)
    durations = frame_durations(ends, 24000, 300, frames)
    assert durations[:2].tolist() == [3, 8] and durations.sum() == frames == 134


def test_textgrid_says_the_same_as_the_lab_file(tmp_path):
    pytest.importorskip("praatio")
    (tmp_path / "a.lab").write_text(MATTHEW)
    intervals = read_labels(tmp_path / "a.lab")
    words = [Interval(0.0, 0.4, "matthew"), Interval(0.4, 1.67, "")]
    grid = as_textgrid({"words": words, "phones": intervals})
    (tmp_path / "a.TextGrid").write_text(grid)
    assert read_labels(tmp_path / "a.TextGrid") == intervals


@pytest.mark.parametrize("name", ["a.lab", "a.TextGrid"])
@pytest.mark.parametrize("content", ["no labels", "0.0 0.3 sil\n", "a\tb\tsil\n", None])
def test_files_that_are_no_labels_end_in_one_line(tmp_path, name, content):
    if name == "a.TextGrid":
        pytest.importorskip("praatio")
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=name):
        read_labels(tmp_path / name)


def test_pauses_without_a_third_column_and_empty_lines(tmp_path):
    (tmp_path / "a.lab").write_text("0.0\t0.1\n0.1\t0.2\tK\n0.2\t0.3\t\n\n")
    tokens, ends = tokens_and_ends(read_labels(tmp_path / "a.lab"))
    assert tokens == ["sp", "K", "sp"] and ends == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    "intervals, fault",
    [
        ([], "no phone"),
        ([(0, 1, "sil"), (1, 2, "")], "no phone"),
        ([(0, 1, "K"), (1.2, 2, "T")], "jump"),
        ([(0, 1, "K"), (0.5, 2, "T")], "jump"),
        ([(0.3, 1, "K")], "jump"),
        ([(math.nan, math.nan, "K")], "jump"),
        ([(0, math.inf, "K")], "jump"),
        ([(0, 1, "K"), (1, 0.5, "T")], "jump"),
    ],
)
def test_labels_that_do_not_hold_together_are_refused(intervals, fault):
    with pytest.raises(UserError, match=fault):
        tokens_and_ends([Interval(*interval) for interval in intervals])
