"""egs2/vctk/tts1/run.sh through every stage, on trees laid out as the corpora are."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from real_speech import write_librispeech, write_vctk
from tiny_experiment import PRUNED, pack_experiment, write_recipe

ROOT = Path(__file__).parents[2]
ROWS = """\
speaker\treference\ttarget\ttext
p225\tp225_012\tp225_038\tyes.
p234\tp234_012\tp234_038\tstart.
p300\tp300_012\tp300_038\tgo.
"""
# The other columns need models that the test environment lacks.
METRICS = ("--metrics", "secs_ecapa rtf kept_share")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "ESPNET_ROOT" not in os.environ, reason="needs ESPnet's recipes: ESPNET_ROOT"
    ),
]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """The recipe in a checkout whose set-up is done, corpora and two tiny models."""
    folder = tmp_path_factory.mktemp("vctk")
    checkout = folder / "checkout"
    for name in ("vctk/tts1", "TEMPLATE/prune_tts1"):
        shutil.copytree(
            ROOT / "egs2" / name,
            checkout / "egs2" / name,
            symlinks=True,
            ignore=shutil.ignore_patterns("data", "exp", "utils", "*scripts", "steps"),
        )
    setup = checkout / "egs2" / "setup.sh"
    setup.write_text("#!/bin/bash\nexit 0\n")
    setup.chmod(0o755)
    write_vctk(folder / "corpora" / "VCTK-Corpus-0.92")
    write_librispeech(folder / "corpora" / "LibriSpeech")
    (folder / "list.tsv").write_text(ROWS)
    models = folder / "models"
    write_recipe(models, "tts_dense")
    pack_experiment(models, write_recipe(models, "tts_dp", seed=1, tts_conf=PRUNED))
    return folder


def run_recipe(folder, *options, status=0):
    """Run the recipe and return what it printed."""
    bin_dir = Path(sys.executable).parent
    ended = subprocess.run(
        [str(folder / "checkout" / "egs2" / "vctk" / "tts1" / "run.sh"), *options],
        capture_output=True,
        text=True,
        cwd=folder,
        env=dict(
            os.environ,
            PATH=f"{bin_dir}:{os.environ['PATH']}",
            PYTHONPATH=str(ROOT),
            XDG_CACHE_HOME=str(folder / "cache"),
        ),
    )
    assert ended.returncode == status, ended.stdout[-3000:] + ended.stderr[-3000:]
    return ended.stdout if status == 0 else ended.stderr


VCTK = ("--corpus_dir", "corpora", "--list", "list.tsv", "--tag", "vctk", "--nj", "1")
FIRST = ("--model", "models/exp/tts_dense", "--vocoder", "griffin_lim")
BOTH = (*FIRST, "--model", "DP=models/tts_dp.zip")


@pytest.fixture(scope="module")
def finished(workplace):
    """The folder of results and the output of a run with two models."""
    shown = run_recipe(workplace, *VCTK, *BOTH, *METRICS)
    return workplace / "checkout" / "egs2" / "vctk" / "tts1" / "exp" / "vctk", shown


def table(exp):
    with open(exp / "scores" / "scores.csv", newline="") as file:
        return {
            (row["group"], row["system"], row["metric"]): row
            for row in csv.DictReader(file)
        }


def test_one_table_of_models_and_ground_truth(finished):
    exp, shown = finished
    page = (exp / "scores" / "scores.md").read_text()
    assert page in shown
    assert "VCTK 0.92, list list.tsv, sha256" in page
    assert "left out: p315" in shown
    systems = re.findall(r"^\| +(\w+) \|", page.split("## the 11")[0], re.MULTILINE)
    assert systems[1:] == [
        *("ground_truth", "ground_truth_mel_griffin_lim", "tts_dense", "DP")
    ]
    assert "## all: 3 utterances, 3 speakers" in page
    title = "the 11 of YourTTS and SC-CNN"
    assert f"## {title}: 2 utterances, 2 of 11 speakers" in page
    assert "- secs_ecapa: empty, the package speechbrain is not installed" in page
    rows = table(exp)
    assert float(rows["all", "tts_dense", "kept_share"]["value"]) == 1
    assert 0 < float(rows["all", "DP", "kept_share"]["value"]) < 1
    assert rows["all", "DP", "kept_share"]["difference"] == ""
    for system in ("tts_dense", "DP"):
        assert float(rows[title, system, "rtf"]["value"]) > 0
    assert ("all", "ground_truth", "rtf") not in rows


def test_speech_is_where_it_is_said_to_be(finished):
    exp, _ = finished
    for system in ("tts_dense", "DP", "ground_truth_mel_griffin_lim"):
        names = sorted(file.stem for file in (exp / system / "wav").glob("*.wav"))
        assert names == ["p225_038", "p234_038", "p300_038"]
        for name in names:
            wave, fs = soundfile.read(exp / system / "wav" / f"{name}.wav")
            assert fs == 16000 and len(wave) and np.abs(wave).max() > 0
    lines = (exp / "scores" / "DP.jsonl").read_text().splitlines()
    scores = json.loads(lines[0])["scores"]
    assert scores["rtf"]["synthesis_seconds"] > 0 and "kept_share" in scores


def test_an_interrupted_run_goes_on_and_a_model_is_added(finished, workplace):
    exp, _ = finished
    wavs = {file: file.stat().st_mtime_ns for file in exp.glob("*/wav/*.wav")}
    lost = exp / "DP" / "wav" / "p234_038.wav"
    lost.unlink()
    third = write_recipe(workplace / "models", "tts_third", seed=2)
    models = (*BOTH[2:], "--model", str(third))
    shown = run_recipe(workplace, *VCTK, *models, *METRICS, "--stage", "2")
    assert "DP/wav: 3 utterances, of which 1 are new" in shown
    assert "tts_third/wav: 3 utterances, of which 3 are new" in shown
    changed = [file for file in wavs if file.stat().st_mtime_ns != wavs[file]]
    assert changed == [lost]
    assert ("all", "tts_third", "rtf") in table(exp)


def test_own_texts_and_another_corpus(workplace):
    (workplace / "texts.txt").write_text("well then\n")
    shown = run_recipe(
        workplace,
        *("--corpus", "librispeech", "--corpus_dir", "corpora"),
        *("--test_texts", "texts.txt", *FIRST, "--stop_stage", "3"),
    )
    assert "LibriSpeech test-other, references of the list drawn with seed 0" in shown
    assert "Stage 3: skipped" in shown
    exp = workplace / "checkout" / "egs2" / "vctk" / "tts1" / "exp"
    wavs = (exp / "librispeech_texts" / "tts_dense" / "wav").glob("*.wav")
    assert sorted(wav.stem for wav in wavs) == ["1089-sent001", "367-sent001"]


def test_a_stage_that_lacks_the_one_before(workplace):
    options = ("--corpus_dir", "corpora", "--tag", "new", *FIRST)
    message = run_recipe(workplace, *options, "--stage", "4", status=2)
    assert "data/new is missing; run stage 1 first" in message
