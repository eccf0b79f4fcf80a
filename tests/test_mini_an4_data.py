"""egs2/mini_an4/tts1/local: AN4 as Kaldi folders."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from recipe_scripts import read_folder as read

RECIPE = Path(__file__).resolve().parents[1] / "egs2" / "mini_an4" / "tts1"

TRAIN = """<s> YES </s> (an251-fash-b)
<s> START </s> (an152-mwhw-b)
<s> ELEVEN  SEVENTEEN </s> (cen8-mwhw-b)
"""
# The test transcriptions of AN4 have no sentence marks.
TEST = """ELEVEN TWENTY (cen8-fcaw-b)
OCTOBER (cen8-mmxg-b)
"""


@pytest.fixture
def an4(tmp_path):
    """A folder like the one that ESPnet ships, with noise for speech."""
    folder = tmp_path / "an4"
    (folder / "etc").mkdir(parents=True)
    (folder / "etc" / "an4_train.transcription").write_text(TRAIN)
    (folder / "etc" / "an4_test.transcription").write_text(TEST)
    for part, names in (
        ("an4_clstk", ["an251-fash-b", "cen7-fash-b", "an152-mwhw-b", "cen8-mwhw-b"]),
        ("an4test_clstk", ["cen8-fcaw-b", "cen8-mmxg-b"]),
    ):
        for name in names:
            path = folder / "wav" / part / name.split("-")[1] / f"{name}.sph"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(0).uniform(-0.5, 0.5, 8000)
            soundfile.write(path, noise, 16000, format="NIST", subtype="PCM_16")
    return folder


def prepare(an4_dir, data_dir):
    return subprocess.run(
        [
            sys.executable,
            str(RECIPE / "local" / "prepare.py"),
            *("--an4_dir", str(an4_dir), "--data_dir", str(data_dir)),
        ],
        capture_output=True,
        text=True,
    )


def test_zero_shot_set_says_what_others_said_with_its_own_reference(an4, tmp_path):
    run = prepare(an4, tmp_path / "data")
    assert run.returncode == 0, run.stderr
    test = read(tmp_path / "data" / "test")
    assert test["text"] == {
        "fcaw-an152-mwhw-b": "start",
        "fcaw-an251-fash-b": "yes",
        "fcaw-cen8-mmxg-b": "october",
        "fcaw-cen8-mwhw-b": "eleven seventeen",
        "mmxg-an152-mwhw-b": "start",
        "mmxg-an251-fash-b": "yes",
        "mmxg-cen8-fcaw-b": "eleven twenty",
        "mmxg-cen8-mwhw-b": "eleven seventeen",
    }
    for utterance, reference in test["wav.scp"].items():
        speaker = test["utt2spk"][utterance]
        assert utterance.startswith(f"{speaker}-")
        # The one recording of that speaker, in which the text is not said.
        assert Path(reference).name == f"cen8-{speaker}-b.sph"
        assert soundfile.info(reference).samplerate == 16000
    # Nobody recorded these texts in these voices.
    assert test.keys() == {"text", "wav.scp", "utt2spk", "spk2utt"}


def test_train_and_dev_share_speakers_but_no_utterance(an4, tmp_path):
    prepare(an4, tmp_path / "data")
    train, dev, test = (
        read(tmp_path / "data" / name) for name in ("train", "dev", "test")
    )
    assert train["text"] == {
        "fash-an251-fash-b": "yes",
        "mwhw-cen8-mwhw-b": "eleven seventeen",
    }
    assert dev["text"] == {"mwhw-an152-mwhw-b": "start"}
    assert Path(dev["wav.scp"]["mwhw-an152-mwhw-b"]).stem == "an152-mwhw-b"
    known = set(train["utt2spk"].values())
    assert set(dev["utt2spk"].values()) <= known
    assert not known & set(test["utt2spk"].values())


def test_says_what_it_found(an4, tmp_path):
    out = prepare(an4, tmp_path / "data").stdout
    assert "left out: cen7-fash-b, which has no transcription" in out
    assert "2 utterances, 2 speakers" in out


def test_sorted_as_kaldi_wants_it_and_the_same_again(an4, tmp_path):
    data = tmp_path / "data"
    prepare(an4, data)
    first = {path: path.read_bytes() for path in data.glob("*/*")}
    assert first
    for path, content in first.items():
        if path.name == "identity.json":
            continue
        lines = content.decode().splitlines()
        assert lines == sorted(lines)
    prepare(an4, data)
    assert {path: path.read_bytes() for path in data.glob("*/*")} == first


def missing_transcription(an4):
    (an4 / "etc" / "an4_test.transcription").unlink()
    return "an4_test.transcription"


def bad_line(an4):
    (an4 / "etc" / "an4_train.transcription").write_text("<s> YES </s>\n")
    return "'<s> YES </s>'"


def broken_recording(an4):
    (an4 / "wav" / "an4test_clstk" / "fcaw" / "cen8-fcaw-b.sph").write_text("no")
    return "cen8-fcaw-b.sph"


def no_recordings(an4):
    shutil.rmtree(an4 / "wav" / "an4test_clstk")
    return "an4test_clstk"


@pytest.mark.parametrize(
    "spoil", [missing_transcription, bad_line, broken_recording, no_recordings]
)
def test_a_spoilt_corpus_is_one_line_and_nothing_written(an4, tmp_path, spoil):
    fault = spoil(an4)
    run = prepare(an4, tmp_path / "data")
    assert run.returncode == 2
    assert run.stderr.startswith("espnet_prune: error: ")
    assert run.stderr.count("\n") == 1
    assert fault in run.stderr
    assert not (tmp_path / "data").exists()


ESPNET = Path(os.environ.get("ESPNET_ROOT", RECIPE.parents[2] / "tools" / "espnet"))


@pytest.mark.skipif(
    not (ESPNET / "egs2" / "mini_an4").is_dir(), reason="no ESPnet source tree"
)
def test_data_sh_on_the_real_recordings(tmp_path):
    checkout = tmp_path / "checkout" / "egs2"
    shutil.copytree(RECIPE / "local", checkout / "mini_an4" / "tts1" / "local")
    recipe = checkout / "mini_an4" / "tts1"
    shutil.copy(RECIPE / "path.sh", recipe)
    environment = dict(
        os.environ,
        ESPNET_ROOT=str(ESPNET),
        PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    )
    for _ in range(2):
        run = subprocess.run(
            ["bash", "local/data.sh"],
            cwd=recipe,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr
    assert "train            4 utterances, 3 speakers" in run.stdout
    assert "test             12 utterances, 2 speakers" in run.stdout
    test = read(recipe / "data" / "test")
    assert test["spk2utt"].keys() == {"fcaw", "mmxg"}
    assert test["text"]["mmxg-cen8-fcaw-b"] == "eleven twenty seven fifty seven"
    for path in test["wav.scp"].values():
        assert soundfile.info(str(recipe / path)).samplerate == 16000
    # Characters of dev that training never sees could not be learned.
    train, dev = read(recipe / "data" / "train"), read(recipe / "data" / "dev")
    assert set("".join(dev["text"].values())) <= set("".join(train["text"].values()))
