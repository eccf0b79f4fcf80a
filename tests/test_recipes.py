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


def test_several_machines_need_a_queue():
    recipe = ROOT / "egs2" / "mini_an4" / "tts1"
    if not (ROOT / "tools").exists() and not ESPNET.exists():
        pytest.skip("needs ESPnet's recipes: set ESPNET_ROOT")
    ended = subprocess.run(
        [str(PIPELINE), "--num_nodes", "2"], capture_output=True, text=True, cwd=recipe
    )
    assert ended.returncode == 2
    assert "set cmd_backend=slurm" in ended.stderr and ended.stderr.count("\n") == 1


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


def test_docs_list_every_setting_of_pruning():
    text = (ROOT / "docs" / "settings.md").read_text()
    for name in PruningConf.__dataclass_fields__:
        assert f"`{name}`" in text, name
