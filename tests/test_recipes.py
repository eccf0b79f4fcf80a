"""Scripts, configurations and the README agree with one another and with ESPnet."""

import inspect
import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from espnet_prune.config import PruningConf
from espnet_prune.errors import UserError
from espnet_prune.files import lock_folder
from espnet_prune.model import StyleSpeech
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
    sourced = script.name in ("path.sh", "cmd.sh", "options.sh")
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


def options_of(script):
    """Return the options of a script with their default values."""
    lines = re.findall(
        r"^(\w+)=(\"[^\"]*\"|[^ #\n]*)(?: *#.*)?$",
        script.read_text().split("\nparse_options")[0].split("help_message=")[0],
        flags=re.MULTILINE,
    )
    return {name: value.strip('"') for name, value in lines}


def options_of_tts_sh():
    script = ESPNET / "egs2" / "TEMPLATE" / "tts1" / "tts.sh"
    if not script.exists():
        pytest.skip("needs ESPnet's recipes: set ESPNET_ROOT")
    return options_of(script)


# What is ours, and what differs from tts.sh for a reason that the help gives.
OURS = {"phase", "phase1_epochs", "vocoders", "nbpe", "train_overlays", "card_args"}
OTHERWISE = {"python": "python3 -m espnet_prune", "skip_scoring": "true"}


def test_options_that_tts_sh_has_too_have_its_defaults():
    theirs = options_of_tts_sh()
    found = options_of(PIPELINE)
    for name in OURS | {"takes", "shares"}:
        del found[name]
    assert len(found) > 40
    assert found == {name: theirs[name] for name in found} | OTHERWISE


@pytest.mark.parametrize("script", [PIPELINE, PIPELINE.with_name("sweep.sh")], ids=str)
def test_help_says_the_defaults(script):
    shown = subprocess.run(
        [str(script), "--help"], capture_output=True, text=True, check=True
    ).stdout
    said = re.findall(
        r"^  --(\w+)(?:(?!^  --).)*?\(default: ([\w/. ]+?)[,;)]",
        shown,
        flags=re.MULTILINE | re.DOTALL,
    )
    found = options_of(script)
    assert len(said) > 4
    for name, value in said:
        if name in found and not value.startswith(("the ", "40")):
            assert found[name] == value, name


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_recipes_use_options_that_exist(recipe):
    used = set(re.findall(r"^ +--(\w+)", recipe.read_text(), flags=re.MULTILINE))
    assert used  # not idle
    assert used <= options_of_tts_sh().keys() | options_of(PIPELINE).keys()


def test_help_names_every_stage():
    shown = subprocess.run(
        [str(PIPELINE), "--help"], capture_output=True, text=True, check=True
    ).stdout
    stages = re.findall(r"^ +(\d+)  \w", shown, flags=re.MULTILINE)
    assert stages == [str(number) for number in range(1, 12)]


@pytest.mark.parametrize(
    "arguments, fault",
    [
        (["--stage"], "has no value"),
        (["phase2"], "unexpected argument"),
        (["--vocoder_file", "hifigan"], "--vocoders"),
        (["--phase", "3"], "choose one of 1 2 both"),
        (["--stage", "two"], "give a whole number"),
        (["--stage", "9" * 20], "give a whole number below 10^9"),
        (["--stage", "9", "--stop_stage", "3"], "so no stage would run"),
        (["--phase1_epochs", "x"], "give a whole number"),
        # the value would be run as a command
        (["--skip_train", "yes"], "choose one of true false"),
        (["--gpu_inference", "touch made"], "choose one of true false"),
        (["--expdir", "my exp"], "no space, *, ? or [ in a name"),
        (["--n_fft", "1k"], "give a whole number"),
        (["--train_config", "[a].yaml"], "no space, *, ? or [ in a name"),
        ([], "call prune_tts.sh in the folder of a recipe"),
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


def test_a_misspelt_option_is_refused_whatever_stage_runs():
    ended = prune_tts("--train_confg", "conf/train.yaml")
    assert refused(ended, "unknown option --train_confg"), ended.stderr


@pytest.mark.parametrize(
    "settings, fault",
    [
        ('tts_conf: {pruning: "x; touch FILE; true"}', "tts_conf.pruning is"),
        ('tts_conf: {pruning: "none\\nepochs=$(touch FILE)"}', "tts_conf.pruning is"),
        ('max_epoch: ["$(touch FILE)\'"]', "max_epoch is"),
    ],
)
def test_a_configuration_runs_no_command(tmp_path, settings, fault):
    made, config = tmp_path / "made", tmp_path / "train.yaml"
    settings = settings.replace("FILE", str(made))
    config.write_text(f"tts: fastspeech2\n{settings}\n")
    ended = prune_tts("--train_config", config)
    assert refused(ended, fault), ended.stderr
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


PARSE = """#!/usr/bin/env bash
# A script of options.
#
# Usage: script.sh

set -eu
called_from=${{PWD}}
cd {folder}
. {shared}
number=1
switch=false
data=
found=
takes=number
shares=data
flags=switch
caller_paths=data
found_paths=found
takes="number found"
option_twice() {{ twice+=("$1"); }}
twice=()
parse_options "$@"
printf '%s|' "${{number}}" "${{switch}}" "${{data}}" "${{found}}" \
    ${{twice[@]+"${{twice[@]}}"}} -- ${{passed[@]+"${{passed[@]}}"}}
"""


@pytest.fixture
def script(tmp_path):
    """A script that prints its options, and the folder that it is called from."""
    (tmp_path / "recipe").mkdir()
    file = tmp_path / "script.sh"
    shared = PIPELINE.with_name("options.sh")
    file.write_text(PARSE.format(folder=tmp_path / "recipe", shared=shared))
    file.chmod(0o755)
    caller = tmp_path / "some where"
    caller.mkdir()
    (caller / "there").touch()

    def run(*options):
        return subprocess.run(
            ["../script.sh", *options], capture_output=True, text=True, cwd=caller
        )

    return caller, run


def test_options_are_taken_handed_on_or_left(script):
    caller, run = script
    ended = run(
        *("--number", "$(touch made)", "--switch", "--data", "my data"),
        *("--found", "there", "--twice", "a b", "--twice", "c", "--un-known", "; x"),
    )
    assert ended.stdout.split("|")[:-1] == [
        *("$(touch made)", "true", f"{caller}/my data", f"{caller}/there", "a b", "c"),
        *("--", "--data", f"{caller}/my data", "--un_known", "; x"),
    ]
    assert run("--found", "not there").stdout == "1|false||not there|--|"
    assert run("--switch", "false", "--number", "2").stdout == "2|false|||--|"
    assert run("--number", "3", "--help").stdout == (
        "A script of options.\n\nUsage: script.sh\n"
    )


@pytest.mark.parametrize(
    "option, fault",
    [
        ("--number", "option --number has no value"),
        ("number", "unexpected argument number"),
        ("--a[$(touch made)]", "there is no option --a["),
        ("--", "there is no option --"),
    ],
)
def test_options_that_cannot_be_read(script, option, fault):
    caller, run = script
    ended = run(option)
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    assert ended.stderr.startswith(f"script.sh: error: {fault}")
    assert [path.name for path in caller.iterdir()] == ["there"]


GUARD = """#!/usr/bin/env bash
set -eu
. {shared}
parse_options "$@"
end_with_children "$@"
bash -c 'sleep 61 & echo $! >> pids; sleep 62 & echo $! >> pids; wait'
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_script_that_is_ended_ends_what_it_has_started(tmp_path, how):
    """Otherwise a training would go on, unseen, when its recipe is stopped."""
    file = tmp_path / "script.sh"
    file.write_text(GUARD.format(shared=PIPELINE.with_name("options.sh")))
    started = subprocess.Popen(
        ["bash", "script.sh"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        # the tests may run where these are ignored, and bash cannot trap them then
        preexec_fn=lambda: signal.signal(how, signal.SIG_DFL),  # noqa: PLW1509
    )
    pids = tmp_path / "pids"
    while not pids.exists() or pids.read_text().count("\n") < 2:
        assert started.poll() is None
        time.sleep(0.05)
    started.send_signal(how)
    _, shown = started.communicate(timeout=60)
    assert started.returncode == 128 + how
    assert (
        shown == "script.sh: stopped; call it again with the same options to continue\n"
    )
    for pid in pids.read_text().split():
        status = Path(f"/proc/{pid}/status")
        for _ in range(200):  # on a busy machine a signal takes its time
            if not status.exists() or "zombie" in status.read_text():
                break
            time.sleep(0.05)
        else:
            pytest.fail(f"{pid} has not ended")


@pytest.mark.parametrize("status", [0, 3])
def test_a_script_ends_as_its_last_command_does(tmp_path, status):
    file = tmp_path / "script.sh"
    shared = PIPELINE.with_name("options.sh")
    file.write_text(
        GUARD.format(shared=shared).replace("bash -c", f"cat; exit {status} #")
    )
    ended = subprocess.run(
        ["bash", str(file)], capture_output=True, text=True, input="in"
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (status, "in", "")


LOCK = """#!/usr/bin/env bash
set -eu
. {shared}
lock_folder dump "data stages"
echo locked
read -r _
unlock_folder
echo free
read -r _
"""


def test_a_folder_is_locked_against_scripts_and_python(tmp_path):
    """Two recipes that write the same dump/ would mix their data."""
    file = tmp_path / "script.sh"
    file.write_text(LOCK.format(shared=PIPELINE.with_name("options.sh")))

    def start():
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen(["bash", "script.sh"], cwd=tmp_path, text=True, **pipes)

    first = start()
    assert first.stdout.readline() == "locked\n"
    _, refused = start().communicate(timeout=60)
    owner = f"dump is in use by data stages (process {first.pid} on "
    assert f"script.sh: error: {owner}" in refused
    assert "wait for it to end, end it, or choose another folder" in refused
    with pytest.raises(UserError, match=re.escape(owner)):
        with lock_folder(tmp_path / "dump", "data stages"):
            pass
    first.stdin.write("\n")
    first.stdin.flush()
    assert first.stdout.readline() == "free\n"
    with lock_folder(tmp_path / "dump", "data stages"):
        first.communicate("\n", timeout=60)


def commands_of_readme():
    """Yield the commands of the README's shell blocks as lists of words."""
    text = (ROOT / "README.md").read_text()
    for block in re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            yield shlex.split(line, comments=True)


def test_readme_names_files_that_exist():
    seen = 0
    for words in commands_of_readme():
        for word in words:
            if re.fullmatch(r"(egs2|tests|conf)/[\w./]+", word):
                assert (ROOT / word).exists(), word
                seen += 1
    assert seen >= 3


def test_docs_list_every_setting_of_model_and_pruning():
    text = (ROOT / "docs" / "settings.md").read_text()
    model = set(inspect.signature(StyleSpeech).parameters)
    model -= {"idim", "odim", "plugin_version", "unknown"}  # nobody sets these
    for name in (*PruningConf.__dataclass_fields__, *model):
        assert f"`{name}`" in text, name
