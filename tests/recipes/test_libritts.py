"""egs2/libritts/tts1 through every stage, on a tree that looks like the corpora."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import yaml
from libritts import (
    an4_recordings,
    copy_recipe,
    environment,
    make_corpus,
    make_labels,
    needs_recordings,
)

pytestmark = [pytest.mark.slow, needs_recordings]

TINY = """
tts_conf:
    adim: 16
    eunits: 32
    dunits: 32
    decoder_prenet_units: 8
    style_units: 16
    style_dim: 16
    predictor_units: 16
num_iters_per_epoch: 3
max_epoch: 4
batch_size: 3
num_workers: 0
keep_nbest_models: 1
num_att_plot: 0
"""
SPEAK = """
import sys
from espnet_prune import Text2Speech
text2speech = Text2Speech.from_pretrained(sys.argv[1])
english = text2speech.tokenize("Hello, world!")
phones = text2speech.tokenize("sp HH AH0 L OW1 sp W ER1 L D sp")
assert [part.tolist() for part in english] == [part.tolist() for part in phones]
wav = text2speech("Hello, world!", speech=sys.argv[2])["wav"]
assert len(wav) > 0
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Folder of a copy of the recipe, and a function that runs it."""
    folder = tmp_path_factory.mktemp("libritts")
    corpus = make_corpus(folder / "corpora", an4_recordings())
    labels = make_labels(folder / "LibriTTSLabel", corpus)
    copied = copy_recipe(folder / "checkout")
    (folder / "tiny.yaml").write_text(TINY)

    def run(*options):
        command = [str(copied / "run.sh"), "--ngpu", "0", "--nj", "2"]
        command += ["--train_overlays", str(folder / "tiny.yaml"), *options]
        ended = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=folder,
            env=environment(LIBRITTS=folder / "corpora", LIBRITTS_LABEL=labels),
        )
        assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
        return ended.stdout

    return copied, run


@pytest.fixture(scope="module")
def finished(recipe):
    """The recipe after all stages of the default system."""
    folder, run = recipe
    return folder, run()


def read(path):
    return dict(line.split(maxsplit=1) for line in path.read_text().splitlines())


def test_durations_of_the_labels_reach_the_model(finished):
    """ESPnet itself refuses durations that do not add up to the frames."""
    folder, shown = finished
    for name in ("train-clean-460_phn", "dev-clean_phn"):
        durations = read(folder / "dump/16000/durations" / name / "durations")
        raw = folder / "dump/16000/raw" / name
        samples, texts = read(raw / "utt2num_samples"), read(raw / "text")
        assert durations.keys() == texts.keys()
        for utterance, line in durations.items():
            frames = list(map(int, line.split()))
            assert len(frames) == len(texts[utterance].split()) + 1
            assert sum(frames) == 1 + int(samples[utterance]) // 256
    exp = folder / "exp/16000/tts_train_dp_r0.45_tiny_raw_phn_arpabet_phase2"
    config = yaml.safe_load((exp / "config.yaml").read_text())
    assert config["tts_conf"]["durations"] == "given"
    assert config["tts_conf"]["pruning_conf"]["sparsity_ratio"] == 0.45
    assert config["g2p"] == "arpabet" and config["pitch_extract_conf"]["fs"] == 16000
    layers = json.loads((exp / "report" / "thresholds.json").read_text())["layers"]
    assert {row["phase"] for row in layers} == {1, 2}
    assert "bit for bit" in shown


def test_readers_of_the_test_set_are_heard(finished):
    folder, shown = finished
    for name, speakers in (("test_unseen", {"1089", "121"}), ("test_seen", None)):
        wavs = re.search(rf"(\S+/{name}/wav): (\d+) wav files", shown)
        files = sorted((folder / wavs[1]).glob("*.wav"))
        assert len(files) == int(wavs[2]) >= 2
        if speakers:
            assert {path.stem.split("-")[0] for path in files} == speakers
        for path in files:
            wav, fs = soundfile.read(path)
            assert fs == 16000 and len(wav) > 0 and np.isfinite(wav).all()


def test_trained_model_takes_english(finished, tmp_path):
    folder, _ = finished
    (archive,) = folder.glob("exp/16000/tts_*_phase2/*.zip")
    reference = next(folder.glob("dump/16000/raw/test_unseen/data/**/*.flac"))
    subprocess.run(
        [sys.executable, "-c", SPEAK, str(archive), str(reference)],
        check=True,
        cwd=tmp_path,
        env=environment(XDG_CACHE_HOME=tmp_path),
    )


def test_another_system_shares_data_and_statistics(finished, recipe):
    """Stage 7 is all that a further system needs."""
    folder, run = recipe
    statistics = folder / "exp/16000/tts_stats_raw_phn_arpabet/train/feats_stats.npz"
    before = statistics.stat().st_mtime_ns
    run("--system", "vp", "--stage", "7", "--stop_stage", "7")
    assert (folder / "exp/16000/tts_train_vp_tiny_raw_phn_arpabet").is_dir()
    assert statistics.stat().st_mtime_ns == before


def test_learned_durations_at_another_rate(finished, recipe):
    folder, run = recipe
    options = ("--durations", "learned", "--system", "baseline", "--fs", "24000")
    run(*options, "--stop_stage", "7")
    name = "tts_train_baseline_learned_tiny_raw_phn_arpabet"
    config = yaml.safe_load((folder / "exp/24000" / name / "config.yaml").read_text())
    assert config["tts_conf"]["durations"] == "learned"
    assert config["feats_extract_conf"]["hop_length"] == 300
    text = (folder / "dump/24000/raw/train-clean-460/text").read_text()
    assert "Mr. Quilter is the apostle" in text
    lists = [folder / f"dump/{fs}/token_list/phn_arpabet" for fs in (16000, 24000)]
    assert len({(path / "tokens.txt").read_text() for path in lists}) == 1
