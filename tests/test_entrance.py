"""The command ``espnet-prune`` and what an import of the package costs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from experiments import write_experiment

from espnet_prune.cli import VERBS

TRAIN = Path(__file__).parents[1] / "conf" / "train.yaml"


def python(*arguments, **kwargs):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, **kwargs
    )


def modules_of(code):
    """Return the modules that are loaded after some code has run."""
    code += "\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    child = python("-c", code)
    assert child.returncode == 0, child.stderr
    return set(json.loads(child.stdout.splitlines()[-1]))


def test_import_loads_neither_espnet_nor_torch():
    assert not {"espnet2", "torch", "numpy"} & modules_of("import espnet_prune")


@pytest.mark.parametrize(
    "code",
    [
        "import espnet_prune, espnet2.tasks.tts as t",
        "import espnet2.tasks.tts as t, espnet_prune",
        "import espnet_prune.model, espnet2.tasks.tts as t",
        "import espnet_prune.training.task, espnet2.tasks.tts as t",
        "import espnet2.tts.fastspeech2, espnet_prune, espnet2.tasks.tts as t",
    ],
)
def test_models_are_registered_in_whatever_order(code):
    child = python(
        "-c", code + "\nprint(t.tts_choices.get_class('stylespeech').__name__)"
    )
    assert child.stdout.strip() == "StyleSpeech", child.stderr


def test_public_names_load_on_first_use():
    import espnet_prune

    for name in espnet_prune.__all__:
        assert getattr(espnet_prune, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Text3Speech'"):
        espnet_prune.Text3Speech  # noqa: B018


def test_python_starts_in_the_folder_above_the_checkout(tmp_path):
    (tmp_path / "espnet_prune").mkdir()  # a checkout has the name of the package
    code = "import espnet_prune; print(espnet_prune.__version__)"
    for arguments in (["-c", code], ["-m", "espnet_prune", "--help"]):
        child = python(*arguments, cwd=tmp_path)
        assert child.returncode == 0, child.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_help_text(verb):
    child = python("-m", "espnet_prune", verb, "--help")
    assert child.returncode == 0, child.stderr
    assert child.stdout.startswith(f"usage: espnet-prune {verb}")


@pytest.mark.parametrize("verb", VERBS)
def test_help_does_not_wait_for_espnet(verb):
    code = (
        "import sys\n"
        "from espnet_prune.__main__ import main\n"
        f"sys.argv = ['espnet-prune', {verb!r}, '--help']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
    )
    assert not {"espnet2", "torch", "scipy", "matplotlib"} & modules_of(code)


def test_report_sweep_and_card_work_without_espnet(tmp_path):
    folder = write_experiment(tmp_path / "sweep" / "vanilla_s0", [(1.0,)], "vanilla")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "max_epoch": 1}))
    output = ["--output_dir", str(tmp_path / "out")]
    for arguments, allowed in (
        (["card", str(folder)], set()),
        (["report", str(folder), *output], {"torch"}),  # reads checkpoint.pth
        (["sweep", str(tmp_path / "sweep"), *output], {"torch"}),
    ):
        code = (
            "import sys\n"
            "from espnet_prune.__main__ import main\n"
            f"sys.argv = ['espnet-prune', *{arguments!r}]\n"
            "main()\n"
        )
        loaded = modules_of(code)
        assert "espnet_prune.evaluation" in loaded
        assert not ({"espnet2", "torch"} - allowed) & loaded


def test_a_plan_is_made_without_espnets_task():
    code = (
        "from espnet_prune.cli.plan import plan\n"
        f"plan({str(TRAIN)!r}, '--max_epoch 30', teacher_dumpdir='labels')\n"
    )
    assert not {"espnet2.tasks", "torch"} & modules_of(code)


def test_a_misspelt_verb_is_refused_with_a_hint():
    child = python("-m", "espnet_prune", "scroe")
    assert child.returncode == 2
    assert child.stderr == (
        "espnet_prune: error: there is no verb scroe; did you mean score?; see "
        "espnet-prune --help\n"
    )


@pytest.mark.parametrize(
    "arguments, fault",
    [
        (["say", "hello", "--speeed", "2"], "unrecognized arguments: --speeed 2"),
        (["score"], "required: --data_dir, --output_dir"),
        (["say", "--batch_size", "many"], "invalid int value: 'many'"),
        (["listen", "bogus"], "invalid choice: 'bogus'"),
        (["listen", "make"], "listen make --help"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, fault):
    child = python("-m", "espnet_prune", *arguments)
    assert (child.returncode, child.stdout) == (2, "")
    (line,) = child.stderr.splitlines()
    assert line.startswith("espnet_prune: error: ") and fault in line
    assert f"see espnet-prune {arguments[0]}" in line and line.endswith("--help")
