"""Draw what the decoder attends to in the synthesis of one utterance.

python -m espnet_prune.cli.attention EXP [EXP ...] --data_dir DATA --output_dir DIR

DATA is a Kaldi folder of a zero-shot test set: ``text`` is what to say, ``wav.scp``
the recording in whose voice to say it. Several experiments are drawn below one another.
"""

import argparse
import textwrap
from pathlib import Path
from typing import Optional, Sequence, Tuple

from espnet_prune.attention import record_attention
from espnet_prune.data.kaldi import read_columns
from espnet_prune.errors import UserError
from espnet_prune.evaluation import plots, tables
from espnet_prune.speech.reference import read_speaker
from espnet_prune.speech.synthesis import Text2Speech


def get_parser() -> argparse.ArgumentParser:
    """Get argument parser."""
    parser = argparse.ArgumentParser(
        description="Draw attention maps before and after the mask for one utterance",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "experiments", nargs="+", metavar="EXP", help="Experiment folder of a model"
    )
    parser.add_argument(
        "--inference_model",
        default="train.loss.ave.pth",
        help="File of the model in each experiment folder",
    )
    parser.add_argument(
        "--data_dir", required=True, help="Kaldi folder with text and wav.scp"
    )
    parser.add_argument(
        "--key", help="Utterance of the data folder; its first one if not given"
    )
    parser.add_argument(
        "--spembs", help="scp file of speaker embeddings, for models that use them"
    )
    parser.add_argument(
        "--output_dir", required=True, help="Folder to write attention_KEY.png to"
    )
    return parser


def read_utterance(data_dir: Path, key: Optional[str] = None) -> Tuple[str, str, str]:
    """Look one utterance up in a Kaldi folder.

    Args:
        data_dir: Folder with ``text`` and ``wav.scp``.
        key: Its name; the first one if not given.

    Returns:
        Name, text and the file of the reference.

    Raises:
        UserError: A file or the utterance is missing.

    """
    texts = read_columns(data_dir / "text")
    references = read_columns(data_dir / "wav.scp")
    both = [name for name in texts if name in references]
    if not both or (key is not None and key not in both):
        raise UserError(
            f"{data_dir} has not both text and wav.scp of {key or 'any utterance'}; "
            "choose another --key or --data_dir"
        )
    key = both[0] if key is None else key
    return key, texts[key], references[key]


def record_panel(
    experiment: Path,
    inference_model: str,
    data_dir: Path,
    key: str,
    spembs: Optional[str] = None,
) -> plots.AttentionPanel:
    """Synthesise one utterance and keep the attention of the decoder.

    Args:
        experiment: Folder of the model.
        inference_model: Its file there.
        data_dir: Kaldi folder with what to say and in whose voice.
        key: Utterance of it.
        spembs: scp file of speaker embeddings, if the model uses them.

    Raises:
        UserError: See ``Text2Speech`` and ``read_speaker``.

    """
    text2speech = Text2Speech.from_pretrained(experiment, model_file=inference_model)
    text2speech.vocoder = None  # the mel is enough
    _, text, reference = read_utterance(data_dir, key)
    voice = read_speaker(text2speech, data_dir, key, spembs)
    if text2speech.use_speech:
        voice["speech"] = reference
    tokens = text2speech.tokenize(text, max_characters=None)  # one map, not parts
    with record_attention(text2speech.tts.decoder) as layers:
        text2speech(tokens, **voice)
    attentions = text2speech.tts.decoder_attentions
    first = attentions[0]
    if first.pruning == "none":
        return plots.AttentionPanel(
            f"{experiment.name}: dense", layers, [None] * len(layers)
        )
    if first.pruning == "vanilla":
        what = "vanilla pruning"
    else:
        what = f"phase {first.pruning_conf.phase}"
    kind = first.pruning_conf.synthesis_mask(first.pruning)
    return plots.AttentionPanel(
        f"{experiment.name}: {what}, {kind} mask",
        layers,
        [attention.threshold.item() for attention in attentions],
    )


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Synthesise with every model, draw and write the figure."""
    args = get_parser().parse_args(cmd)
    data_dir = Path(args.data_dir)
    key, text, _ = read_utterance(data_dir, args.key)
    panels = [
        record_panel(Path(experiment), args.inference_model, data_dir, key, args.spembs)
        for experiment in args.experiments
    ]
    title = f"{key}: {textwrap.shorten(text, 80, placeholder=' ...')}"
    figure = plots.plot_attention(panels, title)
    path = (
        tables.make_output_dir(args.output_dir)
        / f"attention_{key.replace('/', '_')}.png"
    )
    plots.save(figure, path)
    for panel in panels:
        frames = panel.layers[0].dense.size(-1)
        thetas = " ".join(
            "-" if t is None else tables.number(t) for t in panel.thresholds
        )
        print(f"{panel.title}, N = {frames} frames, theta of the layers: {thetas}")
    print(f"Written: {path}")
