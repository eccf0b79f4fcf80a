"""The report of experiments: tables, figures and one web page that can be sent."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from espnet_prune import __version__, keys
from espnet_prune.data.kaldi import read_columns
from espnet_prune.evaluation import documents, history, page, plots, tables
from espnet_prune.evaluation.documents import Block, Document
from espnet_prune.evaluation.history import Experiment, Row
from espnet_prune.evaluation.thresholds import NAME as THRESHOLDS
from espnet_prune.evaluation.thresholds import threshold_blocks
from espnet_prune.experiment import read_config

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = "report.html"
PAGE_DPI = 160
PIXELS_AN_INCH = 110  # width of figures on the page, for every resolution
MAX_CHARACTERS = 200  # longest setting on the page
# The folder is in the head of the column, and the tokens are those of the recipe.
NOT_COMPARED = ("output_dir", "token_list")


class Exhibit(NamedTuple):
    """A figure of the report, the name of its file and its caption."""

    name: str
    caption: str
    figure: "Figure"


class Model(NamedTuple):
    """One model of the report."""

    name: str  # name of its folder, after those above it if two are the same
    experiments: list[Experiment]  # one, or those of its two phases
    table: list[Row] | None  # thresholds of its decoder layers, if it is pruned
    exhibits: list[Exhibit]

    @property
    def last(self) -> Experiment:
        """Its only experiment, or phase 2."""
        return self.experiments[-1]

    @property
    def blocks(self) -> list[Block]:
        """Its settings and its table of thresholds, if it has one."""
        return [
            {"items": [describe(experiment) for experiment in self.experiments]},
            *([] if self.table is None else threshold_blocks(self.table)),
        ]


# File of decoded speech by test set, utterance and system.
Samples = dict[str, dict[str, dict[str, Path]]]


def describe(experiment: Experiment) -> str:
    """Return one line with the settings that the numbers of an experiment depend on."""
    if experiment.pruning == "none":
        return f"{experiment.folder}: no pruning"
    if experiment.pruning == "vanilla":
        return f"{experiment.folder}: vanilla pruning, threshold fixed at 1, no R"
    return (
        f"{experiment.folder}: differentiable pruning, phase {experiment.phase}, "
        f"R = {experiment.sparsity_ratio:g}, T = {experiment.temperature:g}, "
        f"threshold_scale = {experiment.threshold_scale:g}"
    )


def draw(experiments: Sequence[Experiment]) -> list[Exhibit]:
    """Draw every figure that the experiments have data for."""
    rows = history.join(experiments)
    found = []
    if experiments[-1].pruning != "none" and history.decoder_layers(rows):
        figure = plots.plot_layers(rows, keys.THRESHOLD)
        found.append(Exhibit(THRESHOLDS, "Threshold of each decoder layer.", figure))
        caption = "Connections and attention mass that the hard mask keeps."
        figure = plots.plot_layers(rows, keys.KEPT_SHARE, keys.KEPT_MASS)
        found.append(Exhibit("kept", caption, figure))
    caption = "Loss terms of training and validation."
    found.append(Exhibit("losses", caption, plots.plot_losses(rows)))
    phase1 = next((e for e in experiments if e.phase == 1), None)
    if phase1 is not None and phase1.sparsity_ratio is not None:
        figure = plots.plot_layers(
            phase1.rows, keys.SOFT_MEAN, target=phase1.sparsity_ratio
        )
        caption = "Mean soft mask of each decoder layer, which L_sp pulls towards R."
        found.append(Exhibit("soft_mean", caption, figure))
    return found


def name_models(models: Sequence[Sequence[Experiment]]) -> list[str]:
    """Return a name for each model: its last folder, and those above it if needed."""
    folders = [model[-1].folder.resolve() for model in models]
    for parts in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["_".join(folder.parts[-parts:]) for folder in folders]
        if len(set(names)) == len(names):
            break
    return names


def read(folders: Sequence[str | Path]) -> list[Model]:
    """Read experiment folders and draw their figures."""
    found = history.read_models(folders)
    models = []
    for name, experiments in zip(name_models(found), found, strict=True):
        pruned = experiments[-1].pruning != "none"
        table = history.threshold_rows(experiments) if pruned else None
        models.append(Model(name, experiments, table, draw(experiments)))
    return models


def write_model(folder: Path, model: Model) -> list[Path]:
    """Write the table of thresholds as Markdown, CSV and JSON, and the figures."""
    paths = []
    if model.table is not None:
        paths = [folder / f"{THRESHOLDS}.{kind}" for kind in ("md", "csv", "json")]
        document = Document("Thresholds", model.blocks)
        names = ("pruning", "phase", "sparsity_ratio", "temperature", "threshold_scale")
        settings = [
            {"folder": str(e.folder), **{name: getattr(e, name) for name in names}}
            for e in model.experiments
        ]
        tables.write_text(paths[0], documents.to_markdown(document))
        tables.write_csv(paths[1], model.table)
        content = {"experiments": settings, "layers": model.table}
        tables.write_json(paths[2], content)
    for name, _, figure in model.exhibits:
        paths.append(folder / f"{name}.png")
        plots.save(figure, paths[-1])
    return paths


def write(
    models: Sequence[Model],
    output_dir: str | Path,
    scores: Sequence[Path] = (),
    data_dirs: Sequence[Path] = (),
    samples: int = 4,
) -> list[Path]:
    """Write tables, figures and the page; return the files, the page first.

    ``models`` are those of ``read``, and the others are options of the verb. With
    several models, each has a folder in ``output_dir``.
    """
    pages = documents.read(scores)
    prompts = read_prompts(data_dirs)
    speech = lay_out_samples(find_samples(models), prompts, samples)
    settings = lay_out_settings(models)
    output_dir = Path(output_dir)
    paths, shown = [output_dir / PAGE], []
    for model in models:
        folder = output_dir / model.name if len(models) > 1 else output_dir
        paths += write_model(folder, model)
        figures = lay_out_figures(model, folder)
        shown.append({"name": model.name, "blocks": model.blocks, "figures": figures})
    text = page.render(
        PAGE,
        title=models[0].name if len(models) == 1 else f"Report of {len(models)} models",
        summary=lay_out_summary(models),
        comparison=compare(models),
        scores=pages,
        speech=speech,
        models=shown,
        settings=settings,
        version=__version__,
    )
    tables.write_text(paths[0], text)
    return paths


def lay_out_summary(models: Sequence[Model]) -> list[list[str]]:
    """Tabulate models with the length of their training and their losses."""
    losses = (keys.LOSS, keys.MEL_LOSS)
    rows = []
    for model in models:
        joined = history.join(model.experiments)
        valid = [row for row in model.last.rows if row["split"] == "valid"]
        row: Row = {"model": model.name, "pruning": model.last.pruning}
        row["R"] = model.last.sparsity_ratio
        row["epochs"], row["steps"] = joined[-1]["epoch"], joined[-1]["step"]
        row["hours"] = sum(each["seconds"] for each in joined) / 3600
        row.update({name: valid[-1].get(name) if valid else None for name in losses})
        rows.append(row)
    columns = [
        *tables.named("model", "pruning"),
        tables.Column("R", "R", "{:g}".format),
        *tables.named("epochs", "steps"),
        tables.Column("hours", "hours", tables.number),
    ]
    for name in losses:
        heading = f"{name.replace('_', ' ')} (validation)"
        columns.append(tables.Column(name, heading, "{:.4f}".format))
    return tables.grid(rows, columns)


def flatten(settings: dict[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Yield every setting under its full name, such as ``tts_conf.pruning``."""
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{above}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            yield f"{above}{name}", text


def lay_out_settings(models: Sequence[Model]) -> list[list[str]]:
    """Tabulate the settings in which experiments differ; [] if there are none."""
    experiments = [(model, e) for model in models for e in model.experiments]
    names = [
        f"{model.name}, phase {e.phase}" if len(model.experiments) > 1 else model.name
        for model, e in experiments
    ]
    configs = [dict(flatten(read_config(e.folder))) for _, e in experiments]
    lines = []
    for key in sorted(set().union(*configs)):
        values = [config.get(key) for config in configs]
        if key.split(".")[0] in NOT_COMPARED or len(set(values)) == 1:
            continue
        cells = [tables.NOT_THERE if v is None else v[:MAX_CHARACTERS] for v in values]
        lines.append([key, *cells])
    return [["setting", *names], *lines] if lines else []


def find_samples(models: Sequence[Model]) -> Samples:
    """Return the speech that ESPnet's decoding wrote, EXP/DECODED/TEST_SET/wav."""
    found: Samples = {}
    for model in models:
        for wav in sorted(model.last.folder.glob("*/*/wav/*.wav")):
            decoded, test_set = wav.parts[-4:-2]
            said = found.setdefault(test_set, {}).setdefault(wav.stem, {})
            said[f"{model.name}: {decoded}"] = wav
    return found


def read_prompts(folders: Sequence[Path]) -> dict[str, dict[str, str]]:
    """Read texts and references, ``text`` and ``wav.scp``."""
    prompts: dict[str, dict[str, str]] = {"text": {}, "wav.scp": {}}
    for folder in folders:
        for name, found in prompts.items():
            found.update(read_columns(folder / name))
    return prompts


def choose(systems: dict[str, int], number: int) -> list[str]:
    """Choose utterances that most systems have, from the whole test set.

    Sorted by name, utterances come speaker by speaker, often with the same sentences.
    The stride moves to another sentence with every speaker if possible.
    """
    ranked = sorted(systems, key=lambda name: (-systems[name], name))
    best = [name for name in ranked if systems[name] == systems[ranked[0]]]
    if len(best) <= number:
        return ranked[:number]
    stride = len(best) // max(1, number) + (number * (number - 1) < len(best))
    return best[::stride][:number]


def lay_out_samples(
    samples: Samples, prompts: dict[str, dict[str, str]], number: int
) -> list[dict[str, Any]]:
    """Lay out speech: a table per test set, a line per utterance."""
    found = []
    for test_set, utterances in samples.items():
        systems = list(dict.fromkeys(s for said in utterances.values() for s in said))
        lines = []
        counts = {name: len(said) for name, said in utterances.items()}
        for name in choose(counts, number):
            # a wav.scp may also have archives and commands, which are left out
            reference = Path(prompts["wav.scp"].get(name, ""))
            clips = [_clip(reference, f"{name}, reference")]
            clips += [_clip(utterances[name].get(s), f"{name}, {s}") for s in systems]
            text = prompts["text"].get(name, "")
            lines.append({"name": name, "text": text, "clips": clips})
        found.append({"name": test_set, "systems": systems, "lines": lines})
    return found


def _clip(path: Path | None, label: str) -> dict[str, str] | None:
    if path is None or not path.is_file():
        return None
    return {"label": label, "address": page.to_address(page.read_sound(path))}


def lay_out_figures(model: Model, folder: Path) -> list[dict[str, Any]]:
    """Return the figures of a model, and the attention maps in one of its reports."""
    found = [
        _figure(page.shrink(folder / f"{name}.png"), caption, figure)
        for name, caption, figure in model.exhibits
    ]
    folders = [folder, *(e.folder / "report" for e in model.experiments)]
    maps = {path.name: path for f in folders for path in f.glob("attention_*.png")}
    for name in sorted(maps):
        what = maps[name].stem.removeprefix("attention_")
        caption = f"Attention of the decoder in the synthesis of {what}."
        found.append(_figure(page.shrink(maps[name]), caption))
    return found


def _figure(png: bytes, caption: str, figure: "Figure | None" = None) -> dict[str, Any]:
    """Describe a picture for the page; its width gives all pictures equal letters."""
    width = figure and round(PIXELS_AN_INCH * figure.get_size_inches()[0])
    address = page.data_address("image/png", png)
    return {"caption": caption, "width": width, "address": address}


def compare(models: Sequence[Model]) -> dict[str, Any] | None:
    """Draw the mel loss of all models that have one; None for a single model."""
    joined = {model.name: history.join(model.experiments) for model in models}
    rows = {name: rows for name, rows in joined.items() if keys.MEL_LOSS in rows[-1]}
    if len(rows) < 2:
        return None
    figure = plots.plot_models(rows, keys.MEL_LOSS)
    caption = "Mel loss of the validation set."
    return _figure(plots.to_png(figure, PAGE_DPI), caption, figure)
