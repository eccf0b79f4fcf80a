"""The smoke test from data to a packed model, with fewer steps."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

ROOT = Path(__file__).parents[2]
SHORT = "--max_epoch 3 --num_iters_per_epoch 4"
SPEAK = """
import sys
import espnet_prune
from espnet2.bin.tts_inference import Text2Speech
from espnet_model_zoo.downloader import ModelDownloader
import soundfile
archive, cache, reference = sys.argv[1:]
text2speech = Text2Speech(**ModelDownloader(cache).unpack_local_file(archive))
speech, _ = soundfile.read(reference, dtype="float32")
output = text2speech("one two three", speech=speech)
assert len(output["wav"]) == (len(output["feat_gen"]) - 1) * 256
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "ESPNET_ROOT" not in os.environ, reason="needs ESPnet's recipes: ESPNET_ROOT"
    ),
]


def run_recipe(folder, *options):
    """Run the recipe with its products in ``folder`` and return what it printed."""
    command = [str(ROOT / "egs2" / "mini_an4" / "tts1" / "run.sh")]
    command += ["--dumpdir", str(folder / "dump"), "--expdir", str(folder / "exp")]
    ended = subprocess.run(
        [*command, *options], capture_output=True, text=True, cwd=folder
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return ended.stdout


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder and the output of the job, differentiable pruning."""
    folder = tmp_path_factory.mktemp("mini_an4")
    shown = run_recipe(folder, "--train_args", SHORT, "--phase1_epochs", "1")
    return folder, shown


def experiment(folder, phase):
    found = list(folder.glob(f"exp/tts_*_phase{phase}"))
    assert len(found) == 1
    return found[0]


def test_both_phases_are_reported(finished):
    folder, shown = finished
    report = experiment(folder, 2) / "report"
    layers = json.loads((report / "thresholds.json").read_text())["layers"]
    assert [(row["phase"], row["layer"]) for row in layers] == [
        (phase, layer) for phase in (1, 2) for layer in (1, 2, 3, 4)
    ]
    learned, kept = layers[:4], layers[4:]
    assert any(row["threshold"] != 0 for row in learned)
    for before, after in zip(learned, kept, strict=True):
        assert before["threshold"] == pytest.approx(after["threshold"], abs=1e-6)
    for name in ("thresholds.md", "thresholds.png", "kept.png", "losses.png"):
        assert str(report / name) in shown
    assert list(report.glob("attention_*.png"))


def test_unseen_speakers_are_heard_by_both_vocoders(finished):
    folder, shown = finished
    for suffix in ("", "_hifigan"):
        wavs = experiment(folder, 2) / f"decode_train.loss.ave{suffix}" / "test" / "wav"
        assert re.search(rf"{re.escape(str(wavs))}: \d+ wav files", shown)
        names = sorted(wav.stem for wav in wavs.glob("*.wav"))
        assert {name.split("-")[0] for name in names} == {"fcaw", "mmxg"}
        for name in names:
            wav, fs = soundfile.read(wavs / f"{name}.wav")
            assert fs == 22050 and len(wav) > 0 and np.isfinite(wav).all()


def test_packed_model_loads_by_espnet_in_a_fresh_process(finished, tmp_path):
    folder, shown = finished
    archive = next(experiment(folder, 2).glob("*.zip"))
    assert f"{archive}: loads, and produces" in shown and "bit for bit" in shown
    reference = next(folder.glob("dump/raw/test/data/**/*.flac"))
    subprocess.run(
        [sys.executable, "-c", SPEAK, str(archive), str(tmp_path), str(reference)],
        check=True,
        cwd=tmp_path,
    )


def test_finished_training_is_not_done_again(finished):
    """Running a stage again resumes at its end, and adds no epoch."""
    folder, _ = finished
    models = [(p, p.stat().st_mtime_ns) for p in folder.glob("exp/*/*epoch.pth")]
    assert models
    options = ("--train_args", SHORT, "--phase1_epochs", "1")
    run_recipe(folder, *options, "--stage", "7", "--stop_stage", "7")
    assert models == [
        (p, p.stat().st_mtime_ns) for p in folder.glob("exp/*/*epoch.pth")
    ]


@pytest.mark.parametrize("pruning", ["none", "vanilla"])
def test_one_phase_models(finished, pruning):
    folder, _ = finished
    shown = run_recipe(
        folder,
        *("--train_args", f"{SHORT} --tts_conf pruning={pruning}", "--tag", pruning),
        *("--stage", "7", "--vocoders", "griffin_lim", "--phase", "both"),
    )
    exp = folder / "exp" / f"tts_{pruning}"
    assert "phase 2" not in shown
    assert (exp / "train.loss.ave.pth").exists()
    assert (exp / "report" / "thresholds.md").exists() == (pruning == "vanilla")
    assert list(exp.glob("decode_*/test/wav/*.wav"))


def test_two_lines_of_yaml_train_under_espnets_own_script(finished):
    """Statistics, durations, pitch and energy are the task's affair."""
    folder, _ = finished
    recipe = ROOT / "egs2" / "mini_an4" / "tts1"
    script = Path(os.environ["ESPNET_ROOT"]) / "egs2" / "TEMPLATE" / "tts1" / "tts.sh"
    config = folder / "two.yaml"
    config.write_text("tts: stylespeech\ntts_conf: {pruning: differentiable}\n")
    options = {
        "python": "python3 -m espnet_prune",
        "train_config": config,
        "train_args": "--max_epoch 1 --num_iters_per_epoch 2 --batch_size 2 "
        "--batch_type sorted --optim adam --num_workers 0",
        "dumpdir": folder / "dump",
        "expdir": folder / "exp_two",
        "stage": 6,
        "stop_stage": 7,
        "ngpu": 0,
        "nj": 2,
        "train_set": "train",
        "valid_set": "dev",
        "token_type": "phn",
        "g2p": "espeak_ng_english_us_vits",
        "cleaner": "none",
        "fs": 22050,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    ended = subprocess.run(
        [str(script), *map(str, words)], capture_output=True, text=True, cwd=recipe
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    (exp,) = (folder / "exp_two").glob("tts_two_*")
    settings = yaml.safe_load((exp / "config.yaml").read_text())
    assert settings["tts_conf"]["durations"] == "learned"
    assert settings["pitch_extract"] == "dio"
    assert settings["pitch_extract_conf"]["fs"] == 22050
    assert settings["pitch_extract_conf"]["use_token_averaged_f0"] is False
    assert settings["energy_normalize"] == "global_mvn"
    assert (exp / "train.loss.best.pth").exists()


def test_scores_reach_report_and_card(finished):
    """--skip_scoring false: one row a vocoder, by what needs no network."""
    python = ROOT / "tools" / "venv" / "bin" / "python3"  # of the recipe, if it has one
    scorer = [python if python.exists() else sys.executable, "-c"]
    if subprocess.run(
        [*scorer, "import moonshine_voice"], capture_output=True
    ).returncode:
        pytest.skip("needs the scorers of the README")
    folder, _ = finished
    options = ("--train_args", SHORT, "--phase1_epochs", "1")
    run_recipe(
        folder,
        *(*options, "--stage", "9", "--stop_stage", "10", "--skip_scoring", "false"),
    )
    exp = experiment(folder, 2)
    table = (exp / "scores" / "test" / "scores.md").read_text()
    for system in ("griffin_lim", "hifigan"):
        assert f"| {system} | 12 |" in " ".join(table.split())
    assert "cer_moonshine" in (exp / "README.md").read_text()
    assert "cer_moonshine" in (exp / "report" / "report.html").read_text()


def test_pieces_of_words(finished):
    """--token_type bpe: our stage 5, and a packed model that finds its pieces."""
    folder, _ = finished
    shown = run_recipe(
        folder,
        *("--token_type", "bpe", "--nbpe", "25", "--vocoders", "griffin_lim"),
        *("--train_args", SHORT, "--phase1_epochs", "1", "--stage", "5"),
    )
    assert "bit for bit" in shown


def test_phase2_alone_names_the_folder_it_looked_in(tmp_path):
    command = [str(ROOT / "egs2" / "mini_an4" / "tts1" / "run.sh")]
    exp = tmp_path / "exp"
    ended = subprocess.run(
        [*command, "--expdir", str(exp), "--tag", "x", "--stage", "7", "--phase", "2"],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2
    fault = ended.stderr.strip().splitlines()[-1]
    assert "found no phase-1" in fault and f"{exp}/tts_x_phase1" in fault
    assert not exp.exists()
