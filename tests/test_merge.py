"""Settings of one system over those that all share."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from espnet_prune import StyleSpeech
from espnet_prune.cli.merge import merge as merge_settings
from espnet_prune.cli.plan import plan
from espnet_prune.loading import load_yaml

ROOT = Path(__file__).parents[1]
LIBRITTS = ROOT / "egs2" / "libritts" / "tts1" / "conf"


def merge(folder, *files):
    command = [
        *(sys.executable, "-m", "espnet_prune", "merge"),
        "--output_dir",
        str(folder),
        *map(str, files),
    ]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder)


def merged(folder, *files):
    """Merge and read what was written."""
    ended = merge(folder, *files)
    assert ended.returncode == 0, ended.stderr
    path = Path(ended.stdout.strip())
    return path, yaml.safe_load(path.read_text())


def write(path, text):
    path.write_text(text)
    return path


def test_sections_are_merged_and_values_replaced(tmp_path):
    base = write(
        tmp_path / "base.yaml", "a: {b: 1, c: {d: 2, e: [1, 2]}}\nlr: 1.0e-9\n"
    )
    one = write(tmp_path / "one.yaml", "a: {c: {e: [3]}}\n")
    two = write(tmp_path / "two.yaml", "# nothing but a word\n")
    path, settings = merged(tmp_path, base, one, two)
    assert path.name == "base_one_two.yaml"
    assert settings == {"a": {"b": 1, "c": {"d": 2, "e": [3]}}, "lr": 1e-9}


def test_another_class_does_not_get_the_settings_of_the_old_one(tmp_path):
    """OneCycleLR has no warmup_steps; the rest of the file stays."""
    base = write(
        tmp_path / "base.yaml",
        "scheduler: warmuplr\nscheduler_conf: {warmup_steps: 9}\n"
        "optim: adam\noptim_conf: {lr: 1.0, eps: 2.0}\n",
    )
    one = write(
        tmp_path / "one.yaml",
        "scheduler: onecyclelr\nscheduler_conf: {max_lr: 3.0}\n"
        "optim: adam\noptim_conf: {lr: 4.0}\n",
    )
    two = write(tmp_path / "two.yaml", "scheduler_conf: {total_steps: 5}\n")
    _, settings = merged(tmp_path, base, one, two)
    assert settings == {
        "scheduler": "onecyclelr",
        "scheduler_conf": {"max_lr": 3.0, "total_steps": 5},
        "optim": "adam",
        "optim_conf": {"lr": 4.0, "eps": 2.0},
    }


def test_text_stays_text_and_numbers_keep_their_kind(tmp_path):
    """OmegaConf has a meaning for ${}; configurations of ESPnet have none."""
    base = write(tmp_path / "base.yaml", "a: '${b}'\nlr: 1.0e-9\nn: null\non: 1\n")
    one = write(tmp_path / "one.yaml", "b: {c: '${oc.env:HOME}'}\n")
    _, settings = merged(tmp_path, base, one)
    assert settings == {
        "a": "${b}",
        "b": {"c": "${oc.env:HOME}"},
        "lr": 1e-9,
        "n": None,
        True: 1,
    }


@pytest.mark.parametrize("text", ["a: {b: 1}\n", "a: '${'\n", "a: '???'\n"])
def test_what_cannot_be_merged_ends_in_one_line(tmp_path, text):
    base = write(tmp_path / "base.yaml", "a: [1]\n")
    ended = merge(tmp_path, base, write(tmp_path / "one.yaml", text))
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("espnet_prune: error: ")


def test_a_file_that_stays_the_same_is_left_alone(tmp_path):
    base = write(tmp_path / "base.yaml", "a: 1\n")
    path, _ = merged(tmp_path, base)
    os.utime(path, (0, 0))
    merged(tmp_path, base)
    assert path.stat().st_mtime == 0
    write(base, "a: 2\n")
    assert merged(tmp_path, base)[1] == {"a": 2}


@pytest.mark.parametrize("text", ["a: [", "- 1\n", None])
def test_a_file_without_settings_ends_in_one_line(tmp_path, text):
    file = tmp_path / "bad.yaml"
    if text is not None:
        write(file, text)
    ended = merge(tmp_path, file)
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    assert (
        ended.stderr.startswith("espnet_prune: error: ") and "bad.yaml" in ended.stderr
    )


# what the paper says of each system: pruning, R, mask of synthesis, L_sp, both phases
SYSTEMS = {
    "baseline": {"pruning": "none", "epochs": 300},
    "vp": {"pruning": "vanilla", "epochs": 300},
    "dp_r0.50": {"phase1_epochs": 40, "phase2_epochs": 260, "sparsity_ratio": 0.5},
    "dp_r0.45": {"phase1_epochs": 40, "phase2_epochs": 260, "sparsity_ratio": 0.45},
    "dp_r0.40": {"phase1_epochs": 40, "phase2_epochs": 260, "sparsity_ratio": 0.4},
    "dp_r0.45_wo_hard": {"phase1_epochs": 300, "phase2_epochs": 0},
    "dp_r0.45_wo_sparsity": {
        "phase1_epochs": 40,
        "phase2_epochs": 260,
        "sparsity_weight": 0,
    },
}


# what the rivals change in a model without pruning
RIVALS = {
    "mix_style": {"encoder_conditioning": "mix_style"},
    "sc_cnn": {"encoder_conditioning": "sc_cnn"},
    "less_capacity": {"elayers": 2, "dlayers": 2},
    "more_dropout": {
        f"{part}_dropout_rate": 0.2
        for part in ("encoder", "decoder", "attention", "style")
    },
}


def test_every_system_has_a_file():
    found = {path.stem for path in (LIBRITTS / "systems").iterdir()}
    assert found == {*SYSTEMS, *RIVALS}


@pytest.mark.parametrize("preset", ["train", "train_small"])
@pytest.mark.parametrize("rival", RIVALS)
def test_rivals_are_dense_models_that_differ_in_one_thing(rival, preset):
    base = load_yaml(ROOT / "conf" / f"{preset}.yaml")
    overlays = ROOT / "conf" / "systems"
    systems = [load_yaml(overlays / f"{name}.yaml") for name in (rival, "baseline")]
    ours, dense = (merge_settings(base, system)["tts_conf"] for system in systems)
    assert ours["pruning"] == "none"
    changed = {name: ours[name] for name in ours if ours[name] != dense.get(name)}
    assert changed == RIVALS[rival]
    with torch.device("meta"):
        sizes = [
            sum(p.numel() for p in StyleSpeech(40, 80, **conf).parameters())
            for conf in (ours, dense)
        ]
    assert (sizes[0] < sizes[1]) == (rival in ("less_capacity", "sc_cnn"))


def test_a_rival_can_be_pruned(tmp_path):
    overlays = ROOT / "conf" / "systems"
    files = [overlays / "mix_style.yaml", overlays / "dp_r0.45.yaml"]
    _, settings = merged(tmp_path, ROOT / "conf" / "train.yaml", *files)
    conf = settings["tts_conf"]
    assert conf["encoder_conditioning"] == "mix_style"
    assert conf["pruning"] == "differentiable"
    assert conf["pruning_conf"]["sparsity_ratio"] == 0.45


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("durations", ["given", "learned"])
def test_systems_train_as_the_paper_says(tmp_path, system, durations):
    files = [LIBRITTS / "train.yaml", LIBRITTS / "systems" / f"{system}.yaml"]
    if durations == "learned":
        files.append(LIBRITTS / "learned.yaml")
    path, settings = merged(tmp_path, *files)
    assert system in path.stem
    found = plan(str(path), teacher_dumpdir="dump" if durations == "given" else "")
    conf = settings["tts_conf"]
    assert conf["durations"] == durations
    found.update(conf["pruning_conf"])
    wanted = {"pruning": "differentiable", **SYSTEMS[system]}
    assert {name: found[name] for name in wanted} == wanted
    assert settings["num_iters_per_epoch"] == 1000  # 300k steps, 40k of phase 1
