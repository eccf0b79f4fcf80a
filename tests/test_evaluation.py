"""evaluation/: rows of history, tables in three formats, figures."""

import csv
import json
import re
from html import unescape

import markdown
import numpy as np
import pytest
import torch
import yaml
from espnet2.train.reporter import Reporter
from experiments import write_checkpoint, write_experiment
from matplotlib.image import imread

from espnet_prune import UserError, masks
from espnet_prune.attention import AttentionMaps
from espnet_prune.evaluation import plots, tables
from espnet_prune.evaluation.history import (
    join,
    read_experiment,
    read_experiments,
    read_models,
    threshold_rows,
)
from espnet_prune.experiment import is_finished

PHASE1 = [(0.5, 1.0), (1.5, 2.5)]  # thresholds of two layers after each of two epochs
PHASE2 = [(1.5, 2.5)] * 3


def two_phases(folder, **phase2):
    first = write_experiment(
        folder / "one", PHASE1, sparsity_ratio=0.4, threshold_scale=30.0
    )
    second = write_experiment(
        folder / "two",
        **dict(
            {
                "epochs": PHASE2,
                "phase": 2,
                "sparsity_ratio": 0.4,
                "threshold_scale": 30.0,
            },
            **phase2,
        ),
    )
    return first, second


# ---- history ----


def test_rows_hold_what_espnets_reporter_recorded(tmp_path):
    folder = write_experiment(tmp_path, PHASE1, sparsity_ratio=0.4, temperature=0.02)
    experiment = read_experiment(folder)
    assert (experiment.pruning, experiment.phase) == ("differentiable", 1)
    assert (experiment.sparsity_ratio, experiment.temperature) == (0.4, 0.02)
    assert experiment.threshold_scale == 1.0  # the default, not written in the YAML
    train, valid = [row for row in experiment.rows if row["epoch"] == 2]
    assert (train["split"], valid["split"]) == ("train", "valid")
    assert valid["threshold_2"] == pytest.approx(2.5)
    # steps of the second epoch saw theta - 1, - 2 and - 3
    assert train["threshold_2"] == pytest.approx(0.5)
    assert train["step"] == valid["step"] == 6
    assert valid["mel_loss"] == pytest.approx(1.25)
    assert train["seconds"] >= 0


@pytest.mark.parametrize("accum_grad, steps", [(1, [5, 10]), (2, [2, 4]), (5, [1, 2])])
def test_steps_are_those_of_the_optimiser(tmp_path, accum_grad, steps):
    folder = write_experiment(tmp_path, PHASE1, batches=5, accum_grad=accum_grad)
    rows = read_experiment(folder).rows
    assert [row["step"] for row in rows if row["split"] == "train"] == steps


def test_phase_2_continues_on_the_time_axis_of_phase_1(tmp_path):
    rows = join(read_experiments(two_phases(tmp_path)))
    valid = [row for row in rows if row["split"] == "valid"]
    assert [row["phase"] for row in valid] == [1, 1, 2, 2, 2]
    assert [row["epoch"] for row in valid] == [1, 2, 3, 4, 5]
    assert [row["run_epoch"] for row in valid] == [1, 2, 1, 2, 3]
    assert [row["step"] for row in valid] == [3, 6, 9, 12, 15]
    assert "soft_mean_1" in valid[1] and "soft_mean_1" not in valid[2]


def test_table_shows_the_end_of_each_phase(tmp_path):
    table = threshold_rows(read_experiments(two_phases(tmp_path)))
    shown = [(row["phase"], row["epoch"], row["layer"]) for row in table]
    assert shown == [(1, 2, 1), (1, 2, 2), (2, 5, 1), (2, 5, 2)]
    # of the model that the phase ended with, not means over its last epoch
    assert [row["threshold"] for row in table] == pytest.approx([1.5, 2.5, 1.5, 2.5])
    assert table[0]["mean_soft_mask"] == pytest.approx(0.5)
    assert table[2]["mean_soft_mask"] is None
    assert table[3]["kept_share"] == pytest.approx(0.125)
    assert table[3]["kept_mass"] == pytest.approx(0.375)
    assert {row["sparsity_ratio"] for row in table} == {0.4}
    assert {row["threshold_scale"] for row in table} == {30.0}


def test_either_phase_and_vanilla_pruning_go_alone(tmp_path):
    _, second = two_phases(tmp_path)
    assert [row["epoch"] for row in threshold_rows([read_experiment(second)])] == [3, 3]
    vanilla = write_experiment(tmp_path / "vp", [(1.0, 1.0)], pruning="vanilla")
    table = threshold_rows(read_experiments([vanilla]))
    assert [row["threshold"] for row in table] == [1.0, 1.0]
    assert {(row["phase"], row["sparsity_ratio"]) for row in table} == {(None, None)}


def remove(name):
    return lambda folder: (folder / name).unlink()


def damage(folder):
    content = (folder / "checkpoint.pth").read_bytes()
    (folder / "checkpoint.pth").write_bytes(content[: len(content) // 2])


def other_content(folder):
    torch.save({"tts.weight": torch.zeros(3)}, folder / "checkpoint.pth")


def no_epoch(folder):  # as phase 2 starts: everything of phase 1 but its epochs
    write_checkpoint(folder, Reporter())


def no_yaml(folder):
    (folder / "config.yaml").write_text("tts: [")


def unknown_setting(folder):
    settings = {"pruning": "differentiable", "pruning_conf": {"sparsity_ration": 0.5}}
    (folder / "config.yaml").write_text(yaml.safe_dump({"tts_conf": settings}))


def no_times(folder):
    states = torch.load(folder / "checkpoint.pth")
    for epoch in states["reporter"]["stats"].values():
        del epoch["train"]["time"]
    torch.save(states, folder / "checkpoint.pth")


def conf_is_a_list(folder):
    (folder / "config.yaml").write_text("tts: stylespeech\ntts_conf: [1]\n")


@pytest.mark.parametrize(
    "harm, message",
    [
        (remove("checkpoint.pth"), "contains no checkpoint.pth; train"),
        (remove("config.yaml"), "contains no config.yaml; give the experiment folder"),
        (damage, "is not a checkpoint of ESPnet's trainer, or is damaged; train"),
        (other_content, "is not a checkpoint of ESPnet's trainer"),
        (no_times, "is not the experiment of a finished epoch .*'time'"),
        (conf_is_a_list, "tts_conf in .*config.yaml is .*NAME: VALUE"),
        (no_epoch, "no epoch has been finished in .*; train"),
        (no_yaml, "config.yaml is not a configuration of a training"),
        (unknown_setting, "did you mean sparsity_ratio?"),
    ],
)
def test_unusable_folders_are_refused_in_one_line(tmp_path, harm, message):
    folder = write_experiment(tmp_path, PHASE1)
    read_experiment(folder)
    harm(folder)
    with pytest.raises(UserError, match=message):
        read_experiment(folder)


def test_several_models_are_told_apart(tmp_path):
    first, second = two_phases(tmp_path / "a")
    other = two_phases(tmp_path / "b")
    dense = write_experiment(tmp_path / "dense", [()], pruning="none")
    models = read_models([first, second, dense, str(other[1])])
    found = [[e.folder for e in model] for model in models]
    assert found == [[first, second], [dense], [other[1]]]
    # a phase 2 goes with the phase 1 right before it only
    models = read_models([first, dense, second])
    assert [len(model) for model in models] == [1, 1, 1]
    with pytest.raises(UserError, match=r"phase 2 of one .*one \(phase 1\) and .*none"):
        read_experiments([first, dense])
    with pytest.raises(UserError, match="no thresholds .*pruning: none; give"):
        threshold_rows([read_experiment(dense)])


def test_folders_in_a_wrong_order_are_refused(tmp_path):
    first, second = two_phases(tmp_path)
    for folders, message in (
        ([tmp_path / "typo"], "typo is not a folder; give the experiment folder"),
        ([second, first], r"two is the phase 2 of .*one; give phase 1 first"),
        ([first, second, first], "one is given twice; name it once"),
    ):
        with pytest.raises(UserError, match=message):
            read_models(folders)


@pytest.mark.parametrize("thresholds", [(1.5, 2.4), (1.5,)])
def test_phase_2_of_another_phase_1_is_refused(tmp_path, thresholds):
    folders = two_phases(tmp_path, epochs=[thresholds])
    with pytest.raises(UserError, match="does not have the thresholds of phase 1"):
        read_models(folders)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_training_ends_when_espnet_ends_it(mode):
    """With and without early stopping; of equal epochs the first is the best one."""
    for losses in ([3, 2, 1], [1, 2, 3], [1, 1, 1], [2, 1, 2, 3, 4], [2.0]):
        stats = {n: {"valid": {"loss": loss}} for n, loss in enumerate(losses, 1)}
        progress = {"epoch": len(losses), "stats": stats}
        reporter = Reporter()
        reporter.load_state_dict(progress)
        for patience in (0, 1, 2, 3):
            config = {"max_epoch": 9, "patience": patience}
            config["early_stopping_criterion"] = ["valid", "loss", mode]
            ended = reporter.check_early_stopping(patience, "valid", "loss", mode)
            assert is_finished(config, progress) == ended
    assert is_finished({"max_epoch": 1}, progress)
    assert not is_finished({"max_epoch": 2}, progress)
    other = dict(config, early_stopping_criterion=["train", "loss", "min"], patience=0)
    assert not is_finished(other, progress)


# ---- tables ----


def test_markdown_table_is_aligned_and_shows_gaps():
    columns = (
        tables.Column("layer", "layer"),
        tables.Column("kept", "kept share", tables.percent),
        tables.Column("threshold", "threshold", tables.number),
    )
    rows = [
        {"layer": 1, "kept": 0.1234, "threshold": 4.184},
        {"layer": 2, "kept": 0, "threshold": None},
    ]
    table = tables.markdown(rows, columns).splitlines()
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in table] == [
        ["layer", "kept share", "threshold"],
        [table[1].split("|")[n] for n in (1, 2, 3)],
        ["1", "12.3 %", "4.18"],
        ["2", "0 %", "-"],
    ]
    assert re.fullmatch(r"\|(-+:\|){3}", table[1])
    assert len(set(map(len, table))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "a | b",
        "one\ntwo",
        "x\u2028y",
        "# big",
        "<b>x</b>",
        "[x](y)",
        "`x`",
        "*x*",
        "\\|",
    ],
)
def test_a_cell_is_what_it_says(text):
    shown = tables.pipes([["heading"], [text]])
    html = markdown.markdown(shown, extensions=["tables"])
    (found,) = re.findall(r"<td[^>]*>(.*?)</td>", html)
    assert unescape(found) == " ".join(text.split())


@pytest.mark.parametrize(
    "value, text",
    [
        (0.0, "0.00"),
        (1.7, "1.70"),
        (12.3456, "12.3"),
        (100.0, "100"),
        (1e-4, "0.000100"),
    ],
)
def test_numbers_have_three_digits(value, text):
    assert tables.number(value) == text


def test_csv_and_json_keep_full_precision_and_gaps(tmp_path):
    rows = [
        {"layer": 1, "theta": 1 / 3, "soft": None},
        {"layer": 2, "theta": 2.5, "soft": 0.5},
    ]
    tables.write_csv(tmp_path / "t.csv", rows)
    tables.write_json(tmp_path / "t.json", {"layers": rows})
    with open(tmp_path / "t.csv", newline="") as file:
        read = list(csv.DictReader(file))
    assert float(read[0]["theta"]) == 1 / 3
    assert [row["soft"] for row in read] == ["", "0.5"]
    assert json.loads((tmp_path / "t.json").read_text())["layers"] == rows


def test_a_failed_write_leaves_the_old_file_alone(tmp_path):
    tables.write_text(tmp_path / "t.csv", "old")
    with pytest.raises(ValueError, match="more"):
        tables.write_csv(tmp_path / "t.csv", [{"layer": 1}, {"layer": 2, "more": 3}])
    with pytest.raises(UserError, match="not UTF-8"):
        tables.write_text(tmp_path / "t.csv", "half \ud800")
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]
    assert (tmp_path / "t.csv").read_text() == "old"


# ---- figures of training ----


def lines_of(ax):
    """Return label -> points of the curves, which phases break into several lines."""
    found = {}
    for line in ax.get_lines():
        found.setdefault(line.get_color(), []).append(line.get_xydata().tolist())
    return found


def test_threshold_figure_shows_both_phases_and_the_switch(tmp_path):
    rows = join(read_experiments(two_phases(tmp_path)))
    (ax,) = plots.plot_layers(rows, "threshold").axes
    drawn = lines_of(ax)
    (marker,) = drawn.pop("0.4")
    assert [x for x, _ in marker] == [6, 6]
    layer1, layer2 = drawn.values()
    assert np.allclose(layer1[0], [(3, 0.5), (6, 1.5)])
    assert np.allclose(layer2[1], [(x, 2.5) for x in (9, 12, 15)])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["1", "2"]


def test_a_single_phase_has_no_switch(tmp_path):
    rows = read_experiment(write_experiment(tmp_path, PHASE1)).rows
    for figure in (plots.plot_layers(rows, "threshold"), plots.plot_losses(rows)):
        assert all("0.4" not in lines_of(ax) for ax in figure.axes)


def test_kept_figure_shows_share_and_mass_apart(tmp_path):
    rows = join(read_experiments(two_phases(tmp_path)))
    share, mass = plots.plot_layers(rows, "kept_share", "kept_mass").axes
    assert "share" in share.get_ylabel() and "mass" in mass.get_ylabel()
    assert next(iter(lines_of(share).values()))[0][0][1] == pytest.approx(0.25)
    assert next(iter(lines_of(mass).values()))[0][0][1] == pytest.approx(0.75)


def test_soft_mean_figure_shows_its_target(tmp_path):
    rows = read_experiment(write_experiment(tmp_path, PHASE1)).rows
    (ax,) = plots.plot_layers(rows, "soft_mean", target=0.4).axes
    assert [y for _, y in lines_of(ax)["0.2"][0]] == [0.4, 0.4]
    assert "R = 0.4" in [text.get_text().strip() for text in ax.texts]


def test_models_are_drawn_side_by_side(tmp_path):
    models = {
        "two phases": join(read_experiments(two_phases(tmp_path / "a"))),
        "other_$": join(read_experiments(two_phases(tmp_path / "b")))[:4],
    }
    figure = plots.plot_models(models, "mel_loss")
    (ax,) = figure.axes
    lines = [list(line.get_xdata()) for line in ax.lines]
    assert lines == [[3, 6], [9, 12, 15], [3, 6]]  # a gap where the mask was switched
    assert ax.lines[0].get_ydata()[1] == pytest.approx(1.25)
    assert ax.lines[0].get_color() == ax.lines[1].get_color()
    assert ax.lines[0].get_color() != ax.lines[2].get_color()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "two phases",
        r"other_\$",
    ]
    assert plots.to_png(figure, 50)[:4] == b"\x89PNG"


def test_loss_figure_has_a_panel_for_each_term(tmp_path):
    rows = join(read_experiments(two_phases(tmp_path)))
    panels = {ax.get_title(): ax for ax in plots.plot_losses(rows).axes}
    assert list(panels) == ["total loss", "mel loss", "sparsity loss"]
    _train, valid, _ = lines_of(panels["mel loss"]).values()
    assert np.allclose(valid[0], [(3, 2.5), (6, 1.25)])
    assert np.allclose(valid[1], [(9, 2.5), (12, 1.25), (15, 2.5 / 3)])
    assert len(lines_of(panels["sparsity loss"])["#D55E00"]) == 1  # phase 1 only


# ---- figures of attention ----


def attention_maps(frames=20, theta=1.0, kind="hard", heads=2, seed=0):
    scores = torch.randn(
        1, heads, frames, frames, generator=torch.Generator().manual_seed(seed)
    )
    dense = (2 * scores).softmax(dim=-1)
    make = masks.hard_mask if kind == "hard" else masks.soft_mask
    mask = make(dense, torch.tensor(theta), torch.tensor([frames]))
    return AttentionMaps(dense, mask, dense * mask)


def images_of(figure):
    """Return the maps from left to right and from top to bottom."""
    return [image for ax in figure.axes for image in ax.images]


def titles_of(figure):
    return [ax.get_title() for ax in figure.axes if ax.images]


def test_hard_masks_are_shown_before_and_after():
    maps, sparse = attention_maps(theta=1.0), attention_maps(theta=3.0, seed=1)
    panel = plots.AttentionPanel("phase 2", [maps, sparse], [1.0, 3.0])
    figure = plots.plot_attention([panel], "costs $5")
    images = images_of(figure)
    assert len(images) == 8  # two rows of two layers with two heads each
    before, after = images[1], images[5]  # layer 1, head 2
    # weights in multiples of 1/N; what was pruned is white, the rest as before
    weights = 20 * maps.dense[0, 1].numpy()
    assert np.allclose(before.get_array(), weights.clip(0.1))
    kept = maps.mask[0, 1].numpy()
    assert 0.1 < kept.mean() < 0.9
    assert np.array_equal(after.get_alpha() == 0, ~kept)
    assert np.allclose(after.get_array()[kept], weights[kept])
    assert titles_of(figure)[0] == "layer 1, head 1\nthreshold 1.00"
    assert titles_of(figure)[3] == "layer 2, head 2\nthreshold 3.00"
    assert (
        titles_of(figure)[7]
        == f"{tables.percent(sparse.mask[0, 1].float().mean())} kept"
    )
    assert figure.axes[0].get_ylabel() == "dense\nquery frame"
    assert [ax.get_xlabel() for ax in figure.axes if ax.images][4:] == ["key frame"] * 4
    heads = [part.get_suptitle() for part in figure.subfigs]
    assert heads == ["costs \\$5", "phase 2, N = 20 frames"]


def test_soft_masks_have_a_row_of_their_own():
    maps = attention_maps(kind="soft")
    panel = plots.AttentionPanel("phase 1", [maps], [1.0])
    figure = plots.plot_attention([panel], "text")
    _, _, soft, _, masked, _ = images_of(figure)
    assert np.allclose(soft.get_array(), maps.mask[0, 0])
    assert np.allclose(masked.get_array(), (20 * maps.pruned[0, 0]).clip(0.1))
    assert titles_of(figure)[2] == f"mean {maps.mask[0, 0].mean():.2g}"


def test_a_mask_that_heads_share_is_shown_for_each():
    maps = attention_maps()
    union = masks.union_over_heads(maps.mask)
    shared = AttentionMaps(maps.dense, union, maps.dense * union)
    panel = plots.AttentionPanel("vanilla", [shared], [1.0])
    titles = titles_of(plots.plot_attention([panel], "text"))[2:]
    assert titles == [f"{tables.percent(union.float().mean())} kept"] * 2


def test_a_dense_model_has_one_row_beside_a_pruned_one():
    maps = attention_maps()
    panels = [
        plots.AttentionPanel("baseline", [maps], [None]),
        plots.AttentionPanel("pruned", [maps], [1.0]),
    ]
    figure = plots.plot_attention(panels, "text")
    assert len(images_of(figure)) == 2 + 4
    assert titles_of(figure)[:2] == ["layer 1, head 1", "layer 1, head 2"]


def test_many_heads_go_on_in_the_next_line():
    maps = attention_maps(heads=4)
    panel = plots.AttentionPanel("deep", [maps] * 3, [1.0] * 3)
    figure = plots.plot_attention([panel], "text")
    assert len(images_of(figure)) == 2 * 3 * 4
    columns = [ax.get_subplotspec().colspan.start for ax in figure.axes if ax.images]
    assert columns == 2 * list(range(8)) + 2 * list(range(4))
    assert [part.get_suptitle() for part in figure.subfigs][1:] == [
        "deep, N = 20 frames",
        "deep, continued",
    ]


def title_lines(figure):
    """Return the title of the first model as one line."""
    return figure.subfigs[1].get_suptitle().replace("\n", " ")


def test_long_utterances_stay_legible():
    frames = 1201  # five weights a dot, one in the last
    dense = torch.full((1, 1, frames, frames), 1 / frames)
    mask = torch.zeros(1, 1, frames, frames, dtype=torch.bool)
    mask[0, 0, 700, 3] = mask[0, 0, 1200, 1200] = True  # two lonely connections
    panel = plots.AttentionPanel("m", [AttentionMaps(dense, mask, dense * mask)], [1.0])
    figure = plots.plot_attention([panel], "text")
    before, after = images_of(figure)
    assert before.get_array().shape == (241, 241)
    assert np.allclose(before.get_array(), 1)
    found = [tuple(where) for where in np.argwhere(after.get_alpha() > 0)]
    assert found == [(140, 0), (240, 240)]
    assert np.allclose([after.get_array()[where] for where in found], 1)
    assert figure.axes[0].get_xlim() == (0, frames)
    assert (
        title_lines(figure) == "m, N = 1201 frames (a dot is the mean of 5 x 5 weights)"
    )


def test_long_names_of_models_are_wrapped():
    name = "exp/tts_train_small_voice_aligned_raw_phn_espeak_ng_english_us_vits_phase2"
    panel = plots.AttentionPanel(name, [attention_maps()], [1.0])
    figure = plots.plot_attention([panel], "text")
    lines = figure.subfigs[1].get_suptitle().split("\n")
    assert "".join(lines).replace(" ", "") == f"{name},N=20frames"
    assert max(map(len, lines)) <= 2 * plots.CHARACTERS_PER_HEAD


def test_png_is_capped_and_drawn(tmp_path, monkeypatch):
    panel = plots.AttentionPanel("m", [attention_maps()] * 2, [1.0] * 2)
    figure = plots.plot_attention([panel], "text")
    inches = figure.get_size_inches()
    plots.save(figure, tmp_path / "full.png")
    monkeypatch.setattr(plots, "MAX_PIXELS", 400)
    plots.save(figure, tmp_path / "capped.png")
    height, width, _ = imread(tmp_path / "full.png").shape
    assert (width, height) == pytest.approx(tuple(plots.DPI * inches), abs=1)
    capped = imread(tmp_path / "capped.png")
    assert max(capped.shape[:2]) == 400
    assert len(np.unique(capped.reshape(-1, 4), axis=0)) > 50
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "capped.png",
        "full.png",
    ]
