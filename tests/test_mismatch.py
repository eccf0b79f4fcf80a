"""mismatch.py, axis.py, distances.py: scores against distance, on planted numbers."""

import csv
import json

import numpy as np
import pytest
import soundfile
from matplotlib.image import imread
from test_held_out import TEXTS, variances
from tiny_experiment import voice, write_recipe

from espnet_prune.cli.mismatch import main
from espnet_prune.errors import UserError
from espnet_prune.evaluation import backends, distances, intervals, mismatch
from espnet_prune.evaluation.axis import Axis, Score, Training
from espnet_prune.evaluation.distances import embed, nearest_distances, read_voices
from espnet_prune.evaluation.metrics import METRICS

SETS = {"seen": 0.15, "unseen": 0.25, "far": 0.40}
SPEAKERS = 10
SLOPE = -0.3  # of pruned minus dense, per 1 of distance


# ---- distances ----


def test_distance_is_that_of_the_nearest_training_speaker():
    train = {"x": np.array([[1.0, 0.0]]), "y": np.array([[0.0, 1.0]])}
    angle = np.radians(30)
    test = {
        "near": np.array([[np.cos(angle), np.sin(angle)]]),
        "same": np.array([[0.0, 1.0]]),
        "between": np.array([[1.0, 0.0], [0.6, 0.8]]),
    }
    found = nearest_distances(train, test)
    assert found["near"] == pytest.approx(1 - np.cos(angle))
    assert found["same"] == pytest.approx(0)
    # one training speaker for all of its recordings: x has a mean of 0.8, y of 0.4
    assert found["between"] == pytest.approx(0.2)


def test_a_training_speaker_is_the_centre_of_its_recordings():
    train = {"x": np.array([[1.0, 0.0], [0.0, 1.0]])}
    found = nearest_distances(train, {"a": np.array([[1.0, 0.0]])})
    assert found["a"] == pytest.approx(1 - np.sqrt(0.5))


def write_folder(folder, names):
    """Write recordings SPEAKER-NUMBER, none like another one."""
    folder.mkdir()
    scp, spk, text = [], [], []
    for number, name in enumerate(names):
        path = folder / f"{name}.wav"
        soundfile.write(
            path, voice(1.5, pitch=110.0 + 37 * number + len(folder.name)), 16000
        )
        speaker = name.split("-")[0]
        scp.append(f"{name} {path}\n")
        spk.append(f"{name} {speaker}\n")
        text.append(f"{name} {TEXTS['a1']}\n")
    for file, lines in (("wav.scp", scp), ("utt2spk", spk), ("text", text)):
        (folder / file).write_text("".join(lines))
    return folder


class Encoder:
    """Counts what it embeds."""

    def __init__(self):
        self.seen = []

    def version(self):
        return "counting 1"

    def voice(self, path):
        self.seen.append(path.stem)
        return None if path.stem == "b-1" else np.array([0.6, 0.8])


def test_recordings_are_embedded_once(tmp_path):
    folder = write_folder(tmp_path / "d", ["a-1", "a-2", "a-3", "b-1", "c-1"])
    voices = read_voices([folder], most=2)
    assert [path.stem for path in voices["a"]] == ["a-1", "a-3"]
    encoder = Encoder()
    (found,) = embed([voices], encoder, tmp_path / "voices")
    assert encoder.seen == ["a-1", "a-3", "b-1", "c-1"]
    assert found["a"].shape == (2, 2)
    assert "b" not in found  # no speech
    (again,) = embed([voices], encoder, tmp_path / "voices")
    assert len(encoder.seen) == 4
    assert np.array_equal(again["a"], found["a"])


def test_training_recordings_in_a_test_set_are_pointed_out(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr("espnet_prune.evaluation.backends.Resemblyzer", Encoder)
    train = write_folder(tmp_path / "train", ["a-1", "c-1"])
    found = distances.measure_distances([train], {"seen": [train]}, tmp_path, 5)
    assert found == {"seen": {"a": pytest.approx(0), "c": pytest.approx(0)}}
    assert "2 recordings of seen are in the training data" in caplog.text
    rows = list(csv.DictReader((tmp_path / "distances.csv").open()))
    assert [(row["set"], row["speaker"]) for row in rows] == [
        ("seen", "a"),
        ("seen", "c"),
    ]


# ---- planted numbers ----


def planted(generator, seeds=3, texts=6, slope=SLOPE, noise=0.1):
    """Make scores of dense and pruned in three sets with random effects."""
    where, scores = {}, []
    of_text = generator.normal(0, 0.3, texts)
    trainings = [Training(s, str(n)) for s in ("dense", "DP") for n in range(seeds)]
    of_training = dict(
        zip(trainings, generator.normal(0, 0.05, len(trainings)), strict=True)
    )
    of_set = generator.normal(0, 0.02, (len(trainings), len(SETS)))
    for column, (name, centre) in enumerate(SETS.items()):
        where[name] = {}
        for number in range(SPEAKERS):
            speaker = f"{name}{number}"
            where[name][speaker] = centre + generator.normal(0, 0.02)
            of_speaker = generator.normal(0, 0.2)
            for text in range(texts):
                for row, training in enumerate(trainings):
                    value = 1 + 2 * centre + of_speaker + of_text[text]
                    value += of_training[training] + of_set[row, column]
                    value += generator.normal(0, noise)
                    if training.system == "DP":
                        value += 0.05 + slope * (centre - 0.25)
                    scores.append(
                        Score(
                            name,
                            f"{speaker}_{text}",
                            speaker,
                            f"text {text}",
                            training,
                            (value, 1.0),
                        )
                    )
    return scores, where


def test_values_are_means_over_trainings_speakers_and_texts():
    scores, where = planted(np.random.default_rng(0))
    axis = Axis(scores, where)
    assert axis.sets == ["seen", "unseen", "far"]
    assert axis.systems == ["dense", "DP"]
    for name in SETS:
        expected = {
            system: np.mean(
                [
                    s.ratio[0]
                    for s in scores
                    if s.set == name and s.training.system == system
                ]
            )
            for system in axis.systems
        }
        for system in axis.systems:
            found = axis.score(name, system)
            assert found.value == pytest.approx(expected[system])
            assert found.lower < found.value < found.upper
        found = axis.difference(name, "DP", "dense")
        assert found.value == pytest.approx(expected["DP"] - expected["dense"])
        assert axis.distance(name)[0] == pytest.approx(
            np.mean(list(where[name].values()))
        )
        assert axis.count(name) == (SPEAKERS, SPEAKERS * 6)


def test_a_planted_slope_is_found():
    scores, where = planted(np.random.default_rng(1), seeds=4, noise=0.01)
    found = Axis(scores, where).slope("DP", "dense")
    assert found.value == pytest.approx(0.1 * SLOPE, abs=0.02)
    assert found.lower < 0.1 * SLOPE < found.upper
    strong, where = planted(np.random.default_rng(1), slope=-2.0)
    found = Axis(strong, where).slope("DP", "dense")
    assert found.upper < 0  # significant
    assert found.lower < 0.1 * -2.0 < found.upper
    assert sum(found.shares.values()) == pytest.approx(1)


def test_the_interval_of_a_slope_covers(monkeypatch):
    monkeypatch.setattr(intervals, "CROSSED_RESAMPLES", 200)
    generator = np.random.default_rng(2)
    covered = 0
    for _ in range(60):
        scores, where = planted(generator, texts=3)
        found = Axis(scores, where).slope("DP", "dense")
        covered += found.lower <= 0.1 * SLOPE <= found.upper
    assert covered >= 54  # 90 %


def test_error_rates_are_pooled():
    where = {"one": {"a": 0.1, "b": 0.2}}
    scores = [
        Score("one", who, who, "same", Training("x", seed), ratio)
        for who, seed, ratio in (
            ("a", "0", (1, 10)),
            ("a", "1", (3, 10)),
            ("b", "0", (2, 90)),
            ("b", "1", (4, 90)),
        )
    ]
    axis = Axis(scores, where)
    assert axis.score("one", "x").value == pytest.approx(10 / 200)
    assert axis.of_training("one", Training("x", "0")) == pytest.approx(3 / 100)
    assert axis.slope("x", "x") is None  # one set has no slope


def test_only_utterances_that_all_trainings_have_count():
    where = {"one": {"a": 0.1, "b": 0.2}}
    scores = [
        Score("one", who, who, who, Training(system, "0"), (value, 1.0))
        for who, system, value in (
            *(("a", "x", 1.0), ("b", "x", 5.0)),
            *(("a", "y", 2.0),),  # y lacks b
        )
    ]
    axis = Axis([*scores, scores[0]._replace(speaker="c")], where)
    assert axis.count("one") == (1, 1)
    assert axis.difference("one", "y", "x").value == pytest.approx(1.0)
    assert axis.difference("one", "y", "x").lower is None  # a single speaker


def test_texts_are_drawn_only_if_speakers_share_them():
    scores, where = planted(np.random.default_rng(3))
    shared = Axis(scores, where).score("far", "dense")
    assert shared.shares["text"] > 0.1
    own = [s._replace(text=f"{s.text} of {s.speaker}") for s in scores]
    found = Axis(own, where).score("far", "dense")
    assert "text" not in found.shares and found.value == pytest.approx(shared.value)


@pytest.mark.parametrize(
    "name, training",
    [
        ("R0.45_p3_s12", ("R0.45_p3", "12")),
        ("dense", ("dense", "0")),
        ("more_speakers", ("more_speakers", "0")),
    ],
)
def test_names_of_trainings_have_their_seed(name, training):
    assert Training.parse(name) == training


# ---- the command ----


def write_scores(folder, name, values):
    """Write edits of each utterance, 20 characters long, as ``score`` does."""
    folder.mkdir(exist_ok=True)
    lines = [
        {
            "utterance": utterance,
            "speaker": utterance.split("-")[0],
            "scores": {
                "cer_whisper": {
                    "value": edits / 20,
                    "edits": edits,
                    "characters": 20,
                    "of": "",
                },
                "rtf": {"value": 1.0, "synthesis_seconds": 1, "audio_seconds": 1},
            },
        }
        for utterance, edits in values.items()
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / f"{name}.jsonl").write_text(text)


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Training data, two sets with scores, and recordings of one of them."""
    monkeypatch.chdir(tmp_path)

    class Near(Encoder):
        def voice(self, path):
            angle = {"t": 0.0, "n": 0.5, "f": 1.0}[path.stem[0]]
            angle += 0.01 * int(path.stem[1])
            return np.array([np.cos(angle), np.sin(angle)])

    monkeypatch.setattr("espnet_prune.evaluation.backends.Resemblyzer", Near)
    write_folder(tmp_path / "train", ["t0-1", "t0-2"])
    for name in ("near", "far"):
        names = [f"{name[0]}{who}-{n}" for who in range(3) for n in range(2)]
        folder = write_folder(tmp_path / name, names)
        ends = " ".join(f"{1.5 * (n + 1) / 9:.4f}" for n in range(9))
        (folder / "token_ends").write_text("".join(f"{n} {ends}\n" for n in names))
        for system, edits in (("dense", 4), ("DP", 3 if name == "near" else 1)):
            for seed in range(2):
                values = dict.fromkeys(names, edits + seed)
                write_scores(tmp_path / f"scores_{name}", f"{system}_s{seed}", values)
        write_scores(tmp_path / f"scores_{name}", "ground_truth", {names[0]: 0})
    return tmp_path


SCORES = (
    *("--train_data", "train", "--output_dir", "out"),
    *("--set", "near=near", "--set", "far=far"),
    *("--scores", "near=scores_near", "--scores", "far=scores_far"),
)


def read_rows(path):
    return list(csv.DictReader(path.open()))


def test_command_joins_distances_and_scores(study, capsys):
    main([*SCORES, "--baseline", "dense"])
    printed = capsys.readouterr().out
    assert "## cer_whisper (%)" in printed
    rows = read_rows(study / "out" / "mismatch.csv")
    found = {(r["kind"], r["system"], r["set"]): float(r["value"]) for r in rows}
    assert found["score", "dense", "far"] == pytest.approx(4.5 / 20)
    assert found["difference", "DP", "near"] == pytest.approx(-1 / 20)
    assert found["difference", "DP", "far"] == pytest.approx(-3 / 20)
    by_set = {r["set"]: float(r["distance"]) for r in rows if r["set"]}
    near, far = by_set["near"], by_set["far"]
    assert near == pytest.approx(1 - np.mean(np.cos(0.5 + 0.01 * np.arange(3))))
    expected = 0.1 * (-2 / 20) / (far - near)
    assert found["slope", "DP", ""] == pytest.approx(expected)
    assert {r["metric"] for r in rows} == {"cer_whisper"}  # speed is no quality
    seeds = read_rows(study / "out" / "trainings.csv")
    assert len(seeds) == 2 * 2 * 2
    assert {r["system"] for r in seeds} == {"dense", "DP"}
    assert imread(study / "out" / "mismatch.png").std() > 0.01
    page = (study / "out" / "mismatch.md").read_text()
    assert METRICS["cer_whisper"].measures in page
    assert page.index(" near |") < page.index(" far |")


def test_command_measures_held_out_losses(study):
    options = []
    for seed, name in enumerate(("dense_s0", "DP_s0", "DP_s1")):
        write_recipe(study, name, seed=seed, **variances(True))
        options += ["--model", f"{name}=exp/{name}"]
    options += ["--recordings", "near=near", "--recordings", "far=far"]
    only = ["--train_data", "train", "--output_dir", "out", *options]
    main(only)
    rows = read_rows(study / "out" / "mismatch.csv")
    metrics = {"mel_loss", "mel_loss_other", "duration_loss", "pitch_loss"}
    assert {r["metric"] for r in rows} == {*metrics, "energy_loss"}
    kept = (study / "out" / "losses" / "far" / "DP_s1.jsonl").read_text().splitlines()
    values = [json.loads(line)["scores"]["mel_loss"]["value"] for line in kept]
    (mean,) = [
        float(r["value"])
        for r in read_rows(study / "out" / "trainings.csv")
        if (r["metric"], r["set"], r["system"], r["seed"])
        == ("mel_loss", "far", "DP", "1")
    ]
    assert mean == pytest.approx(np.mean(values))
    main([*only, *SCORES[4:]])  # with scores, on the same axis
    rows = read_rows(study / "out" / "mismatch.csv")
    assert {"mel_loss", "cer_whisper"} <= {r["metric"] for r in rows}


def test_without_scores_the_command_tells_distances(study, capsys):
    main([*SCORES[:8]])
    printed = capsys.readouterr().out
    assert printed.index("near") < printed.index("far") and "0.1" in printed
    assert not (study / "out" / "mismatch.md").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        (["--scores", "other=scores_far"], "there is no set other"),
        (["--scores", "far"], "--scores 'far' is not NAME=PATH"),
        (["--scores", "far=train"], "train has no scores of the utterances of far"),
        (["--model", "a_s0=exp/a"], "need --model and --recordings"),
        (["--recordings", "far=far"], "need --model and --recordings"),
        (["--recordings_per_speaker", "0"], "choose a whole number above 0"),
        (["--baseline", "denes"], "no scores of the baseline denes"),
    ],
)
def test_what_a_user_can_get_wrong(study, options, message):
    with pytest.raises(UserError, match=message):
        main([*SCORES, *options])
    assert not (study / "out" / "mismatch.md").exists()


def test_scores_of_another_program_are_named(study):
    file = study / "scores_far" / "DP_s0.jsonl"
    file.write_text(file.read_text().replace('"edits"', '"edit"'))
    with pytest.raises(UserError, match="DP_s0.jsonl is not scores .*lacks 'edits'"):
        main(SCORES)


def test_a_speaker_encoder_that_is_not_installed_is_named(study, monkeypatch):
    encoder = backends.Resemblyzer
    monkeypatch.setattr(encoder, "version", backends.Backend.version)
    monkeypatch.setattr(encoder, "packages", ("no-such-package",), raising=False)
    monkeypatch.setattr(encoder, "title", "Near", raising=False)
    with pytest.raises(UserError, match="package no-such-package, which is not inst"):
        main(SCORES)


def test_scores_of_other_speakers_have_no_place():
    scores, _ = planted(np.random.default_rng(0))
    with pytest.raises(UserError, match="no score belongs to a speaker"):
        mismatch.write({"mel_loss": scores}, {"seen": {"nobody": 0.1}}, None)
