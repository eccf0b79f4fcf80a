"""The verb score: from recordings to tables, and again after changes."""

import csv
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import markdown
import numpy as np
import pytest
import soundfile

from espnet_prune.cli import score, vocode
from espnet_prune.cli.score import main
from espnet_prune.errors import UserError
from espnet_prune.evaluation import documents, score_page, scoring
from espnet_prune.evaluation.backends import Backend
from espnet_prune.evaluation.metrics import DEFAULT, MEASURED, METRICS, Metric
from espnet_prune.evaluation.records import digest, stamp_said

ROOT = Path(__file__).resolve().parents[1]
SPEAKERS = ("ann", "bob", "cyd")
TEXTS = ("one", "two")
OUT_OF_A = "out/a.jsonl"
OUTPUTS = ("a.jsonl", "b.jsonl", "scores.md", "scores.csv", "scores.json")
NAMES = [f"{speaker}_{text}" for speaker in SPEAKERS for text in TEXTS]


class Loudness(Metric):
    """Takes the first sample for the quality of an utterance, and counts its work."""

    measures = "the first sample"

    def __init__(self, name, uses=("wav",), percent=False, broken=False):
        super().__init__(name, Backend())
        self.uses, self.percent, self.broken = uses, percent, broken
        self.seen = []
        self.interrupt_at = None

    def version(self):
        return "fake 1"

    def load(self):
        if self.broken:
            raise OSError("no weights\nand more")

    def score(self, wave, utterance):
        if len(self.seen) == self.interrupt_at:
            raise KeyboardInterrupt
        self.seen.append(utterance.name)
        value = round(float(wave[0]), 3)
        # splitlines would split a line there
        return {"value": None if value == 0 else value, "heard": "so\u2028it goes"}


@pytest.fixture
def metrics(monkeypatch):
    """Make three fake metrics the only ones; the last one cannot be loaded."""
    fakes = {
        "mos_fake": Loudness("mos_fake"),
        "cer_fake": Loudness("cer_fake", ("wav", "text"), percent=True),
        "broken_fake": Loudness("broken_fake", broken=True),
    }
    monkeypatch.setattr(scoring, "METRICS", fakes)
    monkeypatch.setattr(score_page, "METRICS", fakes)
    monkeypatch.setattr(score, "METRICS", fakes)
    return fakes


def write_wave(path, value):
    path.parent.mkdir(exist_ok=True)
    soundfile.write(path, np.full(1600, value), 16000, "FLOAT")


def write_system(folder, offset):
    for number, name in enumerate(NAMES):
        write_wave(folder / f"{name}.wav", 0.1 + 0.1 * number + offset)
    return folder


@pytest.fixture
def data(tmp_path):
    """Make a test set of three speakers and two texts, and two systems."""
    folder = tmp_path / "data"
    folder.mkdir()
    for number, speaker in enumerate(SPEAKERS):
        write_wave(tmp_path / "references" / f"{speaker}.wav", 0.2 + number / 10)
    rows = [(name, *name.split("_")) for name in NAMES]
    (folder / "text").write_text("".join(f"{n} say {t}\n" for n, _, t in rows))
    (folder / "utt2spk").write_text("".join(f"{n} {s}\n" for n, s, _ in rows))
    (folder / "wav.scp").write_text(
        "".join(f"{n} {tmp_path}/references/{s}.wav\n" for n, s, _ in rows)
    )
    write_system(tmp_path / "a", 0.0)
    write_system(tmp_path / "b", 0.05)
    return folder


def command(data, *systems, metrics=("mos_fake", "cer_fake"), more=()):
    tmp_path = data.parent
    arguments = ["--data_dir", str(data), "--output_dir", str(tmp_path / "out")]
    for name in systems:
        arguments += ["--system", f"{name}={tmp_path / name}"]
    return [*arguments, "--nj", "1", "--metrics", *metrics, *more]


def system_of(line):
    """Return the first cell of a line of a Markdown table, "" of other lines."""
    return line.split("|")[1].strip() if line.startswith("|") else ""


def lines_of(path):
    return [json.loads(line) for line in path.read_text().rstrip().split("\n")]


def test_tables_of_two_systems(data, metrics, capsys):
    main(command(data, "a", "b"))
    output = data.parent / "out"
    screen = capsys.readouterr().out
    page = (output / "scores.md").read_text()
    assert page in screen
    # 0.1 ... 0.6 of three speakers; each utterance of b is better by 0.05
    (a,) = [line for line in page.splitlines() if system_of(line) == "a"]
    assert "| 0.35 [" in a and "| 35.00 [" in a
    b, difference = [x for x in page.splitlines() if system_of(x) == "b"]
    assert "| 0.40 [" in b
    assert "| +0.05 [+0.05, +0.05] p=0.25 |" in difference
    assert "| +5.00 [+5.00, +5.00] p=0.25 |" in difference
    assert "cer_fake (%)" in page and "the first sample; fake 1." in page

    with open(output / "scores.csv", newline="") as file:
        rows = {(row["system"], row["metric"]): row for row in csv.DictReader(file)}
    assert len(rows) == 4
    row = rows["b", "mos_fake"]
    assert (row["utterances"], row["speakers"]) == ("6", "3")
    assert float(row["value"]) == pytest.approx(0.4)
    assert float(row["lower"]) < 0.4 < float(row["upper"])
    assert float(row["difference"]) == pytest.approx(0.05)
    assert rows["a", "mos_fake"]["difference"] == ""

    lines = lines_of(output / "a.jsonl")
    assert [line["utterance"] for line in lines] == sorted(NAMES)
    assert lines[0]["speaker"] == "ann"
    assert lines[0]["scores"]["mos_fake"]["value"] == pytest.approx(0.1)


def test_names_and_notes_stay_text(data, metrics, capsys):
    (data / "about.txt").write_text("<script>x</script>\n# Other results\n| a | 9 |\n")
    subset = data.parent / "two.txt"
    subset.write_text("ann\ncyd\n")
    more = ["--system", f"a*b<i>={data.parent / 'a'}"]
    more += ["--subset", f"one | two\n# three={subset}"]
    main(command(data, metrics=["mos_fake"], more=more))
    capsys.readouterr()
    text = (data.parent / "out" / "scores.md").read_text()
    html = markdown.markdown(text, extensions=["tables"])
    assert re.findall(r"<(\w+)", html).count("h1") == 1
    assert "<script" not in html and "<i>" not in html and html.count("<table") == 2
    titles = re.findall("<h2>(.*?)</h2>", html)
    assert titles[1] == "one | two # three: 4 utterances, 2 speakers"
    assert html.count("a*b&lt;i") == 2
    assert "<p>&lt;script&gt;x&lt;/script&gt;\n# Other results\n| a | 9 |</p>" in html
    (document,) = documents.read([data.parent / "out"])
    assert document.title == "Scores on data"
    assert documents.to_markdown(document) == text


def test_nothing_is_scored_twice(data, metrics):
    mos, cer = metrics["mos_fake"], metrics["cer_fake"]
    main(command(data, "a", metrics=["mos_fake"]))
    assert mos.seen == NAMES
    main(command(data, "a", "b", metrics=["mos_fake"]))  # a system more
    assert mos.seen == 2 * NAMES
    main(command(data, "a", "b"))  # a metric more
    assert mos.seen == 2 * NAMES and cer.seen == 2 * NAMES
    before = {name: (data.parent / "out" / name).read_bytes() for name in OUTPUTS}
    main(command(data, "a", "b"))
    assert len(mos.seen) == len(cer.seen) == 12
    after = {name: (data.parent / "out" / name).read_bytes() for name in OUTPUTS}
    assert after == before


def test_what_has_changed_is_scored_again(data, metrics):
    mos, cer = metrics["mos_fake"], metrics["cer_fake"]
    main(command(data, "a"))
    mos.seen, cer.seen = [], []
    scoring._digest.cache_clear()  # which lives as long as a command
    write_wave(data.parent / "a" / "bob_one.wav", 0.9)
    text = (data / "text").read_text().replace("cyd_two say two", "cyd_two say 2")
    (data / "text").write_text(text)
    main(command(data, "a"))
    assert mos.seen == ["bob_one"]
    assert cer.seen == ["bob_one", "cyd_two"]
    scores = {r["utterance"]: r["scores"] for r in lines_of(data.parent / OUT_OF_A)}
    assert scores["bob_one"]["mos_fake"]["value"] == pytest.approx(0.9)
    mos.version = lambda: "fake 2"
    main(command(data, "a"))
    assert mos.seen[1:] == NAMES and len(cer.seen) == 2


@pytest.mark.parametrize("changed", ["text", "reference"])
def test_speech_of_other_data_is_refused(data, metrics, changed):
    """The texts of a folder were made again, its speech was not."""
    references = data.parent / "references"
    lines = []
    for name in NAMES:
        speaker, text = name.split("_")
        said = stamp_said(f"say {text}", references / f"{speaker}.wav")
        lines.append(json.dumps({"utterance": name, "said": said}))
    (data.parent / "a" / "synthesis.jsonl").write_text("\n".join(lines))
    main(command(data, "a"))
    if changed == "text":
        content = (data / "text").read_text()
        (data / "text").write_text(content.replace("ann_two say two", "ann_two no"))
    else:
        write_wave(references / "ann.wav", 0.9)
    with pytest.raises(UserError, match="a said . of 6 .* another text or reference"):
        main(command(data, "a"))


def test_speech_of_another_recording_is_refused(data, metrics):
    """A recording was replaced after it had gone through a vocoder."""
    target = data.parent / "target.wav"
    write_wave(target, 0.5)
    (data / "gt_wav.scp").write_text(f"ann_one {target}\n")
    record = {"utterance": "ann_one", "recording": digest(target)}
    (data.parent / "a" / "synthesis.jsonl").write_text(json.dumps(record))
    main(command(data, "a"))
    write_wave(target, 0.6)
    with pytest.raises(UserError, match="a said 1 of 6 .* from another recording"):
        main(command(data, "a"))


def test_an_interrupted_run_goes_on(data, metrics):
    mos = metrics["mos_fake"]
    mos.interrupt_at = 4
    with pytest.raises(KeyboardInterrupt):
        main(command(data, "a", metrics=["mos_fake"]))
    path = data.parent / OUT_OF_A
    assert [line["utterance"] for line in lines_of(path)] == NAMES[:4]
    with open(path, "ab") as file:
        file.write(b'{"scores": {}}\n[1]\n{"utterance": "x"}\n')
        file.write(b'{"utterance": "cyd_\xc3')  # as killed in the middle of a letter
    mos.interrupt_at = None
    main(command(data, "a", metrics=["mos_fake"]))
    assert mos.seen == NAMES
    assert [len(line["scores"]) for line in lines_of(path)] == [1] * 6


def test_a_missing_model_is_an_empty_column_with_its_reason(
    data, metrics, capsys, monkeypatch
):
    def no_package():
        raise importlib.metadata.PackageNotFoundError("fake-package")

    metrics["cer_fake"].version = no_package
    monkeypatch.setattr(score_page, "DEFAULT", ("cer_fake",))
    main(command(data, "a", "b", metrics=["cer_fake", "broken_fake", "mos_fake"]))
    page = capsys.readouterr().out
    (line,) = [line for line in page.splitlines() if system_of(line) == "a"]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[3:5] == ["-", "-"] and cells[5].startswith("0.35 [")
    why = "the package fake-package is not installed; install the default scorers"
    assert f"cer_fake: empty, {why}" in page
    assert "broken_fake: empty, OSError: no weights; it needs another package" in page
    assert metrics["broken_fake"].seen == []
    with pytest.raises(UserError, match="no metric has a value.*no weights"):
        main(command(data, "a", metrics=["broken_fake"]))


def test_utterances_without_a_value_are_counted(data, metrics, capsys):
    write_wave(data.parent / "b" / "ann_one.wav", 0.0)
    main(command(data, "a", "b", metrics=["mos_fake"]))
    page = capsys.readouterr().out
    assert "mos_fake of b leaves out 1 of 6 utterances" in page
    # the difference is over the five that both have
    assert "+0.05 [+0.05, +0.05]" in page
    (row,) = [line for line in page.splitlines() if system_of(line) == "b"][:1]
    assert row.split("|")[2].strip() == "5"


def test_ground_truth_has_a_row_and_is_no_baseline(data, metrics, capsys, caplog):
    with open(data / "gt_wav.scp", "w") as file:
        for name in NAMES[:4]:  # not every text needs a recording
            file.write(f"{name} {data.parent / 'b' / name}.wav\n")
    main(command(data, "a", metrics=["mos_fake"]))
    page = capsys.readouterr().out
    assert "Differences to a," in page
    table = [line.split("|")[1:3] for line in page.splitlines() if line[:1] == "|"]
    assert ["ground_truth", "4"] in [[c.strip() for c in cells] for cells in table]
    assert caplog.text == ""
    lines = (data / "wav.scp").read_text().splitlines()[:4]
    (data / "gt_wav.scp").write_text("\n".join(lines) + "\n")
    main(command(data, "a", metrics=["mos_fake"]))
    assert "references themselves" in caplog.text


def test_ground_truth_through_a_vocoder_is_one_more_system(data, metrics, capsys):
    (data / "gt_wav.scp").write_text((data / "wav.scp").read_text())
    name = "ground_truth_mel_griffin_lim"
    wavs = data.parent / name
    vocode.main(["--data_dir", str(data), "--vocoder", "griffin_lim", "-o", str(wavs)])
    more = ["--system", f"{name}={wavs}", "--system", f"a={data.parent / 'a'}"]
    capsys.readouterr()
    main(command(data, metrics=["mos_fake"], more=more))
    # it comes before a, and yet differences are to a
    table = capsys.readouterr().out.split("Differences to a,")[0]
    systems = [system_of(line) for line in table.splitlines() if system_of(line)]
    assert systems[2:] == ["ground_truth", name, "a"]


def write_records(folder, names=NAMES, **facts):
    """Write what synthesis records: the utterances took 1, 4, 9, ... seconds."""
    record = {"vocoder": "hifigan", "device": "a fast one", "batch_size": 8, "of": "x"}
    lines = []
    for number, name in enumerate(names, 1):
        record.update(utterance=name, audio_seconds=10 * number)
        record.update(synthesis_seconds=number**2, kept_share=number / 10)
        lines.append(json.dumps({**record, **facts}) + "\n")
    (folder / "synthesis.jsonl").write_text("".join(lines))


@pytest.fixture
def measured(metrics):
    """Have the metrics of synthesis as well."""
    for name in MEASURED:
        metrics[name] = METRICS[name]
    return metrics


def test_what_synthesis_measured_has_columns(data, measured, monkeypatch, capsys):
    monkeypatch.setattr(score_page, "DEFAULT", ("mos_fake",))
    write_records(data.parent / "a")
    private = {"model": "/home/me/exp/tts_b/", "vocoder": "/home/me/hifigan_b"}
    write_records(
        data.parent / "b", kept_share=None, device="a w/ b, 2 threads", **private
    )
    arguments = command(data, "a", "b")
    arguments = arguments[: arguments.index("--metrics")]
    main(arguments)
    page = capsys.readouterr().out
    value, differences = page.split("Differences to a,")
    assert "rtf" in value and "kept_share (%)" in value
    table = differences.split("\n\n")[1]
    assert "mos_fake" in table and "rtf" not in table and "kept_share" not in table
    (a,) = [line for line in value.splitlines() if system_of(line) == "a"]
    # pooled: (1 + 4 + ... + 36) / (10 + 20 + ... + 60)
    assert "| 0.4333 |" in a and "| 35.0 [" in a  # time does not depend on speakers
    assert "kept_share of b leaves out 6 of 6 utterances, because soft masks" in page
    assert "- a: vocoder hifigan, device a fast one, batches of 8." in page
    what = "model tts_b, vocoder hifigan_b, device a w/ b, 2 threads, batches of 8"
    assert f"- b: {what}." in page
    # a page of a model card, which is published, tells no folders
    page = (data.parent / "out" / "scores.md").read_text()
    assert page.startswith("# Scores on data\n")
    assert "/home/me" not in page and str(data.parent) not in page
    scores = {r["utterance"]: r["scores"] for r in lines_of(data.parent / OUT_OF_A)}
    assert scores["ann_two"]["rtf"]["value"] == pytest.approx(4 / 20)
    assert scores["ann_two"]["kept_share"]["value"] == 0.2
    # a record of another synthesis takes the place of the old value
    write_records(data.parent / "a", kept_share=0.5)
    main(arguments)
    scores = {r["utterance"]: r["scores"] for r in lines_of(data.parent / OUT_OF_A)}
    assert scores["ann_two"]["kept_share"]["value"] == 0.5


def test_without_records_their_columns_are_empty_if_asked_for(data, measured, capsys):
    main(command(data, "a", metrics=["mos_fake", "rtf"]))
    page = capsys.readouterr().out
    assert "- rtf: empty, no system has a synthesis.jsonl" in page
    write_records(data.parent / "a", NAMES[:2])
    main(command(data, "a", "b", metrics=["mos_fake", "rtf"]))
    page = capsys.readouterr().out
    assert "- rtf: seconds of computing" in page
    (b,) = [line for line in page.splitlines() if system_of(line) == "b"][:1]
    assert b.split("|")[5].strip() == "-"


def test_subsets_of_speakers_have_tables_of_their_own(data, metrics, capsys):
    (data.parent / "two.txt").write_text("ann\ncyd\nzoe\n")
    more = ["--subset", f"the two={data.parent / 'two.txt'}"]
    (data / "about.txt").write_text("A test set, list x.\n")
    main(command(data, "a", "b", metrics=["mos_fake"], more=more))
    page = capsys.readouterr().out
    assert "\nA test set, list x.\n" in page
    everybody, two = page.split("## the two: 4 utterances, 2 of 3 speakers")
    assert "## all: 6 utterances, 3 speakers" in everybody
    assert "| 0.35 [" in everybody and "p=0.25" in everybody
    # 0.1, 0.2 of ann and 0.5, 0.6 of cyd
    (a,) = [line for line in two.splitlines() if system_of(line) == "a"]
    assert [cell.strip() for cell in a.split("|")[2:4]] == ["4", "2"]
    assert "| 0.35 [" in a and "p=0.5" in two
    with open(data.parent / "out" / "scores.csv", newline="") as file:
        groups = [row["group"] for row in csv.DictReader(file)]
    assert groups == 2 * ["all"] + 2 * ["the two"]


def test_a_system_may_be_a_wav_scp_and_may_lack_utterances(data, metrics, caplog):
    scp = data.parent / "some.scp"
    scp.write_text(f"ann_one {data.parent}/a/ann_one.wav\n")
    main(command(data, "a", more=["--system", f"some={scp}"]))
    assert "some lacks 5 of 6 utterances" in caplog.text
    assert len(lines_of(data.parent / "out" / "some.jsonl")) == 1


def spoil(data, fault):
    """Make one fault; return the arguments and a part of the message."""
    if fault == "no text":
        (data / "text").unlink()
        return command(data, "a"), "cannot read"
    if fault == "no speaker":
        (data / "utt2spk").write_text("ann_one ann\n")
        return command(data, "a"), "utt2spk lacks ann_two"
    if fault == "empty text":
        (data / "text").write_text("ann_one\n")
        return command(data, "a"), "no text for ann_one"
    if fault == "pipe":
        (data / "wav.scp").write_text("ann_one flac -c -d x.flac |\n")
        return command(data, "a"), "has a command for ann_one"
    if fault == "no reference":
        (data.parent / "references" / "cyd.wav").unlink()
        return command(data, "a"), "cyd.wav, cyd_one"
    if fault == "no audio":
        (data.parent / "a" / "bob_two.wav").write_text("no audio")
        return command(data, "a"), "bob_two in"
    if fault == "no wavs":
        (data.parent / "c").mkdir()
        return command(data, "c"), "contains no .wav or .flac"
    if fault == "other set":
        write_wave(data.parent / "c" / "other.wav", 0.1)
        return command(data, "c"), "c has no recording of any of the 6"
    if fault in ("slash", "dot"):
        name = {"slash": "../one", "dot": ".one"}[fault]
        for file in ("text", "utt2spk", "wav.scp"):
            content = (data / file).read_text().replace("ann_one ", f"{name} ")
            (data / file).write_text(content)
        return command(data, "a"), f"has the ID {name}, which cannot name a file"
    more = {
        "no name": (["--system", "exp/a"], "is not NAME=PATH"),
        "twice": (["--system", f"a={data.parent / 'b'}"], "a is given a second time"),
        "path": (["--system", f"x/y={data.parent / 'b'}"], "is not NAME=PATH"),
        "newline": (["--system", f"x\ny={data.parent / 'b'}"], "is not NAME=PATH"),
        "no subset": (["--subset", "two"], "is not TITLE=FILE"),
        "subset": (["--subset", "two=none"], "cannot read none"),
        "other subset": (["--subset", f"two={data / 'text'}"], "none of the"),
        "nj": (["--nj", "0"], "--nj is 0"),
    }
    return command(data, "a", more=more[fault][0]), more[fault][1]


FAULTS = ["no text", "no speaker", "empty text", "pipe", "no reference", "no audio"]
FAULTS += ["no wavs", "other set", "no name", "twice", "path", "newline", "nj"]
FAULTS += ["no subset", "subset", "other subset", "slash", "dot"]


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_input_is_refused_before_anything_is_written(data, metrics, fault):
    arguments, message = spoil(data, fault)
    with pytest.raises(UserError) as error:
        main(arguments)
    assert message in str(error.value)
    assert not (data.parent / "out").exists()


def test_the_command_ends_in_one_line(data):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "espnet_prune", "score"),
            *("--output_dir", "/dev/null/x", "--data_dir", str(data)),
            *("--system", f"a={data.parent / 'a'}"),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
    )
    assert done.returncode == 2
    (line,) = [x for x in done.stderr.splitlines() if "espnet_prune: error" in x]
    assert "cannot write to the folder" in line and "Traceback" not in done.stderr


@pytest.mark.slow  # every process imports ESPnet
def test_processes_do_all_the_work_and_a_killed_one_ends_in_one_line():
    killed = pytest.raises(UserError, match="smaller --nj")
    with killed, scoring.workers(2) as run:
        assert dict(run(str, range(20))) == {n: str(n) for n in range(20)}
        list(run(os._exit, [1]))


@pytest.mark.slow
def test_real_models_in_two_processes(data, capsys):
    """Score noise: all default columns are filled."""
    missing = []
    for name in DEFAULT:
        try:
            METRICS[name].version()
        except importlib.metadata.PackageNotFoundError as error:
            missing.append(error.name)
    if missing:
        pytest.skip(f"not installed: {', '.join(sorted(set(missing)))}")
    generator = np.random.default_rng(0)
    time = np.arange(24000) / 16000
    for path in data.parent.glob("*/*.wav"):
        buzz = sum(np.sin(2 * np.pi * 120 * k * time) / k for k in range(1, 20))
        wave = 0.1 * buzz * (1 + np.sin(20 * time)) + generator.normal(0, 0.01, 24000)
        soundfile.write(path, wave, 16000)
    arguments = ["--data_dir", str(data), "--output_dir", str(data.parent / "out")]
    arguments += ["--system", f"a={data.parent / 'a'}"]
    main([*arguments, "--nj", "2"])
    page = capsys.readouterr().out
    assert "empty" not in page
    for line in lines_of(data.parent / OUT_OF_A):
        assert set(line["scores"]) == set(DEFAULT)
