"""The verb report: from experiment folders to a table on screen, files and figures."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from browser import Browser
from documents import cells_of
from experiments import write_experiment
from matplotlib.image import imread, imsave
from tiny_experiment import voice

from espnet_prune import UserError
from espnet_prune.cli.report import main
from espnet_prune.evaluation import documents
from espnet_prune.evaluation.documents import Document
from espnet_prune.evaluation.report import choose

TABLES = ["thresholds.csv", "thresholds.json", "thresholds.md"]


@pytest.fixture
def folders(tmp_path):
    first = write_experiment(tmp_path / "exp_phase1", [(0.5, 1.0), (1.5, 2.5)])
    second = write_experiment(tmp_path / "exp_phase2", [(1.5, 2.5)] * 2, phase=2)
    return [str(first), str(second)]


def names_in(folder):
    return sorted(path.name for path in folder.glob("[!.]*"))  # without the lock


def test_report_of_two_phases(folders, tmp_path, capsys):
    output = tmp_path / "deep" / "report"
    main([*folders, "--output_dir", str(output)])
    pictures = ["kept.png", "losses.png", "soft_mean.png", "thresholds.png"]
    assert names_in(output) == sorted([*TABLES, *pictures, "report.html"])
    for name in pictures:
        assert imread(output / name).std() > 0.05  # something is drawn

    screen = capsys.readouterr().out
    row = ["1", "2", "2", "2.50", "0.250", "12.5 %", "37.5 %"]
    assert row in cells_of(screen)
    assert "phase 1, R = 0.45, T = 0.01, threshold_scale = 1" in screen
    written = [line.strip() for line in screen.split("Written:\n")[1].splitlines()]
    assert sorted(Path(line).name for line in written) == names_in(output)
    assert all(Path(line).is_file() for line in written)

    page = (output / "thresholds.md").read_text()
    assert row in cells_of(page) and "R = 0.45" in page
    assert cells_of(page)[0][3] == "threshold"
    content = json.loads((output / "thresholds.json").read_text())
    assert [e["phase"] for e in content["experiments"]] == [1, 2]
    assert [e["sparsity_ratio"] for e in content["experiments"]] == [0.45, 0.45]
    assert content["layers"][3]["threshold"] == pytest.approx(2.5)
    assert content["layers"][3]["mean_soft_mask"] is None
    with open(output / "thresholds.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["phase"], row["layer"]) for row in rows] == [
        ("1", "1"),
        ("1", "2"),
        ("2", "1"),
        ("2", "2"),
    ]
    assert float(rows[0]["kept_mass"]) == pytest.approx(0.75)


def test_a_new_report_replaces_the_old_one(folders, tmp_path):
    output = tmp_path / "report"
    main([*folders, "--output_dir", str(output)])
    main([folders[0], "--output_dir", str(output)])
    content = json.loads((output / "thresholds.json").read_text())
    assert [row["phase"] for row in content["layers"]] == [1, 1]
    assert {file.name for file in output.glob(".*")} <= {".lock"}


def test_report_of_vanilla_pruning_names_no_r(tmp_path, capsys):
    folder = write_experiment(tmp_path / "vp", [(1.0, 1.0)], pruning="vanilla")
    main([str(folder), "--output_dir", str(tmp_path / "report")])
    assert "threshold fixed at 1, no R" in capsys.readouterr().out
    pictures = ["kept.png", "losses.png", "thresholds.png"]
    assert names_in(tmp_path / "report") == sorted([*TABLES, *pictures, "report.html"])


def test_bad_input_leaves_nothing(folders, tmp_path):
    output = tmp_path / "report"
    (tmp_path / "exp_phase2" / "checkpoint.pth").unlink()
    with pytest.raises(UserError, match="no checkpoint.pth"):
        main([*folders, "--output_dir", str(output)])
    assert not output.exists()


@pytest.mark.parametrize(
    "options, fault",
    [
        (["--scores", "EMPTY"], "contains no tables"),
        (["--data_dir", "EMPTY"], "cannot read .*text"),
        (["--samples", "-1"], "--samples is -1; choose"),
    ],
)
def test_options_that_cannot_be_used(folders, tmp_path, options, fault):
    (tmp_path / "empty").mkdir()
    options = [option.replace("EMPTY", str(tmp_path / "empty")) for option in options]
    with pytest.raises(UserError, match=fault):
        main([*folders, "--output_dir", str(tmp_path / "report"), *options])
    assert not (tmp_path / "report").exists()


# ---- the page ----


def decode(folder, name, utterances, seconds=0.4):
    """Write speech as ESPnet's decoding does."""
    wavs = folder / name / "test" / "wav"
    wavs.mkdir(parents=True)
    for number, utterance in enumerate(utterances):
        wave = voice(seconds, pitch=100 + 20 * number)
        soundfile.write(wavs / f"{utterance}.wav", wave, 16000)


@pytest.fixture
def several(folders, tmp_path):
    """A baseline and a model of two phases, decoded, with scores and test data."""
    baseline = write_experiment(tmp_path / "base<line>", [(), ()], pruning="none")
    decode(baseline, "decode_hifigan", ["u1", "u2", "u3"])
    final = Path(folders[1])
    decode(final, "decode_griffin", ["u1", "u2", "u3", "u4"])
    decode(final, "decode_hifigan", ["u2", "u3"])
    (final / "report").mkdir()
    noise = np.random.default_rng(0).random((50, 4000, 3))
    imsave(final / "report" / "attention_u1.png", noise)
    data = tmp_path / "data"
    data.mkdir()
    soundfile.write(data / "reference.wav", voice(0.4, fs=44100), 44100)
    (data / "text").write_text("u2 Say <b>this</b> & that\nu3 Again\n")
    (data / "wav.scp").write_text(f"u2 {data}/reference.wav\nu3 {data}/x.ark:15\n")
    scores = tmp_path / "scores"
    scores.mkdir()
    blocks = [
        {"table": [["system", "cer (%)"], ["<i>base</i> | line", "4.56 [4.0, 5.0]"]]},
        {"items": ["cer: <script>alert(1)</script> of\ncharacters."]},
        {"text": "**In brackets**: intervals.\n<img src=x onerror=alert(1)>"},
    ]
    document = Document("Scores on <data>", blocks)
    documents.write(scores, documents.SCORES, document, [{"system": "base"}])
    return [str(baseline), *folders], data, scores


def test_page_of_several_models_in_a_browser(several, tmp_path, capsys):
    experiments, data, scores = several
    output = tmp_path / "out"
    options = ["--data_dir", str(data), "--scores", str(scores), "--samples", "3"]
    main([*experiments, "--output_dir", str(output), *options])
    assert names_in(output) == ["base<line>", "exp_phase2", "report.html"]
    assert names_in(output / "base<line>") == ["losses.png"]
    pictures = ["kept.png", "losses.png", "soft_mean.png", "thresholds.png"]
    assert names_in(output / "exp_phase2") == sorted(TABLES + pictures)
    shown = capsys.readouterr().out
    assert "base<line>: no pruning" in shown and str(output / "report.html") in shown

    sent = tmp_path / "elsewhere" / "report.html"  # to a colleague, alone
    sent.parent.mkdir()
    shutil.move(output / "report.html", sent)
    browser = Browser(tmp_path / "browser")
    try:
        browser.open(sent)
        images = "[...document.images]"
        browser.until(f"{images}.every((image) => image.complete)")
        widths = browser.evaluate(f"{images}.map((image) => image.naturalWidth)")
        # of both models together, of the baseline, of the other one, its attention
        assert len(widths) == 1 + 1 + 4 + 1
        assert all(width >= 300 for width in widths) and max(widths) == 1600
        assert browser.evaluate(f"{images}.every((image) => image.alt)")
        sounds = "[...document.querySelectorAll('audio')]"
        # u2 and u3 by three systems, u1 by two, and one reference
        browser.until(f"{sounds}.every((audio) => audio.readyState >= 1)")
        lengths = browser.evaluate(f"{sounds}.map((audio) => audio.duration)")
        assert lengths == pytest.approx([0.4] * (3 + 3 + 2 + 1), abs=0.06)
        labels = browser.evaluate(f"{sounds}.map((audio) => audio.ariaLabel)")
        assert labels[:2] == ["u2, reference", "u2, base<line>: decode_hifigan"]
        text = browser.text("main")
        assert browser.faults == []
    finally:
        browser.close()
    assert "Say <b>this</b> & that" in text
    assert "<i>base</i> | line\t4.56 [4.0, 5.0]" in text and "Scores on <data>" in text
    assert "cer: <script>alert(1)</script> of" in text
    assert "**In brackets**: intervals.\n<img src=x onerror=alert(1)>" in text
    lines = [line.split("\t") for line in text.splitlines()]
    assert next(line[:5] for line in lines if line[0] == "base<line>") == [
        "base<line>",
        "none",
        "-",
        "2",
        "6",
    ]
    # phase, layer, threshold, mean soft mask, kept share and mass
    assert ["1", "2", "2", "2.50", "0.250", "12.5 %", "37.5 %"] in lines
    settings = [line for line in lines if line[0].startswith("tts_conf")]
    assert settings == [
        ["tts_conf.pruning", "none", "differentiable", "differentiable"],
        ["tts_conf.pruning_conf", "{}", "{}", "-"],
        ["tts_conf.pruning_conf.phase", "-", "-", "2"],
    ]
    assert sent.stat().st_size < 1_000_000


def test_samples_are_of_all_speakers_and_of_different_sentences():
    names = [f"{speaker}-{text:02}" for speaker in "abcdefghij" for text in range(20)]
    chosen = choose(dict.fromkeys(names, 2), 10)
    assert [name[0] for name in chosen] == list("abcdefghij")
    assert len({name[1:] for name in chosen}) == 10
    assert choose(dict.fromkeys(names[:12], 1), 4) == names[:12:3]
    assert choose(dict.fromkeys(names, 1), 0) == []
    # what all systems have goes first; others fill up
    some = {**dict.fromkeys(names[:50], 1), "b-07": 2, "a-03": 2}
    assert choose(some, 2) == ["a-03", "b-07"]
    assert choose(some, 3) == ["a-03", "b-07", "a-00"]


def test_page_is_all_that_a_model_without_speech_needs(folders, tmp_path):
    output = tmp_path / "report"
    main([folders[0], "--output_dir", str(output)])
    text = (output / "report.html").read_text()
    assert "Speech" not in text and "Settings that differ" not in text
    assert text.count("<img") == 4
    assert not re.search(r"""(src|href)=["'](?!data:)""", text)


def test_models_in_folders_of_one_name(tmp_path):
    folders = [write_experiment(tmp_path / x / "exp", [()], "none") for x in "ab"]
    main([*map(str, folders), "--output_dir", str(tmp_path / "report")])
    assert names_in(tmp_path / "report") == ["a_exp", "b_exp", "report.html"]
