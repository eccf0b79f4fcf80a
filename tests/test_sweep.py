"""sweep.sh and the verb sweep: what is run, what is skipped, what is reported."""

import csv
import math
import os
import shutil
import statistics
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from experiments import write_experiment
from matplotlib.image import imread

from espnet_prune.cli.sweep import main
from espnet_prune.errors import UserError
from espnet_prune.evaluation.sweep import (
    Setting,
    plot_sweep_kept,
    plot_sweep_thresholds,
    read_sweep,
    summarise,
    tabulate,
)

ROOT = Path(__file__).resolve().parents[1]
SWEEP = ROOT / "egs2" / "TEMPLATE" / "prune_tts1" / "sweep.sh"


# ---- what is run ----

# A recipe's run.sh that writes down its options and what a training would leave.
RUN = """#!/usr/bin/env bash
echo "run $*" >> log
while [ $# -gt 0 ]; do printf -v "${1#--}" '%s' "$2"; shift 2; done
if [ "${stage}" = 99 ]; then
    [ "${phase1_epochs:-1}" -lt 50 ] || { echo "too long" >&2; exit 2; }
    exit 0
fi
case "${tts_exp}" in
    *R*) for phase in 1 2; do
            mkdir -p "${tts_exp}_phase${phase}/decode/test/wav"
            touch "${tts_exp}_phase${phase}/"{checkpoint.pth,config.yaml}
            [ ! -e fail ] || exit 3
        done ;;
    *) mkdir -p "${tts_exp}/decode/test/wav"; touch "${tts_exp}/config.yaml" ;;
esac
"""
PYTHON = """#!/usr/bin/env bash
echo "python $*" >> log
"""


@pytest.fixture
def recipe(tmp_path):
    """A recipe without ESPnet: its scripts and python3 write down what is asked."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "dump" / "raw" / "test").mkdir(parents=True)
    (tmp_path / "dump" / "raw" / "test" / "text").touch()
    for name, content in (("run.sh", RUN), ("bin/python3", PYTHON)):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "path.sh").write_text('export PATH="${PWD}/bin:${PATH}"\n')
    return tmp_path


def sweep(recipe, *options, code=0):
    """Call sweep.sh in the recipe; return what it says and what it ran."""
    (recipe / "log").unlink(missing_ok=True)
    ended = subprocess.run(
        [str(SWEEP), *options], capture_output=True, text=True, cwd=recipe
    )
    assert ended.returncode == code, ended.stdout + ended.stderr
    log = recipe / "log"
    called = log.read_text().splitlines() if log.exists() else []
    trained = [
        line for line in called if line.startswith("run") and "--stage 99" not in line
    ]
    return ended, trained, [line for line in called if line.startswith("python")]


GRID = ("--sparsity_ratios", " none  0.50 0.4", "--phase1_epochs", " 20 40 ")
GRID += ("--seeds", "0 7", "--ngpu", "2")


def test_every_combination_is_run_once(recipe):
    _ended, trained, reported = sweep(recipe, *GRID, "--train_args", "--max_epoch 60")
    names = [line.split("--tts_exp exp/sweep/")[1].split()[0] for line in trained]
    assert names == [
        f"{point}_s{seed}"
        for seed in (0, 7)
        for point in ("none", "R0.50_p20", "R0.4_p20", "R0.50_p40", "R0.4_p40")
    ]
    assert trained[-1] == (
        "run --ngpu 2 --tts_exp exp/sweep/R0.4_p40_s7 --train_args --max_epoch 60 "
        "--seed 7 --tts_conf pruning=differentiable "
        "--tts_conf pruning_conf.sparsity_ratio=0.4 --phase1_epochs 40 "
        "--stage 7 --stop_stage 8"
    )
    assert "--tts_conf pruning=none --stage 7" in trained[0]
    assert [line.split()[3] for line in reported] == [
        "sweep",
        "attention",
    ]
    assert reported[1].split()[4:] == [
        "exp/sweep/none_s0",
        "exp/sweep/R0.50_p20_s0_phase2",
        "exp/sweep/R0.4_p20_s0_phase2",
        *("--data_dir", "dump/raw/test", "--output_dir", "exp/sweep/report"),
    ]


def test_other_systems_are_trained_with_the_same_seeds(recipe):
    options = ("--sparsity_ratios", "none", "--systems", "sc_cnn more_dropout")
    _ended, trained, _ = sweep(recipe, *options, "--seeds", "0 1")
    names = [line.split("--tts_exp exp/sweep/")[1].split()[0] for line in trained]
    assert names == [
        f"{name}_s{seed}"
        for seed in (0, 1)
        for name in ("none", "sc_cnn", "more_dropout")
    ]
    systems = ROOT / "conf" / "systems"
    assert trained[-2].split("--train_args ")[1] == (
        f"--seed 1 --train_overlays {systems}/sc_cnn.yaml --stage 7 --stop_stage 8"
    )
    assert "--train_overlays" not in trained[0]
    # over what all points share, and from the recipe's own folder if it is there
    (recipe / "conf").mkdir()
    (recipe / "conf" / "systems").symlink_to(systems)
    shared = ("--train_overlays", "mine.yaml", "--sweep_dir", "exp/other")
    _ended, trained, _ = sweep(recipe, *options, *shared)
    assert "--train_overlays mine.yaml conf/systems/sc_cnn.yaml" in trained[1]
    assert "--train_overlays mine.yaml --tts_exp" in trained[0]


def test_dry_run_lists_and_checks_and_writes_nothing(recipe):
    before = sorted(recipe.rglob("*"))
    ended, trained, reported = sweep(recipe, *GRID, "--dry_run")
    assert "10 points in exp/sweep, each by ./run.sh, stages 7 to 8" in ended.stdout
    assert ended.stdout.count("    new ") == 10
    assert "Dry run: 10 of 10 points would run" in ended.stdout
    assert trained == [] == reported
    checks = (recipe / "log").read_text().splitlines()
    assert ["--phase1_epochs 20" in c for c in checks] == [True, False]
    (recipe / "log").unlink()
    assert sorted(recipe.rglob("*")) == before
    # a setting that the recipe refuses ends the sweep before anything is trained
    options = ("--phase1_epochs", "20 30 60")
    for dry_run in ((), ("--dry_run", "true")):
        ended, trained, _ = sweep(recipe, *options, *dry_run, code=2)
        assert trained == [] and not (recipe / "exp").exists()
        assert ended.stderr.splitlines() == [
            "too long",
            "sweep.sh: error: the settings of R0.50_p60_s0 are refused, see above",
        ]


def test_finished_points_are_passed_over_and_others_go_on(recipe):
    options = ("--sparsity_ratios", "0.50 0.45", "--seeds", "1")
    (recipe / "fail").touch()
    ended, trained, reported = sweep(recipe, *options, code=3)
    assert len(trained) == 1 and reported == []
    assert "call sweep.sh again to continue" in ended.stderr.splitlines()[-1]
    assert "R0.50_s1" in ended.stderr
    (recipe / "fail").unlink()
    ended, trained, _ = sweep(recipe, *options)
    assert "    begun     R0.50_s1" in ended.stdout and len(trained) == 2
    checks = [c for c in (recipe / "log").read_text().splitlines() if "stage 99" in c]
    assert len(checks) == 1
    # all done: nothing but the report is made again
    ended, trained, reported = sweep(recipe, *options)
    assert trained == [] and len(reported) == 2
    assert ended.stdout.count("skipped, finished before") == 2
    # a model that was removed is trained again
    for name, found in (("R0.45_s1_phase2", "begun"), ("R0.45_s1_phase*", "new")):
        for folder in (recipe / "exp" / "sweep").glob(name):
            shutil.rmtree(folder)
        ended, trained, _ = sweep(recipe, *options)
        assert f"    {found:9} R0.45_s1 " in ended.stdout and len(trained) == 1
    # run.sh compares a changed configuration with that of the training
    (recipe / "conf").mkdir()
    (recipe / "conf" / "train.yaml").write_text("max_epoch: 3")
    assert len(sweep(recipe, *options)[1]) == 2
    assert sweep(recipe, *options)[1] == []
    (recipe / "conf" / "train.yaml").write_text("max_epoch: 4")
    assert len(sweep(recipe, *options)[1]) == 2
    # more points are added, other options are other results
    ended, trained, _ = sweep(recipe, *options[:3], "1 2")
    assert len(trained) == 2 and all("--seed 2" in line for line in trained)
    assert len(sweep(recipe, *options, "--stop_stage", "9")[1]) == 2
    assert len(sweep(recipe, *options, "--train_args", "--max_epoch 9")[1]) == 2


def test_a_folder_has_models_of_one_kind(recipe):
    """ESPnet would train a model of 16 kHz on under the settings of 24 kHz."""
    options = ("--sparsity_ratios", "0.5", "--system", "vp")
    sweep(recipe, *options, "--fs", "16000", "--ngpu", "1")
    for other in (("--fs", "24000"), (), ("--fs", "16000", "--durations", "learned")):
        for dry_run in ((), ("--dry_run",)):
            ended, trained, _ = sweep(recipe, *options, *other, *dry_run, code=2)
            assert not trained and ended.stderr.count("\n") == 1
            assert "exp/sweep was begun with --fs 16000 --system vp: " in ended.stderr
    longer = ("--fs", "16000", *options, "--train_args", "--max_epoch 99")
    assert sweep(recipe, *longer)[1]
    faster = (*longer[:-1], "--max_epoch 99 --optim_conf lr=1")
    ended, trained, _ = sweep(recipe, *faster, code=2)
    assert not trained and "choose another --sweep_dir" in ended.stderr
    same = (
        "--fs",
        "16000",
        *options,
        "--ngpu",
        "4",
        "--vocoders",
        "griffin_lim hifigan",
    )
    sweep(recipe, *same)
    assert sweep(recipe, *options, "--fs", "24000", "--sweep_dir", "exp/other")[1]


def test_seeds_that_begin_alike_are_not_mistaken(recipe):
    options = ("--sparsity_ratios", "0.5", "--seeds")
    sweep(recipe, *options, "10")
    ended, _, _ = sweep(recipe, *options, "1", "--dry_run")
    assert "    new       R0.5_s1 " in ended.stdout


def test_scores_of_all_points(recipe):
    options = ("--sparsity_ratios", "0.5 vanilla", "--score", "true")
    _, _, reported = sweep(recipe, *options)
    assert reported[0].split()[3:] == [
        "score",
        *("--data_dir", "dump/raw/test", "--output_dir", "exp/sweep/scores"),
        *("--system", "R0.5_s0=exp/sweep/R0.5_s0_phase2/decode/test/wav"),
        *("--system", "vanilla_s0=exp/sweep/vanilla_s0/decode/test/wav"),
    ]
    assert "--scores exp/sweep/scores/scores.csv" in reported[1]
    # scores of what the points said before are none of theirs
    (recipe / "exp" / "sweep" / "scores").mkdir()
    (recipe / "exp" / "sweep" / "scores" / "scores.csv").touch()
    _, _, reported = sweep(recipe, *options[:2])
    assert "--scores" not in reported[0]


@pytest.mark.parametrize(
    "options, rate", [(["--fs", "16000"], 16000), (["--fs", "8000"], 8000), ([], 16000)]
)
def test_data_of_the_same_rate(recipe, options, rate):
    shutil.rmtree(recipe / "dump" / "raw")
    for fs in (16000, 22050, 8000):
        (recipe / "dump" / str(fs) / "raw" / "test").mkdir(parents=True)
        (recipe / "dump" / str(fs) / "raw" / "test" / "text").touch()
    _, _, reported = sweep(recipe, "--sparsity_ratios", "0.45", *options)
    assert f"--data_dir dump/{rate}/raw/test " in reported[1]


def test_recipes_without_run_sh_are_run_by_prune_tts_sh(recipe):
    shutil.move(recipe / "run.sh", recipe / "prune_tts.sh")
    ended, trained, _ = sweep(recipe, "--sparsity_ratios", "0.45")
    assert "each by ./prune_tts.sh" in ended.stdout and len(trained) == 1


@pytest.mark.parametrize(
    "options, fault",
    [
        (["--seeds"], "option --seeds has no value"),
        (["0.45"], "unexpected argument 0.45"),
        (["--sparsity_ratios", "0.45 1.2"], "has 1.2: choose values between 0 and 1"),
        (["--sparsity_ratios", "0.0"], "has 0.0: choose values between 0 and 1"),
        (["--sparsity_ratios", "0.5 dense"], "has dense"),
        (["--sparsity_ratios", "0.5 0.50"], "has 0.5 twice: leave one out"),
        (["--sparsity_ratios", " "], "--sparsity_ratios is empty"),
        (["--seeds", "1 -1"], "--seeds has -1: choose whole numbers"),
        (["--seeds", "3 3"], "--seeds has 3 twice"),
        (["--seeds", "-n 0"], "--seeds has -n: choose whole numbers"),
        (["--seeds", "[0-9]"], "--seeds is '[0-9]': give words of letters"),
        (["--systems", "mix_style'"], "--systems is "),
        (["--phase1_epochs", "20'"], "--phase1_epochs is "),
        (["--phase1_epochs", "$(touch F)"], "--phase1_epochs is "),
        (["--systems", "vp"], "--systems has vp: choose from mix_style"),
        (["--phase1_epochs", "0"], "--phase1_epochs has 0"),
        (["--stop_stage", "6"], "--stop_stage is 6: choose 7"),
        (["--stage", "1"], "run stages 1 to 6 with run.sh"),
        (["--tag", "x"], "leave --tag out"),
        (["--phase", "1"], "leave --phase out"),
        (["--score", "yes"], "--score is 'yes': choose one of true false"),
        (["--score", "true", "--stop_stage", "7"], "needs the speech of stage 8"),
        (["--test_data", "nowhere"], "--test_data nowhere contains no text"),
    ],
)
def test_bad_command_lines_end_in_one_line(recipe, options, fault):
    ended, trained, reported = sweep(recipe, *options, code=2)
    assert ended.stderr.startswith("sweep.sh: error: ") and fault in ended.stderr
    assert ended.stderr.count("\n") == 1 and not trained and not reported
    assert not (recipe / "exp").exists()


def test_only_in_a_recipe(tmp_path):
    ended, _, _ = sweep(tmp_path, code=2)
    assert "call sweep.sh in the folder of a recipe" in ended.stderr


# ---- what is reported ----


def write_point(folder, name, thetas, ratio, seed, lengths=(2, 3), loss=1.0):
    """Write a model of two phases, of which only the thresholds are worth reading."""
    for phase, epochs in zip((1, 2), lengths, strict=True):
        path = write_experiment(
            folder / f"{name}_phase{phase}",
            [thetas] * epochs,
            phase=phase,
            sparsity_ratio=ratio,
        )
        amend(path, seed=seed, max_epoch=epochs)


def amend(folder, **settings):
    """Change config.yaml of an experiment."""
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **settings}))


@pytest.fixture
def folder(tmp_path):
    """A sweep: two R, seeds, a dense and a vanilla model, and unfinished ones."""
    folder = tmp_path / "sweep"
    write_point(folder, "R0.40_s0", (1.0, 3.0), 0.40, 0)
    write_point(folder, "R0.40_s1", (2.0, 5.0), 0.40, 1)
    write_point(folder, "R0.45_s0", (0.5, 0.5), 0.45, 0)
    for name, thetas in (("none", ()), ("vanilla", (1.0, 1.0))):
        path = write_experiment(folder / f"{name}_s0", [thetas] * 5, pruning=name)
        amend(path, seed=0, max_epoch=5)
    write_point(folder, "R0.45_s1", (0.5, 0.5), 0.45, 1)
    shutil.rmtree(folder / "R0.45_s1_phase2")
    write_point(folder, "R0.45_s2", (0.5, 0.5), 0.45, 2)
    amend(folder / "R0.45_s2_phase2", max_epoch=9)
    (folder / "R0.50_s0_phase1").mkdir()
    (folder / "broken_s0").mkdir()
    (folder / "broken_s0" / "config.yaml").write_text("{")
    return folder


def test_points_are_what_their_configurations_say(folder, caplog):
    points = read_sweep(folder)
    assert [(p.name, p.setting, p.seed) for p in points] == [
        ("none_s0", Setting("none", None, None), 0),
        ("vanilla_s0", Setting("vanilla", None, None), 0),
        ("R0.45_s0", Setting("differentiable", 0.45, 2), 0),
        ("R0.40_s0", Setting("differentiable", 0.40, 2), 0),
        ("R0.40_s1", Setting("differentiable", 0.40, 2), 1),
    ]
    assert "R0.45_s1 is left out: it has no phase 2 yet" in caplog.text
    assert "R0.45_s2 is left out: it has 3 of 9 epochs" in caplog.text
    assert "broken_s0 is left out: " in caplog.text
    # one soft phase to the end is a whole model
    soft = {"pruning": "differentiable", "pruning_conf": {"inference_mask": "soft"}}
    amend(folder / "R0.45_s1_phase1", tts_conf=soft)
    assert Setting("differentiable", 0.45, None) in [
        point.setting for point in read_sweep(folder)
    ]


def test_rivals_have_their_own_line(folder, tmp_path):
    for seed in (0, 1):
        name = f"mix_style_s{seed}"
        path = write_experiment(folder / name, [()] * 5, pruning="none")
        amend(path, seed=seed, max_epoch=5)
    points = read_sweep(folder)
    assert [point.name for point in points][:3] == [
        "none_s0",
        "mix_style_s0",
        "mix_style_s1",
    ]
    output = tmp_path / "report"
    main([str(folder), "--output_dir", str(output)])
    with open(output / "sweep.csv", newline="") as file:
        settings = list(csv.DictReader(file))
    assert [(row["system"], row["seeds"]) for row in settings][:2] == [
        ("", "1"),
        ("mix_style", "2"),
    ]
    assert "| mix_style |" in (output / "sweep.md").read_text().replace("  ", "")


def test_tables_have_means_and_spreads_over_seeds(folder, tmp_path, capsys):
    output = tmp_path / "report"
    main([str(folder), "--output_dir", str(output)])
    screen = capsys.readouterr().out
    with open(output / "points.csv", newline="") as file:
        points = list(csv.DictReader(file))
    with open(output / "sweep.csv", newline="") as file:
        settings = list(csv.DictReader(file))
    assert [row["name"] for row in points[2:]] == ["R0.45_s0", "R0.40_s0", "R0.40_s1"]
    assert [row["seeds"] for row in settings] == ["1", "1", "1", "2"]
    last = settings[-1]
    assert (last["sparsity_ratio"], last["phase1_epochs"]) == ("0.4", "2")
    assert float(last["threshold_2"]) == 4.0
    assert float(last["threshold_2_sd"]) == pytest.approx(statistics.stdev([3, 5]))
    assert float(last["threshold"]) == 2.75  # mean of both layers and seeds
    assert float(last["kept_share"]) == pytest.approx((0.25 + 0.125) / 2)
    assert settings[0]["threshold"] == "" and settings[2]["threshold_sd"] == ""
    # losses of phase 2's last epoch, of the validation set; no sparsity loss
    assert float(last["mel_loss"]) == pytest.approx(5 / 3 / 2)
    assert "sparsity_loss" not in last
    page = (output / "sweep.md").read_text()
    (line,) = [row for row in page.splitlines() if "0.40" in row]
    assert "2.8 +- 1.1 |" in line and "18.8 %" in line and line in screen
    for name in ("metrics", "thresholds", "kept"):
        assert imread(output / f"{name}.png").std() > 0.05
        assert f"{output}/{name}.png" in screen


def test_scores_take_the_place_of_losses(folder, tmp_path):
    scores = tmp_path / "scores.csv"
    lines = ["group,system,metric,value", "all,ground_truth,cer,0.01"]
    lines += [f"all,R0.40_s{seed},cer,0.{seed + 1}" for seed in (0, 1)]
    lines += [f"women,R0.40_s{seed},cer,0.{seed + 8}" for seed in (0, 1)]
    scores.write_text("\n".join(lines) + "\n")
    output = tmp_path / "report"
    main([str(folder), "--scores", str(scores), "--output_dir", str(output)])
    page = (output / "sweep.md").read_text()
    (line,) = [row for row in page.splitlines() if "0.40" in row]
    assert "0.150 +- 0.071" in line
    (line,) = [row for row in page.splitlines() if "0.45" in row]
    assert " - |" in line and "mel" not in page
    with open(output / "points.csv", newline="") as file:
        assert [row["cer"] for row in csv.DictReader(file)] == [
            *("",) * 3,
            "0.1",
            "0.2",
        ]


def test_lines_of_one_setting_share_their_colour(folder):
    figure = plot_sweep_thresholds(read_sweep(folder))
    first = figure.axes[0].get_lines()
    assert [line.get_ydata()[-1] for line in first] == [0.5, 1.0, 2.0]
    assert [len(line.get_xdata()) for line in first] == [5, 5, 5]
    colours = [line.get_color() for line in first]
    assert colours[0] != colours[1] == colours[2]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "R = 0.45, phase 1 of 2 epochs",
        "R = 0.40, phase 1 of 2 epochs",
    ]


def test_dense_models_alone_have_a_report(tmp_path):
    folder = tmp_path / "sweep"
    amend(write_experiment(folder / "none_s0", [()], pruning="none"), max_epoch=1)
    main([str(folder), "--output_dir", str(tmp_path / "report")])
    names = sorted(path.name for path in (tmp_path / "report").glob("[!.]*"))
    assert names == ["metrics.png", "points.csv", "sweep.csv", "sweep.md"]


def register_last(folder, **stats):
    """Change the statistics of the last validation of an experiment."""
    states = torch.load(folder / "checkpoint.pth", weights_only=True)
    epochs = states["reporter"]["stats"]
    last = epochs[max(epochs)]
    last["valid"].update(stats)
    for name in [name for name, value in last["valid"].items() if value is None]:
        del last["valid"][name]
    torch.save(states, folder / "checkpoint.pth")


def test_points_that_cannot_be_compared_are_left_out(folder, caplog):
    amend(folder / "none_s0", max_epoch="5")
    register_last(folder / "vanilla_s0", kept_mass_2=None)
    register_last(folder / "R0.40_s0_phase2", loss=math.nan)
    amend(folder / "R0.40_s1_phase1", seed="x")
    assert [point.name for point in read_sweep(folder)] == ["R0.45_s0"]
    for name in ("none_s0", "vanilla_s0", "R0.40_s1"):
        assert f"{name} is left out: " in caplog.text
    assert "R0.40_s0 is left out: loss of its last epoch is nan" in caplog.text


def test_models_of_other_depths_have_a_figure(tmp_path):
    folder = tmp_path / "sweep"
    for name, thetas in (("vanilla_s0", (1.0, 1.0)), ("mix_style_s0", (1.0,))):
        path = write_experiment(folder / name, [thetas], pruning="vanilla")
        amend(path, max_epoch=1)
    points = read_sweep(folder)
    table = summarise(tabulate(points))
    assert len(plot_sweep_kept(points, table).axes[0].get_lines()) >= 2


def test_bad_input_is_one_line(folder, tmp_path):
    def refused(*options):
        with pytest.raises(UserError) as error:
            main([*options, "--output_dir", str(tmp_path / "report")])
        assert not (tmp_path / "report").exists()
        return str(error.value)

    assert "no finished experiment in" in refused(str(tmp_path))
    scores = tmp_path / "scores.csv"
    assert "is not a scores.csv" in refused(str(folder), "--scores", str(scores))
    scores.write_text("system,metric\na,b\n")
    assert "is not a scores.csv" in refused(str(folder), "--scores", str(scores))
    for line in (
        "a,cer,nan",
        "a,cer,inf",
        "a,cer,1e300",
        "a,$\\frac$,1",
        "a,threshold,1",
    ):
        scores.write_text(f"system,metric,value\n{line}\n")
        assert "is not a scores.csv" in refused(str(folder), "--scores", str(scores))
    scores.write_text("system,metric,value\nother,cer,0.1\n")
    message = refused(str(folder), "--scores", str(scores))
    assert "has none of the experiments (for instance none_s0)" in message
    write_point(folder, "R0.40_without_loss", (1.0, 1.0), 0.40, 1)
    message = refused(str(folder))
    assert f"{folder}/R0.40_s1_phase2 and {folder}/R0.40_without_loss_phase2" in message
    assert "are both R = 0.40, phase 1 of 2 epochs, of seed 1; give" in message


# ---- a real one ----


@pytest.mark.slow
@pytest.mark.skipif("ESPNET_ROOT" not in os.environ, reason="needs ESPNET_ROOT")
def test_a_sweep_of_mini_an4(tmp_path):
    recipe = ROOT / "egs2" / "mini_an4" / "tts1"
    folders = ("--dumpdir", f"{tmp_path}/dump", "--expdir", f"{tmp_path}/exp")
    prepared = subprocess.run(
        [str(recipe / "run.sh"), *folders, "--stop_stage", "6"],
        capture_output=True,
        text=True,
    )
    assert prepared.returncode == 0, prepared.stderr[-3000:]
    command = [str(SWEEP), *folders, "--sweep_dir", f"{tmp_path}/sweep"]
    command += ["--sparsity_ratios", "none 0.45", "--phase1_epochs", "1"]
    command += ["--train_args", "--max_epoch 2 --num_iters_per_epoch 2"]
    command += ["--vocoders", "griffin_lim"]
    for already in (0, 2):
        ended = subprocess.run(command, capture_output=True, text=True, cwd=recipe)
        assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
        assert ended.stdout.count("skipped, finished before") == already
    points = read_sweep(tmp_path / "sweep")
    assert [point.name for point in points] == ["none_s0", "R0.45_p1_s0"]
    assert points[1].setting == Setting("differentiable", 0.45, 1)
    report = {path.name for path in (tmp_path / "sweep" / "report").iterdir()}
    assert {"sweep.md", "sweep.csv", "points.csv", "metrics.png"} <= report
    assert {"thresholds.png", "kept.png"} <= report
    assert [name for name in report if name.startswith("attention_")]
