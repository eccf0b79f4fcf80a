"""cli/benchmark.py at a tiny size: what it measures and prints, not the times."""

import json

import pytest
import torch
import yaml

from espnet_prune import UserError
from espnet_prune.cli.benchmark import main
from espnet_prune.evaluation import benchmark, benchmark_worker

PRUNINGS = ["dense", "vanilla", "soft masks (phase 1)", "hard masks (phase 2)"]
TINY = dict(adim=8, eunits=8, dunits=8, elayers=1, dlayers=1, style_units=8)


@pytest.fixture
def tiny_config(tmp_path):
    """Write a training configuration of a tiny model."""
    file = tmp_path / "train.yaml"
    file.write_text(yaml.safe_dump(dict(tts="stylespeech", tts_conf=TINY)))
    return str(file)


def tiny_work(part):
    return dict(
        part=part,
        public=False,
        systems=None,
        model=TINY,
        batch_size=2,
        frames=20,
        device="cpu",
        precision="float32",
        compile=False,
    )


def test_table_and_json_hold_both_checkouts(tmp_path, capsys, tiny_config):
    file = tmp_path / "numbers.json"
    options = [
        "--batch_size",
        "1",
        "--frames",
        "12",
        "--repeats",
        "2",
        "--threads",
        "1",
    ]
    options += ["--config", tiny_config, "--json", str(file)]
    options += ["--parts", "decoder", "synthesis", "--against", str(benchmark.HERE)]
    main(options)
    content = json.loads(file.read_text())
    rows = content["rows"]
    assert [row["system"] for row in rows] == 4 * PRUNINGS
    assert [row["checkout"] for row in rows] == 2 * (4 * ["here"] + 4 * ["other"])
    assert content["machine"]["torch"] == torch.__version__
    for row in rows:
        assert row["wall_ms"] > 0 and row["cpu_ms"] > 0 and row["memory_mib"] > 10
        lower, median, upper = row["wall_ratio"]
        assert 0 < lower <= median <= upper
        assert (row["wall_against"] is None) == (row["checkout"] == "other")
    for dense in rows[::4]:
        assert dense["wall_ratio"] == dense["cpu_ratio"] == [1, 1, 1]
    screen = capsys.readouterr().out
    assert "1 x 12 frames, cpu, float32: medians of 2 rounds" in screen
    assert f"{rows[1]['wall_ratio'][1]:.3f} |" in screen and str(file) in screen


def test_memory_is_that_of_one_system_in_a_process(capsys, tiny_config):
    main(
        ["--memory", "--parts", "durations", "--frames", "12", "--batch_size", "1"]
        + ["--config", tiny_config]
    )
    screen = capsys.readouterr().out
    assert "peak memory" in screen and "peak (MiB)" in screen
    for name in ("given durations", "learned durations"):
        assert screen.count(name) == 1


@pytest.mark.parametrize("part", ["decoder", "training", "durations", "synthesis"])
def test_every_system_of_a_part_runs(part):
    steps = benchmark_worker.PARTS[part](tiny_work(part))
    for step in steps.values():
        step()
    assert list(benchmark_worker.PARTS) == list(benchmark.WHAT)
    expected = ["given durations", "learned durations"]
    assert list(steps) == (expected if part == "durations" else PRUNINGS)


def test_a_training_step_moves_all_weights(monkeypatch):
    models = []
    make = benchmark_worker._our_model

    def watched(*arguments):
        models.append(make(*arguments))
        return models[-1]

    monkeypatch.setattr(benchmark_worker, "_our_model", watched)
    steps = benchmark_worker.training(tiny_work("training"))
    for step, model in zip(steps.values(), models, strict=True):
        before = {name: p.clone() for name, p in model.named_parameters()}
        step()
        for name, parameter in model.named_parameters():
            # a bias of keys moves all scores of a row alike: it has no gradient
            if not name.endswith("linear_k.bias"):
                moved = not torch.equal(parameter, before[name])
                assert moved == parameter.requires_grad, name


def test_tour_measures_every_setting_that_a_gpu_should_tell(
    tmp_path, capsys, tiny_config, monkeypatch
):
    # compiling takes minutes on a CPU
    eager = [setting for setting in benchmark.TOUR if not setting[2]]
    monkeypatch.setattr(benchmark, "TOUR", eager)
    file = tmp_path / "numbers.json"
    main(
        ["--tour", "--batch_size", "2", "--frames", "12", "--repeats", "2"]
        + ["--config", tiny_config, "--json", str(file), "--threads", "1"]
    )
    rows = json.loads(file.read_text())["rows"]
    measured = {(row["part"], row["precision"]) for row in rows}
    assert measured == {(benchmark.WHAT[part], kind) for part, kind, _ in eager}
    for row in rows:
        batch = 1 if row["part"] == "text to mel" else 2
        seconds = row["wall_ms"] / 1000
        assert row["utterances_per_second"] == pytest.approx(batch / seconds)
    assert "utterances/s" in capsys.readouterr().out


class Clockwork:
    """A worker whose steps take the seconds it is told."""

    def __init__(self, name, log, **seconds):
        self.name, self.log, self.seconds = name, log, seconds
        self.systems = list(seconds)

    def run(self, system):
        self.log.append(f"{self.name} {system}")
        return dict(wall=self.seconds[system], cpu=self.seconds[system], memory=0)


def test_systems_of_both_checkouts_take_turns():
    log = []
    workers = [
        Clockwork("here", log, dense=1, soft=3),
        Clockwork("other", log, dense=2),
    ]
    answers = benchmark.take_turns(workers, repeats=4)
    turns = ["here dense", "here soft", "other dense"]
    rounds = [log[i : i + 3] for i in range(0, len(log), 3)]
    assert len(rounds) == benchmark.WARM_UP + 4
    assert [first for first, *_ in rounds] == 2 * turns
    assert all(sorted(round_) == sorted(turns) for round_ in rounds)
    assert [len(times) for systems in answers for times in systems.values()] == [4] * 3


def test_ratios_are_medians_and_quartiles_of_the_rounds():
    def times(*seconds):
        return [dict(wall=s, cpu=2 * s, memory=2**20) for s in seconds]

    here = {"dense": times(1, 2, 1, 2, 1), "vanilla": times(2, 2, 1, 6, 5)}
    other = {"public": times(2, 2, 2, 2, 2)}
    dense, vanilla, public = benchmark.summarise(
        benchmark.Work("training"), [here, other]
    )
    assert vanilla["wall_ratio"] == vanilla["cpu_ratio"] == [1, 2, 3]  # 2, 1, 1, 3, 5
    assert vanilla["wall_ms"] == 2000 and vanilla["cpu_ms"] == 4000
    assert dense["wall_against"][1] == 0.5  # to the other's first, for want of a dense
    assert public["wall_against"] is None and public["wall_ratio"] == [1, 1, 1]
    assert dense["memory_mib"] == 1


@pytest.mark.parametrize(
    "options, message",
    [
        (["--frames", "6"], "--frames is 6; choose 12 or more"),
        (["--repeats", "1"], "--repeats is 1; choose 2 or more"),
        (["--device", "warp"], "device warp cannot be used .*: use cpu"),
        (["--against", "/nowhere"], "/nowhere is not a checkout of espnet_prune or of"),
        (
            ["--config", "/nowhere.yaml"],
            "training configuration /nowhere.yaml cannot be read",
        ),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        main(options)


def test_configuration_of_another_model_is_refused(tmp_path):
    file = tmp_path / "train.yaml"
    file.write_text("tts: vits")
    with pytest.raises(UserError, match="does not set tts: stylespeech"):
        main(["--config", str(file)])


def test_public_model_has_no_decoder_to_measure_alone(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "StyleSpeech.py").touch()
    with pytest.raises(UserError, match="has no decoder to measure: choose --parts"):
        main(["--against", str(tmp_path), "--parts", "decoder", "training"])


def test_checkout_that_does_not_run_is_named(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "StyleSpeech.py").write_text("raise RuntimeError('broken')")
    with pytest.raises(UserError, match=f"{tmp_path} cannot be measured"):
        main(["--against", str(tmp_path), "--parts", "training"])
