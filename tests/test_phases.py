"""phases.py and the trainer: two phases end to end, killed, resumed and distributed.

A few synthetic recordings, ESPnet's own training loop, one thread. ESPnet seeds every
epoch by its number, so a run that was killed and resumed must end with the very same
numbers as one that was not.
"""

import io
import multiprocessing
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from espnet2.tasks.tts import TTSTask
from tiny_training import (
    EPOCHS,
    LR,
    STEPS,
    WARMUP,
    checkpoint,
    learned,
    options,
    same,
    thresholds,
    train,
    write_corpus,
)

from espnet_prune import PruneTTSTask, StyleSpeech, UserError
from espnet_prune.config import PruningConf
from espnet_prune.training.phases import PHASE1_RECORD, prepare_phase2

ROOT = Path(__file__).resolve().parents[1]

# ---- a tiny corpus ----


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def runs(corpus, tmp_path_factory):
    """Folders of one uninterrupted phase 1 and phase 2."""
    folder = tmp_path_factory.mktemp("runs")
    train(corpus, folder / "phase1")
    train(corpus, folder / "phase2", phase=2, phase1_dir=folder / "phase1")
    return folder


# ---- settings ----


@pytest.mark.parametrize(
    "pruning, phase, training, trains",
    [
        ("none", 1, None, False),
        ("vanilla", 1, "hard", False),
        ("differentiable", 1, "soft", True),
        ("differentiable", 2, "hard", False),
    ],
)
def test_what_a_phase_means(pruning, phase, training, trains):
    conf = PruningConf(phase=phase)
    assert conf.training_mask(pruning) == training
    assert conf.trains_threshold(pruning) == trains
    assert conf.synthesis_mask(pruning) == (None if pruning == "none" else "hard")


# ---- phase 2 goes on from phase 1 ----


def test_prepared_checkpoint_is_phase_1_with_a_fresh_reporter(runs, tmp_path):
    prepare_phase2(runs / "phase1", tmp_path / "phase2")
    before, after = checkpoint(runs / "phase1"), checkpoint(tmp_path / "phase2")
    for name in ("model", "optimizers", "schedulers", "scaler"):
        assert same(before[name], after[name]), name
    assert before["reporter"]["epoch"] == EPOCHS
    assert after["reporter"] == {"epoch": 0, "stats": {}}
    record = yaml.safe_load((tmp_path / "phase2" / PHASE1_RECORD).read_text())
    assert record["checkpoint"] == str(runs / "phase1" / "checkpoint.pth")
    assert record["epochs"] == EPOCHS
    # as reports have them, in multiples of 1/N, and not the parameters behind them
    assert record["thresholds"] == {
        name.removesuffix(".theta"): pytest.approx(30 * theta)
        for name, theta in thresholds(before).items()
    }
    # neither the folder of phase 1 nor a second call changes anything
    assert same(before, checkpoint(runs / "phase1"))
    prepare_phase2(runs / "phase1", tmp_path / "phase2")
    assert same(after, checkpoint(tmp_path / "phase2"))


def test_phase_2_continues_and_leaves_thresholds(runs):
    first, second = checkpoint(runs / "phase1"), checkpoint(runs / "phase2")
    learned_thetas = thresholds(first)
    assert len(learned_thetas) == 2
    assert all(abs(theta) > 1e-4 for theta in learned_thetas.values())
    assert thresholds(second) == learned_thetas
    changed = [
        name
        for name, value in first["model"].items()
        if not torch.equal(value, second["model"][name])
    ]
    assert len(changed) > 50
    # Adam counts on, but for thresholds
    steps = [
        [int(state["step"]) for state in states["optimizers"][0]["state"].values()]
        for states in (first, second)
    ]
    assert set(steps[0]) == {EPOCHS * STEPS}
    assert sorted(set(steps[1])) == [EPOCHS * STEPS, 2 * EPOCHS * STEPS]
    assert steps[1].count(EPOCHS * STEPS) == len(learned_thetas)
    # the reporter has the epochs of phase 2, and none of its phase-1 names
    stats = second["reporter"]["stats"]
    assert sorted(stats) == list(range(1, EPOCHS + 1))
    for epoch in stats:
        assert "sparsity_loss" not in stats[epoch]["train"]
        assert "soft_mean_1" not in stats[epoch]["train"]
    for part in ("train", "valid"):
        assert "sparsity_loss" in first["reporter"]["stats"][1][part]
        for layer, theta in enumerate(learned_thetas.values(), 1):
            for epoch in stats:
                reported = stats[epoch][part][f"threshold_{layer}"]
                assert reported == pytest.approx(30.0 * theta, rel=1e-5)


def test_learning_rate_continues(runs):
    def rate(step):  # ESPnet's WarmupLR
        return LR * WARMUP**0.5 * min(step**-0.5, step * WARMUP**-1.5)

    traces = []
    for phase in (1, 2):
        states = checkpoint(runs / f"phase{phase}")
        stats = states["reporter"]["stats"]
        traces += [stats[e]["train"]["optim0_lr0"] for e in range(1, EPOCHS + 1)]
        assert states["schedulers"][0]["last_epoch"] == phase * EPOCHS * STEPS
    # ESPnet notes the rate down after the scheduler has moved on to the next step
    steps = np.arange(2 * EPOCHS * STEPS).reshape(-1, STEPS) + 2
    expected = [np.mean([rate(step) for step in epoch]) for epoch in steps]
    assert traces == pytest.approx(expected, rel=1e-4)


def test_first_epoch_of_phase_2_is_not_a_fresh_start(corpus, runs, tmp_path):
    fresh = train(corpus, tmp_path / "phase1", epochs=1)
    name = "mel_loss"
    start = fresh["reporter"]["stats"][1]["train"][name]
    stats = checkpoint(runs / "phase2")["reporter"]["stats"]
    assert stats[1]["train"][name] < 0.8 * start


def test_phase_2_resumes_even_if_not_told_to(corpus, runs, tmp_path):
    # its start is a checkpoint: without it nothing of phase 1 would be left
    states = train(
        corpus,
        tmp_path / "phase2",
        phase=2,
        phase1_dir=runs / "phase1",
        resume=False,
    )
    assert same(states["model"], checkpoint(runs / "phase2")["model"])


@pytest.mark.parametrize(
    "optim, conf",
    [
        ("adam", {"weight_decay": 0.1}),
        ("adamw", {"weight_decay": 0.1}),
        ("sgd", {"weight_decay": 0.1, "momentum": 0.9}),
        ("adamw", {"weight_decay": 0.1, "amsgrad": True}),
    ],
)
def test_weight_decay_does_not_move_thresholds_in_phase_2(
    corpus, tmp_path, optim, conf
):
    changes = {"optim": optim, "optim_conf": dict(lr=LR, **conf), "epochs": 2}
    if conf.get("amsgrad"):
        changes["exclude_weight_decay"] = True  # ESPnet's groups of parameters
    first = train(corpus, tmp_path / "phase1", **changes)
    second = train(
        corpus, tmp_path / "phase2", phase=2, phase1_dir=tmp_path / "phase1", **changes
    )
    assert all(theta != 0 for theta in thresholds(first).values())
    assert thresholds(second) == thresholds(first)
    name = "tts.decoder.output.weight"
    assert not torch.equal(first["model"][name], second["model"][name])


def test_best_models_of_phase_2_are_its_own(runs):
    folder = runs / "phase2"
    names = {file.name for file in folder.iterdir()}
    assert {"valid.loss.ave_2best.pth", "valid.loss.ave.pth", "latest.pth"} <= names
    assert (folder / "valid.loss.best.pth").resolve().parent == folder
    average = torch.load(folder / "valid.loss.ave.pth", weights_only=True)
    learned_thetas = thresholds(checkpoint(folder))
    for name, theta in thresholds(average).items():
        assert theta == pytest.approx(learned_thetas[name], rel=1e-6)
    # averaged from epochs of phase 2
    stats = checkpoint(folder)["reporter"]["stats"]
    best = sorted(stats, key=lambda epoch: stats[epoch]["valid"]["loss"])[:2]
    models = [
        torch.load(folder / f"{epoch}epoch.pth", weights_only=True) for epoch in best
    ]
    key = "tts.decoder.output.weight"
    torch.testing.assert_close(average[key], (models[0][key] + models[1][key]) / 2)


# ---- what cannot be a phase 2 ----


def refused(corpus, output_dir, message, **kwargs):
    """Train, expecting a refusal."""
    with pytest.raises(UserError, match=message):
        train(corpus, output_dir, phase=2, **kwargs)


def test_phase_2_needs_a_phase_1(corpus, runs, tmp_path):
    output = tmp_path / "phase2"
    missing = tmp_path / "nowhere"
    refused(corpus, output, f"no phase-1 checkpoint in {missing}", phase1_dir=missing)
    refused(corpus, output, "phase 2 cannot start.*--phase1_dir")
    assert not output.exists()  # nothing half-written


def test_launcher_names_the_folder_it_looked_in(corpus, tmp_path):
    missing, output = tmp_path / "nowhere", tmp_path / "phase2"
    child = subprocess.run(
        [sys.executable, "-m", "espnet_prune", "-m", "espnet2.bin.tts_train"]
        + options(corpus, output, phase=2, phase1_dir=missing),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    last = child.stderr.splitlines()[-1]
    assert child.returncode == 2
    assert last.startswith("espnet_prune: error: phase 2 found no phase-1 checkpoint")
    assert str(missing) in last
    assert "Traceback" not in child.stderr
    assert not output.exists()


def test_phase_1_must_have_thresholds(corpus, tmp_path):
    train(corpus, tmp_path / "dense", epochs=1, tts_conf={"pruning": "none"})
    output = tmp_path / "phase2"
    refused(corpus, output, "has no thresholds", phase1_dir=tmp_path / "dense")
    assert not output.exists()


@pytest.mark.parametrize("patience", [None, 3])
def test_an_interrupted_phase_1_is_refused(corpus, tmp_path, patience):
    folder = tmp_path / "phase1"
    train(corpus, folder, epochs=1)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config.update(max_epoch=7, patience=patience)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    output = tmp_path / "phase2"
    refused(corpus, output, "interrupted after epoch 1 of 7", phase1_dir=folder)
    assert not output.exists()


@pytest.mark.parametrize(
    "changes, name",
    [
        ({"adim": 16}, "adim 16"),
        ({"pruning_conf": {"phase": 2}}, "threshold_scale 1.0"),
    ],
)
def test_phase_2_is_of_the_same_model(corpus, runs, tmp_path, changes, name):
    """Other widths could not load; another scale would mean other thresholds."""
    output = tmp_path / "phase2"
    refused(corpus, output, name, phase1_dir=runs / "phase1", tts_conf=changes)
    assert not output.exists()


def test_a_folder_holds_one_phase_of_one_run(corpus, runs, tmp_path):
    train(corpus, tmp_path / "phase1", epochs=1)
    before = checkpoint(tmp_path / "phase1")
    # the folder of phase 1 itself, named or not
    for phase1_dir, message in (
        (None, "contains a phase 1: give phase 2 its own folder"),
        (tmp_path / "phase1", "contains a phase 2 of another phase 1"),
    ):
        refused(corpus, tmp_path / "phase1", message, phase1_dir=phase1_dir)
        assert same(before, checkpoint(tmp_path / "phase1"))
    # a phase 2 of other thresholds
    prepare_phase2(runs / "phase1", tmp_path / "phase2")
    before = checkpoint(tmp_path / "phase2")
    refused(
        corpus, tmp_path / "phase2", "another phase 1", phase1_dir=tmp_path / "phase1"
    )
    assert same(before, checkpoint(tmp_path / "phase2"))


@pytest.mark.parametrize("pruning", ["none", "vanilla"])
def test_one_phase_is_enough_without_learned_thresholds(corpus, tmp_path, pruning):
    states = train(
        corpus,
        tmp_path / "exp",
        epochs=1,
        tts_conf={"pruning": pruning, "pruning_conf": {}},
    )
    assert thresholds(states) == {}
    stats = states["reporter"]["stats"][1]["train"]
    if pruning == "vanilla":
        assert stats["threshold_1"] == 1.0 and 0 < stats["kept_share_1"] < 1
    else:
        assert "threshold_1" not in stats


# ---- SIGKILL ----

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["espnet_prune"])  # imported once for all children


def die():
    """Leave at once, as from `kill -9` or a machine that loses power."""
    os.kill(os.getpid(), signal.SIGKILL)


def train_and_die(command, moment, number, log):
    """Train in this process and kill it at a chosen moment.

    Args:
        command: options of training.
        moment: "step", in the middle of training step ``number``; "checkpoint", when
            half of checkpoint.pth of epoch ``number`` is on disk; "model", after that
            checkpoint and before the model of the epoch; "link", after that.
        number: step or epoch, from 1.
        log: file for what the process says.
    """
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    torch.set_num_threads(1)
    save, forward, link = torch.save, StyleSpeech.forward, Path.symlink_to
    steps = iter(range(1, 10**6))

    def forward_or_die(self, *args, **kwargs):
        if self.training and next(steps) == number:
            die()
        return forward(self, *args, **kwargs)

    def save_or_die(states, path, *args, **kwargs):
        epoch = states.get("reporter", {}).get("epoch")
        if moment == "checkpoint" and epoch == number:
            whole = io.BytesIO()
            save(states, whole)
            with open(path, "wb") as file:
                file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
            die()
        if moment == "model" and f"{number}epoch.pth" in str(path):
            die()
        return save(states, path, *args, **kwargs)

    def link_or_die(self, target, *args, **kwargs):
        if target == f"{number}epoch.pth":
            die()
        return link(self, target, *args, **kwargs)

    if moment == "step":
        StyleSpeech.forward = forward_or_die
    elif moment == "link":
        Path.symlink_to = link_or_die
    else:
        torch.save = save_or_die
    PruneTTSTask.main(cmd=command)


def kill(command, moment, number, tmp_path):
    """Train in a process of its own that dies at ``moment``."""
    log = tmp_path / "log"
    process = context.Process(target=train_and_die, args=(command, moment, number, log))
    process.start()
    process.join(timeout=300)
    assert process.exitcode == -signal.SIGKILL, log.read_text()[-3000:]


MOMENTS = [
    ("step", None),  # a random one
    ("checkpoint", 2),
    ("model", 2),
    ("link", 2),
    ("model", EPOCHS),  # the last epoch: only what follows the training is missing
    ("link", EPOCHS),
]


@pytest.mark.parametrize("moment, number", MOMENTS)
@pytest.mark.parametrize("phase", [1, 2])
def test_killed_and_resumed_training_ends_as_if_uninterrupted(
    corpus, runs, tmp_path, phase, moment, number
):
    if number is None:
        number = random.SystemRandom().randint(1, EPOCHS * STEPS)
        print(f"killed in step {number}")  # shown if the test fails
    output = tmp_path / f"phase{phase}"
    phase1_dir = runs / "phase1" if phase == 2 else None
    command = options(corpus, output, phase=phase, phase1_dir=phase1_dir)
    kill(command, moment, number, tmp_path)
    if (output / "checkpoint.pth").exists():
        epoch = checkpoint(output)["reporter"]["epoch"]  # whole, not half
        assert epoch == (number - 1) // STEPS if moment == "step" else epoch <= number
    PruneTTSTask.main(cmd=command)
    expected, states = checkpoint(runs / f"phase{phase}"), checkpoint(output)
    assert sorted(states["reporter"]["stats"]) == list(range(1, EPOCHS + 1))
    for name in ("model", "optimizers", "schedulers"):
        assert same(states[name], expected[name]), name
    assert same(learned(states), learned(expected))
    # the same files, and nothing left over but models of epochs that came before
    files, wanted = (
        {f.name: f.is_symlink() and os.readlink(f) for f in folder.iterdir()}
        for folder in (output, runs / f"phase{phase}")
    )
    assert wanted.items() <= files.items()
    extra = files.keys() - wanted.keys()
    assert all(re.fullmatch(r"[1-4]epoch\.pth", name) for name in extra), extra
    for name in ("valid.loss.ave.pth", "valid.loss.best.pth", "latest.pth"):
        found, model = (
            torch.load(folder / name, weights_only=True)
            for folder in (output, runs / f"phase{phase}")
        )
        assert same(found, model), name


def test_killed_while_phase_2_is_prepared(corpus, runs, tmp_path):
    output = tmp_path / "phase2"
    command = options(corpus, output, phase=2, phase1_dir=runs / "phase1")
    kill(command, "checkpoint", 0, tmp_path)
    assert not (output / "checkpoint.pth").exists()
    PruneTTSTask.main(cmd=command)
    assert same(checkpoint(output)["model"], checkpoint(runs / "phase2")["model"])


def test_a_finished_phase_stays_as_it_is(corpus, runs):
    before = checkpoint(runs / "phase2")
    train(corpus, runs / "phase2", phase=2, phase1_dir=runs / "phase1")
    assert same(before, checkpoint(runs / "phase2"))


@pytest.mark.slow
def test_killed_from_outside_through_the_launcher(corpus, runs, tmp_path):
    # As a user has it: the launcher, `kill -9` at any time, the same command again.
    output = tmp_path / "phase1"
    command = [sys.executable, "-m", "espnet_prune", "-m", "espnet2.bin.tts_train"]
    command += options(corpus, output, use_matplotlib=True, num_att_plot=1)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        while not (output / "1epoch.pth").exists() and process.poll() is None:
            time.sleep(0.01)
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL, (tmp_path / "log").read_text()
    again = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr[-3000:]
    assert "was resumed" in again.stderr
    expected = checkpoint(runs / "phase1")
    assert same(checkpoint(output)["model"], expected["model"])
    # ESPnet's own plots show the thresholds and the attention
    assert (output / "images" / "threshold_1.png").exists()
    assert len(list((output / "att_ws").rglob("*decoder.blocks.1.attention*.png"))) > 0


# ---- two processes ----


def train_rank(command, rank, port, folder):
    """Train as one of two processes and write down the thresholds of this one."""
    descriptor = os.open(folder / f"log{rank}", os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT=str(port)
    )

    class RecordingTrainer(PruneTTSTask.trainer):
        @classmethod
        def run(cls, model, **kwargs):
            start = thresholds(model.state_dict())
            super().run(model=model, **kwargs)
            end = {k: v.clone() for k, v in model.state_dict().items()}
            torch.save((start, end), folder / f"rank{rank}.pth")

    PruneTTSTask.trainer = RecordingTrainer
    PruneTTSTask.main(cmd=command)


def train_on_two(command, folder):
    """Train by gloo on CPU; return the states of both ranks at the end."""
    folder.mkdir()
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    command = command + ["--ngpu", "0", "--dist_backend", "gloo"]
    command += ["--multiprocessing_distributed", "false"]
    processes = [
        context.Process(target=train_rank, args=(command, rank, port, folder))
        for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=300)
    for rank, process in enumerate(processes):
        assert process.exitcode == 0, (folder / f"log{rank}").read_text()[-3000:]
    return [torch.load(folder / f"rank{rank}.pth")[1] for rank in (0, 1)]


SPAWNING = ["--multiprocessing_distributed", "true"]
SRUN = {
    "SLURM_PROCID": "{}",
    "SLURM_NTASKS": "2",
    "SLURM_STEP_NODELIST": "a,b",
    "SLURM_STEP_NUM_NODES": "2",
}


@pytest.mark.parametrize(
    "flags, environment",
    [
        (["--dist_rank", "{}"], {}),
        (["--dist_rank", "{}", *SPAWNING], {}),  # there it is the rank of the node
        ([], {"RANK": "{}"}),  # as torchrun says it
        (SPAWNING, {"RANK": "{}"}),
        ([*SPAWNING, "--dist_launcher", "slurm"], dict(SRUN, SLURM_NODEID="{}")),
        (["--dist_launcher", "slurm"], SRUN),
    ],
)
@pytest.mark.parametrize("rank", [0, 1])
def test_of_several_nodes_the_first_one_prepares_phase_2(
    corpus, runs, tmp_path, monkeypatch, flags, environment, rank
):
    trained = []
    monkeypatch.setattr(TTSTask, "main", lambda args: trained.append(args.resume))
    for name, value in environment.items():
        monkeypatch.setenv(name, value.format(rank))
    command = options(
        corpus, tmp_path / "phase2", 2, phase1_dir=runs / "phase1", resume=False
    )
    command += ["--ngpu", "1", "--dist_world_size", "2"]
    PruneTTSTask.main(cmd=command + [flag.format(rank) for flag in flags])
    assert trained == [True]  # every one resumes from what the first has prepared
    assert (tmp_path / "phase2" / "checkpoint.pth").exists() == (rank == 0)
    # and every one refuses what cannot be a phase 2
    command = options(corpus, tmp_path / "other", 2, phase1_dir=tmp_path / "nowhere")
    with pytest.raises(UserError, match="no phase-1 checkpoint"):
        PruneTTSTask.main(cmd=command + [flag.format(rank) for flag in flags])


def test_two_gloo_processes_train_both_phases(corpus, tmp_path):
    changes = {"epochs": 2, "batch_size": 4}
    first = train_on_two(
        options(corpus, tmp_path / "phase1", **changes), tmp_path / "ranks1"
    )
    second = train_on_two(
        options(
            corpus, tmp_path / "phase2", 2, phase1_dir=tmp_path / "phase1", **changes
        ),
        tmp_path / "ranks2",
    )
    for phase, ranks in (("phase1", first), ("phase2", second)):
        assert same(ranks[0], ranks[1])  # all weights, thresholds among them
        assert same(ranks[0], checkpoint(tmp_path / phase)["model"])
        assert sorted(checkpoint(tmp_path / phase)["reporter"]["stats"]) == [1, 2]
    thetas = thresholds(first[0])
    assert len(thetas) == 2 and all(abs(theta) > 1e-4 for theta in thetas.values())
    assert thresholds(second[0]) == thetas
    assert not same(first[0], second[0])
