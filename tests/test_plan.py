"""What prune_tts.sh learns about a training before it starts anything."""

from pathlib import Path

import pytest

from espnet_prune.cli.plan import main, plan
from espnet_prune.errors import UserError

CONF = Path(__file__).parents[1] / "conf"
DEBUG = CONF / "train_debug.yaml"  # 12 epochs, learned durations


def test_paper_gives_phase1_40_of_300_epochs():
    """The schedule of Sec. 3.2: steps 1 to 40,000, then up to 300,000."""
    found = plan(CONF / "train.yaml", teacher_dumpdir="alignments")
    assert found == {
        "pruning": "differentiable",
        "phase1_epochs": 40,
        "phase2_epochs": 260,
    }


def test_user_chooses_the_switch():
    assert plan(DEBUG, phase1_epochs=5)["phase2_epochs"] == 7
    assert plan(DEBUG, "--max_epoch 30", 8)["phase2_epochs"] == 22


@pytest.mark.parametrize("phase1_epochs", [None, 5])
def test_one_phase_whatever_the_recipe_says_of_two(phase1_epochs):
    """One line of YAML changes the system; the recipe's switch is then without effect.

    "w/o SM_hard" keeps its soft masks to the end.
    """
    for pruning in ("none", "vanilla"):
        found = plan(DEBUG, f"--tts_conf pruning={pruning}", phase1_epochs)
        assert found == {"pruning": pruning, "epochs": 12}
    soft = "--tts_conf pruning_conf.inference_mask=soft"
    found = plan(DEBUG, soft, phase1_epochs)
    assert (found["phase1_epochs"], found["phase2_epochs"]) == (12, 0)


@pytest.mark.parametrize("epochs", [0, 12, 13])
def test_no_epoch_for_a_phase_is_refused(epochs):
    with pytest.raises(UserError, match="between 1 and max_epoch"):
        plan(DEBUG, phase1_epochs=epochs)
    with pytest.raises(UserError, match="between 1 and max_epoch"):
        plan(DEBUG, "--max_epoch 1")


@pytest.mark.parametrize(
    "train_args, fault",
    [
        ("--tts_conf pruning=dense", "none, vanilla, differentiable"),
        ("--tts_conf pruning_conf.sparcity_ratio=0.4", "did you mean sparsity_ratio"),
        ("--tts_conf durations=given", "--teacher_dumpdir"),
        ("--pitch_extract none", "pitch_extract: dio"),
        ("--pitch_extract_conf use_token_averaged_f0=true", "set it to False"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(train_args, fault):
    with pytest.raises(UserError, match=fault):
        plan(DEBUG, train_args)


@pytest.mark.parametrize(
    "text, train_args, fault",
    [
        ("tts: stylespeech\n\ttts_conf: {}\n", "", "train.yaml is not a YAML file"),
        ("tts: stylespeech\ntts_conf: [pruning]\n", "", "tts_conf is .'pruning'.: w"),
        ("tts: stylespeech\n", "--tts_conf 'pruning=none", "close the quote"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, text, train_args, fault):
    config = tmp_path / "train.yaml"
    config.write_text(text)
    with pytest.raises(UserError, match=fault):
        plan(config, train_args)


MEL = "--feats_extract fbank --feats_extract_conf fmin=0 --feats_extract_conf fmax=8000"


@pytest.mark.parametrize(
    "train_args, vocoders, fault",
    [
        (
            f"{MEL} --feats_extract_conf fs=16000",
            "griffin_lim hifigan",
            "fs found 16000 want",
        ),
        (f"{MEL} --feats_extract_conf fs=22050", "griffin_lim hifigan", None),
        (f"{MEL} --feats_extract_conf fs=16000", "griffin_lim", None),
        (MEL, "melgan", "is not known, and there is no"),
        (MEL, "nowhere/checkpoint.pkl", "checkpoint.pkl is missing"),
    ],
)
def test_a_vocoder_that_decoding_would_refuse(train_args, vocoders, fault):
    """Said before the training, not by stage 9 days later."""
    if fault is None:
        assert plan(DEBUG, train_args, vocoders=vocoders)["phase2_epochs"]
        return
    with pytest.raises(UserError, match=fault):
        plan(DEBUG, train_args, vocoders=vocoders)


@pytest.mark.parametrize(
    "settings, fault",
    [
        ('{tts: fastspeech2, tts_conf: {pruning: "x; touch F"}}', "choose one of none"),
        ('{tts: fastspeech2, max_epoch: ["$(touch F)\'"]}', "give a whole number"),
        ("{tts: stylespeech, max_epoch: 1.5}", "give a whole number"),
        ("{tts: stylespeech, max_epoch: 0}", "give a whole number"),
        ("{tts: fastspeech2, max_epoch: true}", "give a whole number"),
    ],
)
def test_a_plan_is_numbers_and_a_known_name_whatever_the_model(
    tmp_path, settings, fault
):
    config = tmp_path / "train.yaml"
    config.write_text(settings)
    with pytest.raises(UserError, match=fault):
        plan(config, teacher_dumpdir="dump")


def test_prints_lines_that_a_script_reads(capsys):
    main(["--train_config", str(DEBUG), "--phase1_epochs", "5"])
    assert capsys.readouterr().out.splitlines() == [
        "pruning=differentiable",
        "phase1_epochs=5",
        "phase2_epochs=7",
    ]
