"""task.py and __main__.py: the plugin inside ESPnet's commands."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from espnet2.bin.tts_inference import Text2Speech
from espnet2.tasks.tts import TTSTask, tts_choices
from espnet2.tts.fastspeech2 import FastSpeech2
from helpers import tiny_stylespeech
from tiny_training import FRAMES, TOKENS

import espnet_prune
from espnet_prune import PruneTTSTask, StyleSpeech, UserError, register
from espnet_prune.__main__ import main as launch
from espnet_prune.training.task import check_settings

ROOT = Path(__file__).resolve().parents[1]
TINY = {
    "adim": 8,
    "aheads": 2,
    "elayers": 1,
    "eunits": 8,
    "dlayers": 1,
    "dunits": 8,
    "style_units": 8,
    "style_dim": 4,
    "predictor_units": 8,
}


def python(*arguments, **options):
    """Run Python with the package on its path, whether installed or not."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": path},
        **options,
    )


def config(**changes):
    """Settings of a tiny model with learned durations, as YAML has them."""
    settings = {
        "tts": "stylespeech",
        "tts_conf": dict(TINY, durations="learned"),
        "token_list": TOKENS,
        "token_type": "char",
        "feats_extract": "fbank",
        "feats_extract_conf": dict(
            **FRAMES, win_length=None, n_mels=6, fmin=0, fmax=4000
        ),
        "normalize": None,
        "pitch_extract": "dio",
        "pitch_extract_conf": dict(**FRAMES, use_token_averaged_f0=False),
        "pitch_normalize": None,
        "energy_extract": "energy",
        "energy_extract_conf": dict(**FRAMES, use_token_averaged_energy=False),
        "energy_normalize": None,
    }
    settings["tts_conf"].update(changes.pop("tts_conf", {}))
    settings.update(changes)
    return settings


def dry_run(folder, *options, **changes):
    """Let the task check its settings and write config.yaml, without training."""
    file = folder / "train.yaml"
    file.write_text(yaml.safe_dump(config(**changes)))
    output = folder / "exp"
    PruneTTSTask.main(
        cmd=[
            *("--config", str(file), "--output_dir", str(output)),
            *("--dry_run", "true"),
            *options,
        ]
    )
    return output


# ---- registration ----


def test_name_is_registered_and_again():
    assert tts_choices.get_class("stylespeech") is StyleSpeech
    before = dict(tts_choices.classes)
    register("stylespeech", StyleSpeech)
    assert tts_choices.classes == before


@pytest.mark.parametrize("name", ["fastspeech2", "jets"])
def test_espnets_own_names_are_not_overwritten(name):
    before = dict(tts_choices.classes)
    with pytest.raises(UserError, match=f"ESPnet defines tts: {name} itself"):
        register(name, StyleSpeech)
    assert tts_choices.classes == before


def test_registration_refuses_what_could_never_be_used():
    before = dict(tts_choices.classes)
    with pytest.raises(UserError, match="lower-case"):
        register("StyleSpeech", StyleSpeech)
    with pytest.raises(TypeError, match="AbsTTS"):
        register("linear", torch.nn.Linear)
    assert tts_choices.classes == before


def test_model_counts_as_fastspeech2_without_being_one():
    model = tiny_stylespeech()
    assert isinstance(model, FastSpeech2)  # so that ESPnet passes it alpha
    assert FastSpeech2 not in StyleSpeech.__mro__
    assert not issubclass(torch.nn.Linear, FastSpeech2)


def test_spawned_worker_knows_the_plugin():
    # ESPnet starts a process a GPU, which unpickles main_worker and nothing else.
    program = (
        "import pickle, sys\n"
        "worker = pickle.load(sys.stdin.buffer)\n"
        "from espnet2.tasks.tts import TTSTask, tts_choices\n"
        "print(worker.__self__.__name__, tts_choices.get_class('stylespeech').__name__)"
    )
    child = python("-c", program, input=pickle.dumps(PruneTTSTask.main_worker))
    assert child.returncode == 0, child.stderr.decode()
    assert child.stdout.decode().split() == ["PruneTTSTask", "StyleSpeech"]


def test_a_process_that_is_spawned_as_espnet_does_knows_the_plugin(tmp_path):
    """A real child, whose main module imports nothing but multiprocessing."""
    script = tmp_path / "train.py"
    script.write_text(
        "import multiprocessing\n"
        "if __name__ == '__main__':\n"
        "    from espnet_prune.training.task import PruneTTSTask\n"
        "    context = multiprocessing.get_context('spawn')\n"
        "    worker = PruneTTSTask.main_worker\n"
        "    child = context.Process(target=worker, args=(None,))\n"
        "    child.start(); child.join()\n"
        # what ESPnet's worker says to None: it was found and has begun
        "    print(child.exitcode)\n"
    )
    child = python(str(script))
    assert child.stdout.split() == [b"1"], child.stderr.decode()
    assert b"espnet2/tasks/abs_task.py" in child.stderr


# ---- launcher ----


def test_launcher_prints_a_config_that_reads_back(tmp_path):
    child = python(
        *("-m", "espnet_prune", "-m", "espnet2.bin.tts_train"),
        *("--tts", "stylespeech", "--tts_conf", "pruning=vanilla"),
        *("--tts_conf", "pruning_conf.sparsity_ratio=0.4", "--print_config"),
    )
    assert child.returncode == 0, child.stderr.decode()
    printed = yaml.safe_load(child.stdout)
    conf = printed["tts_conf"]
    assert printed["tts"] == "stylespeech"
    assert printed["phase1_dir"] is None
    assert (conf["pruning"], conf["adim"], conf["dlayers"]) == ("vanilla", 256, 4)
    assert conf["pruning_conf"]["sparsity_ratio"] == 0.4
    file = tmp_path / "train.yaml"
    file.write_bytes(child.stdout)
    again = PruneTTSTask.get_parser().parse_args(["--config", str(file)])
    assert again.tts_conf == conf
    tiny = {**again.tts_conf, **TINY}
    model = tts_choices.get_class(again.tts)(idim=5, odim=80, **tiny)
    assert model.decoder_attentions[0].pruning == "vanilla"


def test_launcher_runs_scripts_as_python_would(tmp_path):
    (tmp_path / "neighbour.py").write_text("value = 7\n")
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from neighbour import value\n"
        "from espnet2.tasks.tts import TTSTask, tts_choices\n"
        "if __name__ == '__main__':\n"
        "    print(value, TTSTask.__name__, 'stylespeech' in tts_choices.classes)\n"
        "    print(sys.argv[1:], sys.argv[0] == __file__)\n"
        "    sys.exit(3)\n"
    )
    child = python("-m", "espnet_prune", str(script), "--fs", "16000", "x y")
    assert child.returncode == 3, child.stderr.decode()
    assert child.stdout.decode().splitlines() == [
        "7 PruneTTSTask True",
        "['--fs', '16000', 'x y'] True",
    ]


def run_script(tmp_path, code):
    script = tmp_path / "script.py"
    script.write_text(code)
    child = python("-m", "espnet_prune", str(script))
    assert child.returncode == 0, child.stderr.decode()
    return child.stdout.decode().split()


def test_launcher_names_our_task_whichever_is_imported_first(tmp_path):
    code = (
        "from espnet_prune import PruneTTSTask\n"
        "from espnet2.tasks.tts import TTSTask\n"
        "print(TTSTask is PruneTTSTask)\n"
    )
    assert run_script(tmp_path, code) == ["True"]


def test_launcher_does_not_import_what_a_command_without_a_task_does_not(tmp_path):
    code = (
        "import sys, espnet2.bin.aggregate_stats_dirs, espnet2.bin.launch\n"
        "print('torch' in sys.modules)\n"
    )
    assert run_script(tmp_path, code) == ["False"]


def test_launcher_needs_something_to_run(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["espnet_prune", "-m"])
    with pytest.raises(UserError, match="nothing to run: give `-m espnet2.bin"):
        launch()


@pytest.mark.parametrize(
    "arguments, fault",
    [
        (["-m", "espnet2.bin.tts_trian"], "no module espnet2.bin.tts_trian"),
        (["-m", "no.such.package"], "no module no.such.package"),
        (["nowhere.py"], "no script nowhere.py"),
    ],
)
def test_launcher_names_what_is_not_there(arguments, fault, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["espnet_prune", *arguments])
    with pytest.raises(UserError, match=fault):
        launch()


def test_launcher_tells_how_it_is_used(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["espnet_prune", "--help"])
    launch()
    assert "python3 -m espnet_prune -m espnet2.bin.tts_train" in capsys.readouterr().out


def test_launcher_ends_bad_input_in_one_line_and_exit_code_2(tmp_path):
    child = python(
        *("-m", "espnet_prune", "-m", "espnet2.bin.tts_train"),
        *("--token_list", "a", "--output_dir", "exp"),
        *("--tts", "stylespeech", "--tts_conf", "pruning=magic"),
        cwd=tmp_path,
    )
    lines = child.stderr.decode().splitlines()
    assert child.returncode == 2
    assert lines[-1] == (
        "espnet_prune: error: tts_conf.pruning is 'magic': choose one of none, "
        "vanilla, differentiable"
    )
    assert not any("Traceback" in line for line in lines)
    assert sum("error" in line for line in lines) == 1
    assert list(tmp_path.iterdir()) == []  # nothing half-written


# ---- settings that are checked before anything is written ----


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"tts_conf": {"pruning": "magic"}}, "pruning is 'magic'"),
        ({"tts_conf": {"pruning_conf": {"phase": 3}}}, "phase is 3"),
        ({"tts_conf": {"adims": 3}}, "adims.*did you mean adim"),
        ({"pitch_extract": None}, "pitch_extract is not set.*pitch_extract: dio"),
        ({"energy_extract": None}, "energy_extract is not set"),
        (
            {"pitch_extract_conf": {"use_token_averaged_f0": True}},
            "use_token_averaged_f0 is True with learned durations: set it to [Ff]alse",
        ),
        (
            {"energy_extract_conf": {"use_token_averaged_energy": True}},
            "use_token_averaged_energy is True with learned durations",
        ),
        (
            {
                "pitch_normalize": "global_mvn",
                "train_data_path_and_name_and_type": [["text", "text", "text"]],
            },
            "pitch has no statistics: run stage 6",
        ),
        (
            {"tts_conf": {"durations": "given"}},
            "use_token_averaged_f0 is False with given durations",
        ),
        (
            {
                "tts_conf": {"durations": "given"},
                "train_data_path_and_name_and_type": [["text", "text", "text"]],
            },
            "stylespeech needs durations, but the data has none",
        ),
        ({"phase1_dir": "exp/phase1"}, "--phase1_dir is given but the phase is 1"),
        (
            {
                "tts_conf": {"pruning": "vanilla", "pruning_conf": {"phase": 2}},
                "phase1_dir": "exp/phase1",
            },
            "--phase1_dir is given but the phase is 1",
        ),
    ],
)
def test_bad_settings_end_before_anything_is_written(changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        dry_run(tmp_path, **changes)
    assert not (tmp_path / "exp").exists()


TWO_LINES = "tts: stylespeech\ntts_conf: {pruning: differentiable}\n"


def parse(folder, *options, text=TWO_LINES, data=("text", "speech")):
    """Parse a configuration, the data and options, as tts.sh gives them."""
    file = folder / "train.yaml"
    file.write_text(text)
    entries = [("--train_data_path_and_name_and_type", f"x,{name},y") for name in data]
    words = [word for entry in entries for word in entry]
    return PruneTTSTask.get_parser().parse_args(
        ["--config", str(file), *words, *options]
    )


STATISTICS = ("--pitch_normalize_conf", "stats_file=p.npz")
STATISTICS += ("--energy_normalize_conf", "stats_file=e.npz")


@pytest.mark.parametrize("given", [False, True])
def test_two_lines_are_a_whole_configuration(tmp_path, given):
    """Durations follow the data; pitch and energy follow durations."""
    data = ("text", "speech") + (("durations",) if given else ())
    args = parse(tmp_path, *STATISTICS, data=data)
    assert args.tts_conf["durations"] == ("given" if given else "learned")
    assert (args.pitch_extract, args.energy_extract) == ("dio", "energy")
    assert (args.pitch_normalize, args.energy_normalize) == ("global_mvn",) * 2
    assert args.pitch_extract_conf["use_token_averaged_f0"] is given
    assert args.energy_extract_conf["use_token_averaged_energy"] is given
    check_settings(args)
    # stage 6 collects the statistics that are not there yet
    args = parse(tmp_path, "--collect_stats", "true", data=data)
    assert args.pitch_extract == "dio" and args.pitch_normalize is None
    check_settings(args)


def test_what_the_user_says_is_kept(tmp_path):
    text = TWO_LINES.replace("}", ", durations: learned}")
    text += "pitch_normalize: null\nenergy_extract_conf: {fs: 8000}\n"
    args = parse(
        tmp_path,
        *("--pitch_extract_conf", "f0min=60", "--energy_normalize", "none"),
        text=text,
        data=("text", "speech", "durations"),
    )
    check_settings(args)
    assert args.tts_conf == {"pruning": "differentiable", "durations": "learned"}
    assert args.pitch_extract_conf == {"f0min": 60, "use_token_averaged_f0": False}
    assert args.energy_extract_conf == {"fs": 8000, "use_token_averaged_energy": False}
    assert args.pitch_normalize is args.energy_normalize is None


def test_pitch_that_the_user_leaves_out_is_refused(tmp_path):
    for args in (
        parse(tmp_path, "--pitch_extract", "none"),
        parse(tmp_path, text=TWO_LINES + "pitch_extract: null\n"),
    ):
        with pytest.raises(UserError, match="pitch_extract is not set"):
            check_settings(args)


def test_espnets_own_models_get_no_settings_of_ours(tmp_path):
    args = parse(tmp_path, text="tts: tacotron2\n")
    espnets = TTSTask.get_parser().parse_args(["--config", f"{tmp_path}/train.yaml"])
    for name in ("tts_conf", "pitch_extract", "pitch_extract_conf", "pitch_normalize"):
        assert getattr(args, name) == getattr(espnets, name)


def test_phase1_dir_is_for_our_models(tmp_path):
    with pytest.raises(UserError, match="--phase1_dir is for pruned models"):
        dry_run(tmp_path, tts="fastspeech2", tts_conf={}, phase1_dir="exp/phase1")


def test_espnets_own_models_train_as_ever(tmp_path):
    file = tmp_path / "train.yaml"
    settings = config(tts="fastspeech2")
    settings["tts_conf"] = {"adim": 8, "aheads": 2, "elayers": 1, "dlayers": 1}
    file.write_text(yaml.safe_dump(settings))
    output = tmp_path / "exp"
    PruneTTSTask.main(
        cmd=["--config", str(file), "--output_dir", str(output), "--dry_run", "true"]
    )
    written = yaml.safe_load((output / "config.yaml").read_text())
    assert "plugin_version" not in written["tts_conf"]


# ---- a trained model ----


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """Folder with config.yaml and the weights of an untrained, talkative model."""
    folder = tmp_path_factory.mktemp("experiment")
    output = dry_run(folder, tts_conf={"pruning": "vanilla"})
    torch.manual_seed(0)
    model, _ = PruneTTSTask.build_model_from_file(output / "config.yaml")
    duration = model.tts.predictors["duration"].output
    torch.nn.init.zeros_(duration.weight)
    torch.nn.init.constant_(duration.bias, 1.7918)  # log(5 + 1)
    torch.save(model.state_dict(), output / "model.pth")
    return output


def test_config_records_the_version_of_the_plugin(experiment):
    written = yaml.safe_load((experiment / "config.yaml").read_text())
    assert written["tts_conf"]["plugin_version"] == espnet_prune.__version__
    assert written["tts_conf"]["pruning"] == "vanilla"


def test_espnets_text2speech_speaks_with_speed_and_style(experiment):
    kwargs = {
        "train_config": experiment / "config.yaml",
        "model_file": experiment / "model.pth",
    }
    usual, slow = Text2Speech(**kwargs), Text2Speech(speed_control_alpha=2.0, **kwargs)
    assert usual.use_speech  # it asks for a reference
    reference = torch.randn(4000, generator=torch.manual_seed(1))
    out = usual("ABBA HEAD", speech=reference)
    assert out["duration"].tolist() == [5] * 10  # nine characters and <eos>
    assert out["feat_gen"].shape == (50, 6)
    assert len(out["wav"]) > 0 and torch.isfinite(out["wav"]).all()
    slower = slow("ABBA HEAD", speech=reference)
    assert slower["duration"].tolist() == [10] * 10
    faster = usual("ABBA HEAD", speech=reference, decode_conf={"alpha": 0.4})
    assert faster["duration"].tolist() == [2] * 10
    other = usual(
        "ABBA HEAD", speech=reference, decode_conf={"style_vector": torch.ones(4)}
    )
    assert not torch.allclose(other["feat_gen"], out["feat_gen"], atol=1e-4)


def test_espnets_batch_call_takes_a_reference_for_each_text(experiment):
    text2speech = Text2Speech(
        train_config=experiment / "config.yaml", model_file=experiment / "model.pth"
    )
    speech = torch.randn(2, 4000, generator=torch.manual_seed(1))
    speech[0] *= 100  # two voices that differ
    speech[1, 3000:] = 0
    batch = text2speech.batch_call(
        ["ABBA HEAD", "CAB"], speech=speech, speech_lengths=torch.tensor([4000, 3000])
    )
    singles = [
        text2speech("ABBA HEAD", speech=speech[0]),
        text2speech("CAB", speech=speech[1, :3000]),
    ]
    for b, single in enumerate(singles):
        assert batch["feat_gen"][b].shape == single["feat_gen"].shape
        assert len(batch["wav"][b]) == len(single["wav"])
    errors = [
        (batch["feat_gen"][b] - single["feat_gen"]).abs().max()
        for b, single in enumerate(singles)
    ]
    assert errors[0] < 1e-4
    # ESPnet's spectrogram mirrors the end of a recording, but not before padding
    assert errors[1] < 1e-3
    swapped = text2speech("CAB", speech=speech[0])["feat_gen"]
    assert (batch["feat_gen"][1] - swapped).abs().max() > 1e-3


def test_model_of_a_newer_plugin_is_refused(experiment, tmp_path):
    settings = yaml.safe_load((experiment / "config.yaml").read_text())
    settings["tts_conf"]["plugin_version"] = "999.0"
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(settings))
    with pytest.raises(UserError, match="trained with espnet_prune 999.0"):
        Text2Speech(train_config=file, model_file=experiment / "model.pth")
