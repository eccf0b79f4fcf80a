"""Report what training did to the thresholds: tables, figures and one web page.

python -m espnet_prune.cli.report EXP_PHASE1 EXP_PHASE2 --output_dir DIR
python -m espnet_prune.cli.report BASELINE EXP_PHASE1 EXP_PHASE2 --output_dir DIR \\
    --scores SCORES --data_dir DATA

DIR/report.html has all of it, the speech that was decoded included, and needs no other
file: it can be sent. Of several models, tables and figures go to DIR/MODEL.
"""

import argparse
import collections
import html
import json
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from matplotlib.figure import Figure

from espnet_prune import __version__
from espnet_prune.data.kaldi import read_columns
from espnet_prune.errors import UserError
from espnet_prune.evaluation import page, plots, tables
from espnet_prune.evaluation.history import (
    Experiment,
    Row,
    decoder_layers,
    join,
    read_config,
    read_models,
    threshold_rows,
)

PAGE = "report.html"
PAGE_DPI = 160
PIXELS_AN_INCH = 110  # of figures on the page, whatever resolution they have
MAX_CHARACTERS = 200  # of one setting on the page
# The folder heads the column, and the tokens are those of the recipe.
NOT_COMPARED = ("output_dir", "token_list")
COLUMNS = (
    tables.Column("phase", "phase"),
    tables.Column("epoch", "epoch"),
    tables.Column("layer", "layer"),
    tables.Column("threshold", "theta", tables.number),
    tables.Column("mean_soft_mask", "mean soft mask", tables.number),
    tables.Column("kept_share", "kept share", tables.percent),
    tables.Column("kept_mass", "kept mass", tables.percent),
)
LEGEND = """\
theta: threshold in multiples of the uniform attention weight 1/N.
mean soft mask: what L_sp pulls towards R; no share of connections.
kept share, kept mass: connections, and attention probability, that the hard mask
keeps; after phase 1, what it would keep.
Measured on the validation set after the last epoch of each phase.
"""


class Exhibit(NamedTuple):
    """A figure of the report, the name of its file and what it shows."""

    name: str
    caption: str
    figure: Figure


class Model(NamedTuple):
    """One model of the report.

    Attributes:
        name: Of its folder, or as much of the path as tells it from the others.
        experiments: Its only one, or those of its two phases.
        table: Thresholds of its decoder layers; None if nothing is pruned.
        exhibits: Its figures.

    """

    name: str
    experiments: List[Experiment]
    table: Optional[List[Row]]
    exhibits: List[Exhibit]


class Sample(NamedTuple):
    """Decoded speech: which test set and utterance, by what, and its file."""

    test_set: str
    utterance: str
    system: str
    path: Path


def get_parser() -> argparse.ArgumentParser:
    """Get argument parser."""
    parser = argparse.ArgumentParser(
        description="Report thresholds and what they keep, per decoder layer and "
        "phase, as tables, figures and one web page",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "experiments",
        nargs="+",
        metavar="EXP",
        help="Experiment folders; of a model that was trained in two phases, phase 1 "
        "and behind it phase 2",
    )
    parser.add_argument(
        "--output_dir", required=True, help="Folder to write tables and figures to"
    )
    parser.add_argument(
        "--axis",
        default="step",
        choices=sorted(plots.AXES),
        help="What the figures show time in",
    )
    parser.add_argument(
        "--scores",
        nargs="*",
        type=Path,
        default=[],
        metavar="DIR",
        help="Folders that bin.score or bin.listening_test collect wrote; their "
        "tables become part of the page",
    )
    parser.add_argument(
        "--data_dir",
        nargs="*",
        type=Path,
        default=[],
        metavar="DATA",
        help="Kaldi folders of the test sets: the page shows text and reference "
        "beside the speech",
    )
    parser.add_argument(
        "--samples",
        type=int,
        default=4,
        help="Utterances of each test set whose speech the page has",
    )
    return parser


def describe(experiment: Experiment) -> str:
    """Name the settings that the numbers of an experiment depend on, in one line."""
    if experiment.pruning == "none":
        return f"{experiment.folder}: no pruning"
    if experiment.pruning == "vanilla":
        return f"{experiment.folder}: vanilla pruning, theta fixed at 1, no R"
    return (
        f"{experiment.folder}: differentiable pruning, phase {experiment.phase}, "
        f"R = {experiment.sparsity_ratio:g}, T = {experiment.temperature:g}, "
        f"threshold_scale = {experiment.threshold_scale:g}"
    )


def exhibits(experiments: Sequence[Experiment], axis: str = "step") -> List[Exhibit]:
    """Draw every figure that the experiments have data for."""
    rows = join(experiments)
    found = []
    if experiments[-1].pruning != "none" and decoder_layers(rows):
        found += [
            Exhibit(
                "thresholds",
                "Threshold of each decoder layer.",
                plots.plot_thresholds(rows, axis),
            ),
            Exhibit(
                "kept",
                "Connections and attention mass that the hard mask keeps.",
                plots.plot_kept(rows, axis),
            ),
        ]
    found.append(
        Exhibit(
            "losses",
            "Loss terms of training and validation.",
            plots.plot_losses(rows, axis),
        )
    )
    phase1 = next((e for e in experiments if e.phase == 1), None)
    if phase1 is not None:
        figure = plots.plot_soft_mean(phase1.rows, phase1.sparsity_ratio, axis)
        caption = "Mean soft mask of each decoder layer, which L_sp pulls towards R."
        found.append(Exhibit("soft_mean", caption, figure))
    return found


def name_models(models: Sequence[Sequence[Experiment]]) -> List[str]:
    """Name each model by its last folder, and by those above it where needed."""
    folders = [model[-1].folder.resolve() for model in models]
    for parts in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["_".join(folder.parts[-parts:]) for folder in folders]
        if len(set(names)) == len(names):
            break
    return names


# --------------------------------------------------------------------------- files


def write_thresholds(
    output_dir: Path, experiments: Sequence[Experiment], table: List[Row]
) -> List[Path]:
    """Write the table of thresholds as Markdown, CSV and JSON."""
    paths = [output_dir / f"thresholds.{kind}" for kind in ("md", "csv", "json")]
    settings: List[Dict[str, Optional[object]]] = [
        {
            "folder": str(experiment.folder),
            "pruning": experiment.pruning,
            "phase": experiment.phase,
            "sparsity_ratio": experiment.sparsity_ratio,
            "temperature": experiment.temperature,
            "threshold_scale": experiment.threshold_scale,
        }
        for experiment in experiments
    ]
    lines = "".join(f"- {describe(experiment)}\n" for experiment in experiments)
    tables.write_text(
        paths[0],
        f"# Thresholds\n\n{lines}\n{tables.markdown(table, COLUMNS)}\n{LEGEND}",
    )
    tables.write_csv(paths[1], table)
    tables.write_json(paths[2], {"experiments": settings, "layers": table})
    return paths


def write_model(output_dir: Path, model: Model) -> List[Path]:
    """Write tables and figures of one model."""
    tables.make_output_dir(output_dir)
    paths = []
    if model.table is not None:
        paths += write_thresholds(output_dir, model.experiments, model.table)
    for name, _, figure in model.exhibits:
        paths.append(output_dir / f"{name}.png")
        plots.save(figure, paths[-1])
    return paths


# ------------------------------------------------------------------------ the page


def summary(models: Sequence[Model]) -> str:
    """Tabulate what was trained for how long, and how far it came."""
    losses = ("loss", "mel_loss")
    rows = []
    for model in models:
        last = model.experiments[-1]
        joined = join(model.experiments)
        valid = [row for row in last.rows if row["split"] == "valid"]
        row = {"model": model.name, "pruning": last.pruning, "R": last.sparsity_ratio}
        row["epochs"] = joined[-1]["epoch"]
        row["steps"] = joined[-1]["step"]
        row["hours"] = sum(each["seconds"] for each in joined) / 3600
        row.update({name: valid[-1].get(name) if valid else None for name in losses})
        rows.append(row)
    columns = [tables.Column(name, name) for name in ("model", "pruning")]
    columns.append(tables.Column("R", "R", "{:g}".format))
    columns += [tables.Column(name, name) for name in ("epochs", "steps")]
    columns.append(tables.Column("hours", "hours", tables.number))
    for name in losses:
        heading = f"{name.replace('_', ' ')} (validation)"
        columns.append(tables.Column(name, heading, "{:.4f}".format))
    return page.from_markdown(tables.markdown(rows, columns))


def flatten(settings: Dict[str, Any], above: str = "") -> Iterator[Tuple[str, str]]:
    """Yield every setting under its full name, such as ``tts_conf.pruning``."""
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{above}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            yield f"{above}{name}", text


def differences(experiments: Sequence[Experiment], names: Sequence[str]) -> str:
    """Tabulate the settings in which experiments differ; empty if there are none.

    Args:
        experiments: What is compared.
        names: Headings of their columns.

    """
    configs = [dict(flatten(read_config(e.folder))) for e in experiments]
    keys = sorted(set().union(*configs))
    lines = []
    for key in keys:
        values = [config.get(key) for config in configs]
        if key.split(".")[0] in NOT_COMPARED or len(set(values)) == 1:
            continue
        cells = [tables.NOT_THERE if v is None else v[:MAX_CHARACTERS] for v in values]
        lines.append([html.escape(cell) for cell in (key, *cells)])
    heading = ["setting", *map(html.escape, names)]
    return page.table(heading, lines) if lines else ""


def find_samples(models: Sequence[Model]) -> List[Sample]:
    """List the speech that ESPnet's decoding left, EXP/DECODED/TEST_SET/wav."""
    return [
        Sample(
            wav.parent.parent.name,
            wav.stem,
            f"{model.name}: {wav.parent.parent.parent.name}",
            wav,
        )
        for model in models
        for wav in sorted(model.experiments[-1].folder.glob("*/*/wav/*.wav"))
    ]


def read_prompts(folders: Sequence[Path]) -> Dict[str, Dict[str, str]]:
    """Read what was to be said and in whose voice, ``text`` and ``wav.scp``.

    Raises:
        UserError: A file is missing, empty or something else.

    """
    prompts: Dict[str, Dict[str, str]] = {"text": {}, "wav.scp": {}}
    for folder in folders:
        for name, found in prompts.items():
            found.update(read_columns(folder / name))
    return prompts


def choose(systems: Dict[str, int], number: int) -> List[str]:
    """Choose utterances that the most systems have, from all over the test set.

    Sorted by name they come speaker by speaker, often each with the same sentences: the
    stride passes on to another sentence with every speaker if there is room for it.

    Args:
        systems: How many systems have each utterance.
        number: Of utterances.

    """
    ranked = sorted(systems, key=lambda name: (-systems[name], name))
    best = [name for name in ranked if systems[name] == systems[ranked[0]]]
    if len(best) <= number:
        return ranked[:number]
    stride = len(best) // max(1, number) + (number * (number - 1) < len(best))
    return best[::stride][:number]


def show_samples(
    samples: Sequence[Sample], prompts: Dict[str, Dict[str, str]], number: int
) -> str:
    """Lay out the speech: a table a test set, a line an utterance, a column a system.

    Args:
        samples: What there is.
        prompts: Of ``read_prompts``.
        number: Utterances of each test set.

    """
    parts = []
    for test_set in dict.fromkeys(sample.test_set for sample in samples):
        own = [sample for sample in samples if sample.test_set == test_set]
        systems = list(dict.fromkeys(sample.system for sample in own))
        paths = {(sample.utterance, sample.system): sample.path for sample in own}
        chosen = choose(collections.Counter(s.utterance for s in own), number)
        lines = []
        for name in chosen:
            text = prompts["text"].get(name, "")
            cells = [f"<b>{html.escape(name)}</b><br>{html.escape(text)}"]
            reference = Path(prompts["wav.scp"].get(name, ""))
            # archives and commands, which a wav.scp may have too, are left out
            if reference.is_file():
                cells.append(page.player(reference, f"{name}, reference"))
            else:
                cells.append(tables.NOT_THERE)
            for system in systems:
                path = paths.get((name, system))
                cells.append(
                    page.player(path, f"{name}, {system}") if path else tables.NOT_THERE
                )
            lines.append(cells)
        heading = ["utterance", "reference", *map(html.escape, systems)]
        parts.append(f"<h3>{html.escape(test_set)}</h3>\n")
        parts.append(page.table(heading, lines))
    return "".join(parts)


def attention_maps(model: Model, output_dir: Path) -> List[Path]:
    """List the figures that bin.plot_attention left, in a report of the model."""
    folders = [output_dir, *(e.folder / "report" for e in model.experiments)]
    found = {path.name: path for f in folders for path in f.glob("attention_*.png")}
    return [found[name] for name in sorted(found)]


def width_of(figure: Figure) -> int:
    """Give the width of a figure on the page, in pixels, so that letters are alike."""
    return round(PIXELS_AN_INCH * figure.get_size_inches()[0])


def show_model(model: Model, folder: Path) -> str:
    """Lay out the part of one model: settings, thresholds, figures of its folder."""
    parts = [f"<h2>{html.escape(model.name)}</h2>\n"]
    lines = "\n".join(f"- {describe(experiment)}" for experiment in model.experiments)
    parts.append(page.from_markdown(lines))
    if model.table is not None:
        text = f"{tables.markdown(model.table, COLUMNS)}\n{LEGEND}"
        parts.append(page.from_markdown(text))
    for name, caption, figure in model.exhibits:
        png = page.shrink(folder / f"{name}.png")
        parts.append(page.picture(png, caption, width_of(figure)))
    for path in attention_maps(model, folder):
        name = path.stem.removeprefix("attention_")
        caption = f"Attention of the decoder in the synthesis of {name}."
        parts.append(page.picture(page.shrink(path), caption))
    return "".join(parts)


def compare(models: Sequence[Model], axis: str) -> str:
    """Draw the mel loss of all models that have one; empty if it is one model."""
    joined = {model.name: join(model.experiments) for model in models}
    rows = {name: rows for name, rows in joined.items() if "mel_loss" in rows[-1]}
    if len(rows) < 2:
        return ""
    figure = plots.plot_models(rows, "mel_loss", axis)
    caption = "Mel loss of the validation set."
    return page.picture(plots.to_png(figure, PAGE_DPI), caption, width_of(figure))


def show_settings(models: Sequence[Model]) -> str:
    """Lay out the settings in which the experiments differ, if they do."""
    experiments = [e for model in models for e in model.experiments]
    names = [
        f"{model.name}, phase {e.phase}" if len(model.experiments) > 1 else model.name
        for model in models
        for e in model.experiments
    ]
    settings = differences(experiments, names)
    return f"<h2>Settings that differ</h2>\n{settings}" if settings else ""


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Read the experiments, write and print the report."""
    args = get_parser().parse_args(cmd)
    if args.samples < 0:
        raise UserError(f"--samples is {args.samples}; choose 0 or more")
    read = read_models(args.experiments)
    models = [
        Model(
            name,
            experiments,
            # refuses what has no validation, before writing
            None if experiments[-1].pruning == "none" else threshold_rows(experiments),
            exhibits(experiments, args.axis),
        )
        for name, experiments in zip(name_models(read), read)
    ]
    # what can be at fault comes before anything is written
    scores = "".join(map(page.from_markdown, tables.read_markdown(args.scores)))
    prompts = read_prompts(args.data_dir)
    speech = show_samples(find_samples(models), prompts, args.samples)
    settings = show_settings(models)
    output_dir = tables.make_output_dir(args.output_dir)
    folders = [output_dir / model.name for model in models]
    if len(models) == 1:
        folders = [output_dir]
    paths = [output_dir / PAGE]
    for model, folder in zip(models, folders):
        paths += write_model(folder, model)
    body = [
        summary(models),
        compare(models, args.axis),
        f"<h2>Scores</h2>\n{scores}" if scores else "",
        f"<h2>Speech</h2>\n{speech}" if speech else "",
        *map(show_model, models, folders),
        settings,
        f"<p>Made by espnet_prune {__version__}.</p>\n",
    ]
    title = models[0].name if len(models) == 1 else f"Report of {len(models)} models"
    tables.write_text(paths[0], page.whole(title, "".join(body)))
    for model in models:
        for experiment in model.experiments:
            print(describe(experiment))
        print()
        if model.table is not None:
            print(tables.markdown(model.table, COLUMNS))
    print(LEGEND)
    print("Written:")
    for path in paths:
        print(f"  {path}")
