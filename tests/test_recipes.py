"""Scripts, configurations and the README agree with one another and with ESPnet."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from espnet_prune.config import PruningConf
from espnet_prune.training.task import PruneTTSTask, check_settings

ROOT = Path(__file__).parents[1]
PIPELINE = ROOT / "egs2" / "TEMPLATE" / "prune_tts1" / "prune_tts.sh"
RECIPES = sorted(
    path
    for path in (ROOT / "egs2").glob("*/*/run.sh")
    if "prune_tts.sh" in path.read_text()
)
ESPNET = Path(os.environ.get("ESPNET_ROOT", "no ESPNET_ROOT"))


@pytest.mark.parametrize(
    "script", sorted(ROOT.glob("egs2/**/*.sh")) + [ROOT / "tests" / "run.sh"], ids=str
)
def test_scripts_parse_and_can_be_run(script):
    if not script.resolve().is_relative_to(ROOT) or "tools" in script.parts:
        pytest.skip("ESPnet's")
    subprocess.run(["bash", "-n", str(script)], check=True)
    sourced = script.name in ("path.sh", "cmd.sh")
    assert sourced or os.access(script, os.X_OK)


@pytest.mark.parametrize("config", sorted(ROOT.glob("conf/train*.yaml")), ids=str)
def test_training_configurations_are_accepted(config):
    args = PruneTTSTask.get_parser().parse_args(["--config", str(config)])
    check_settings(args)


def test_decoding_configuration_is_accepted():
    from espnet2.bin.tts_inference import get_parser

    required = ["--output_dir", "x", "--data_path_and_name_and_type", "x,text,text"]
    known = vars(get_parser().parse_args(required))
    settings = yaml.safe_load((ROOT / "conf" / "decode.yaml").read_text())
    assert set(settings) <= set(known)


def options_of_tts_sh():
    script = ESPNET / "egs2" / "TEMPLATE" / "tts1" / "tts.sh"
    if not script.exists():
        pytest.skip("needs ESPnet's recipes: set ESPNET_ROOT")
    head = script.read_text().split("help_message=")[0]
    return set(re.findall(r"^(\w+)=", head, flags=re.MULTILINE))


def options_of_prune_tts_sh():
    head = PIPELINE.read_text().split("help_message=")[0]
    return set(re.findall(r"^(\w+)=", head, flags=re.MULTILINE))


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_recipes_use_options_that_exist(recipe):
    used = set(re.findall(r"^ +--(\w+)", recipe.read_text(), flags=re.MULTILINE))
    assert used  # not idle
    assert used <= options_of_tts_sh() | options_of_prune_tts_sh()


def test_pipeline_forwards_only_what_tts_sh_takes():
    ours = {"phase1_epochs", "vocoders", "nbpe", "train_overlays", "card_args"}
    assert options_of_prune_tts_sh() - ours <= options_of_tts_sh()


def test_help_names_every_stage():
    shown = subprocess.run(
        [str(PIPELINE), "--help"], capture_output=True, text=True, check=True
    ).stdout
    stages = re.findall(r"^ +(\d+) (?:\[\d+\])? *\w", shown, flags=re.MULTILINE)
    assert stages == [str(number) for number in range(1, 14)]


@pytest.mark.parametrize(
    "arguments, fault",
    [
        (["--stage"], "has no value"),
        (["phase2"], "unexpected argument"),
        (["--vocoder_file", "hifigan"], "--vocoders"),
    ],
)
def test_bad_command_lines_end_in_one_line(arguments, fault, tmp_path):
    ended = subprocess.run(
        [str(PIPELINE), *arguments], capture_output=True, text=True, cwd=tmp_path
    )
    assert ended.returncode == 2
    assert fault in ended.stderr and ended.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def prune_tts(*options):
    """Run prune_tts.sh in a recipe's folder without doing any stage."""
    recipe = ROOT / "egs2" / "mini_an4" / "tts1"
    if not (ROOT / "tools").exists() and not ESPNET.exists():
        pytest.skip("needs ESPnet's recipes: set ESPNET_ROOT")
    return subprocess.run(
        [str(PIPELINE), "--stage", "99", *map(str, options)],
        capture_output=True,
        text=True,
        cwd=recipe,
    )


def refused(ended, fault):
    return (
        ended.returncode == 2
        and fault in ended.stderr
        and ended.stderr.count("\n") == 1
    )


def test_several_machines_need_a_queue():
    ended = prune_tts("--num_nodes", "2")
    assert refused(ended, "set cmd_backend=slurm"), ended.stderr


@pytest.mark.parametrize(
    "settings, fault",
    [
        ('{pruning: "x; touch FILE; true"}', "tts_conf.pruning is"),
        ('{pruning: "none\\nepochs=$(touch FILE)"}', "tts_conf.pruning is"),
    ],
)
def test_a_configuration_runs_no_command(tmp_path, settings, fault):
    made, config = tmp_path / "made", tmp_path / "train.yaml"
    settings = settings.replace("FILE", str(made))
    config.write_text(f"tts: fastspeech2\ntts_conf: {settings}\n")
    ended = prune_tts("--train_config", config)
    assert refused(ended, fault), ended.stderr
    assert not made.exists()


def test_a_number_of_epochs_runs_no_command(tmp_path):
    made, config = tmp_path / "made", tmp_path / "train.yaml"
    config.write_text(f"tts: fastspeech2\nmax_epoch: [\"$(touch {made})'\"]\n")
    ended = prune_tts("--train_config", config)
    assert refused(ended, "max_epoch is"), ended.stderr
    assert not made.exists()


@pytest.mark.parametrize(
    "option, value",
    [
        ("--lang", "$(touch FILE)"),
        ("--audio_format", "`touch FILE`"),
        ("--train_args", "--seed 1; touch FILE"),
        ("--n_shift", 'a["$(touch FILE)"]'),
        ("--train_set", "train\ntouch FILE"),
        ("--lang$(touch FILE)", "en"),
        ("--config", "FILE"),
    ],
)
def test_an_option_runs_no_command(tmp_path, option, value):
    """ESPnet's tts.sh evaluates its options, so such values never reach it."""
    made = tmp_path / "made"
    ended = prune_tts(
        option.replace("FILE", str(made)), value.replace("FILE", str(made))
    )
    assert ended.returncode == 2 and ended.stderr.startswith("prune_tts.sh: error: ")
    assert not made.exists()


def commands_of_readme():
    """Yield the commands of the README's shell blocks as lists of words."""
    text = (ROOT / "README.md").read_text()
    for block in re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            yield shlex.split(line, comments=True)


def test_readme_names_files_and_modules_that_exist():
    seen = 0
    for words in commands_of_readme():
        for word in words:
            if re.fullmatch(r"(egs2|tests|conf)/[\w./]+", word):
                assert (ROOT / word).exists(), word
                seen += 1
            if word.startswith("espnet_prune.cli."):
                assert (ROOT / (word.replace(".", "/") + ".py")).exists(), word
                seen += 1
    assert seen >= 3


def test_readme_lists_every_setting_of_pruning():
    text = (ROOT / "README.md").read_text()
    for name in PruningConf.__dataclass_fields__:
        assert f"`{name}`" in text, name
