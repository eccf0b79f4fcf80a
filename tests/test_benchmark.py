"""bin/benchmark.py at a tiny size: what it measures and prints, not the times."""

import json

import pytest
import torch

from espnet_prune import UserError
from espnet_prune.cli import benchmark

NAMES = ["dense", "vanilla", "soft masks (phase 1)", "hard masks (phase 2)"]


def test_table_and_json_hold_every_decoder(tmp_path, capsys):
    file = tmp_path / "numbers.json"
    benchmark.main(
        ["--batch_size", "1", "--frames", "4", "--repeats", "2", "--json", str(file)]
    )
    content = json.loads(file.read_text())
    assert [row["decoder"] for row in content["decoders"]] == NAMES
    assert content["frames"] == 4 and content["batch_size"] == 1
    assert content["device"] == "cpu" and content["threads"] == torch.get_num_threads()
    dense, *others = content["decoders"]
    assert dense["ratio"] == dense["lower_quartile"] == dense["upper_quartile"] == 1
    for row in others:
        assert row["step_ms"] > 0
        assert 0 < row["lower_quartile"] <= row["ratio"] <= row["upper_quartile"]
    assert [row["target"] for row in content["decoders"]] == [None, None, 1.35, 1.1]
    screen = capsys.readouterr().out
    assert "1 x 4 frames" in screen and str(file) in screen
    for row in content["decoders"]:
        assert f"{row['decoder']} | " in screen and f" {row['ratio']:.3f} |" in screen


def test_a_step_is_that_of_the_papers_decoder_in_its_phase(monkeypatch):
    models = []

    class Watched(benchmark.StyleSpeech):
        def __init__(self, **settings):
            super().__init__(**settings)
            models.append(self)

    monkeypatch.setattr(benchmark, "StyleSpeech", Watched)
    for name, gets_gradient in (
        ("soft masks (phase 1)", True),
        ("hard masks (phase 2)", False),
    ):
        settings = benchmark.SYSTEMS[name].settings
        benchmark.make_step(settings, batch_size=2, frames=5, device="cpu")()
        attentions = models[-1].decoder_attentions
        assert len(attentions) == 4
        assert {(a.h, a.linear_q.in_features) for a in attentions} == {(2, 256)}
        for attention in attentions:
            assert (attention.theta.grad is not None) == gets_gradient
            assert attention.linear_q.weight.grad.abs().sum() > 0


def test_decoders_take_turns_and_each_round_compares_its_own_times(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: float(next(clock)))
    order = []
    steps = {}
    for name, cost in (("dense", 1), ("vanilla", 3)):

        def step(name=name, cost=cost):
            order.append(name)
            for _ in range(cost):
                next(clock)

        steps[name] = step
    seconds = benchmark.measure(steps, repeats=4, device="cpu")
    first = ["dense", "vanilla"]
    assert order == (first + first[::-1]) * 3 + first  # warm-up of three, then four
    assert seconds == {"dense": [2.0] * 4, "vanilla": [4.0] * 4}


def test_ratios_are_medians_and_quartiles_of_the_rounds():
    seconds = {"dense": [1.0, 2.0, 1.0, 2.0, 1.0], "vanilla": [2.0, 2.0, 1.0, 6.0, 5.0]}
    dense, vanilla = benchmark.summarise(seconds)
    # ratios 2, 1, 1, 3, 5
    assert vanilla["ratio"] == 2
    assert (vanilla["lower_quartile"], vanilla["upper_quartile"]) == (1, 3)
    assert vanilla["step_ms"] == 2000 and dense["ratio"] == 1


@pytest.mark.parametrize(
    "options, message",
    [
        (["--frames", "0"], "--frames is 0; choose 1 or more"),
        (["--repeats", "1"], "--repeats is 1; choose 2 or more"),
        (["--device", "warp"], "device warp cannot be used .*: use cpu"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        benchmark.main(options)
