"""Write the model card of an experiment, README.md of its archive and repository.

python -m espnet_prune.cli.card EXP --archive EXP/MODEL.zip
python -m espnet_prune.cli.card EXP --tag OWNER/NAME --output REPOSITORY/README.md

What only people know, such as the licence, is asked for by options; the card says
"to be filled in" where none was given.
"""

import argparse
import json
import os
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import yaml

from espnet_prune import __version__
from espnet_prune.config import parse_pruning
from espnet_prune.errors import UserError
from espnet_prune.evaluation import tables
from espnet_prune.evaluation.history import read_config
from espnet_prune.files import replace_when_written
from espnet_prune.speech.vocoder import GRIFFIN_LIM, NAMES, WEIGHTS

CARD = "README.md"
UNKNOWN = "to be filled in"
MODELS = {
    "stylespeech": "StyleSpeech",
    "pruned_fastspeech2": "FastSpeech2",
}
PLUGIN_FIRST = (
    "`import espnet_prune` comes first: ESPnet by itself does not know this model and "
    "would say `--tts must be one of ...`."
)
CITATIONS = """\
```bibtex
@inproceedings{yoon23_interspeech,
  author    = {Yoon, Hyungchan and Kim, Changhwan and Song, Eunwoo and
               Yoon, Hyun-Wook and Kang, Hong-Goo},
  title     = {Pruning Self-Attention for Zero-Shot Multi-Speaker Text-to-Speech},
  booktitle = {Proc. Interspeech},
  year      = {2023},
  doi       = {10.21437/Interspeech.2023-1301},
}
```

Please cite ESPnet as well: <https://github.com/espnet/espnet#citations>.
"""


def get_parser() -> argparse.ArgumentParser:
    """Get argument parser."""
    parser = argparse.ArgumentParser(
        description="Write the model card of an experiment",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "experiment", type=Path, metavar="EXP", help="Folder of the model"
    )
    parser.add_argument(
        "--tag",
        help="What the model is called where it is uploaded, OWNER/NAME; without it "
        "the card loads the archive",
    )
    parser.add_argument(
        "--archive",
        type=Path,
        metavar="ZIP",
        help="Archive of the packing stage, to put the card in",
    )
    parser.add_argument(
        "--output", type=Path, help=f"File of the card, EXP/{CARD} if not given"
    )
    parser.add_argument("--language", default="noinfo", help="Language code")
    parser.add_argument(
        "--corpus", default=UNKNOWN, help="What the model was trained with"
    )
    parser.add_argument(
        "--license", default=UNKNOWN, help="Of the weights, for instance cc-by-4.0"
    )
    parser.add_argument(
        "--vocoder", default=GRIFFIN_LIM, help="Of the example, for instance hifigan"
    )
    parser.add_argument(
        "--text", default="Hello, this is my voice.", help="What the example says"
    )
    parser.add_argument(
        "--plugin_url",
        help="Where pip finds the plugin, for instance git+https://HOST/OWNER/NAME; "
        "without it, by its name",
    )
    parser.add_argument(
        "--scores",
        nargs="*",
        type=Path,
        default=[],
        metavar="DIR",
        help="Folders that bin.score or bin.listening_test collect wrote, beside those "
        "in EXP/scores",
    )
    return parser


def head(args: argparse.Namespace) -> str:
    """Write what Hugging Face reads of a card."""
    facts = {
        "library_name": "espnet",
        "pipeline_tag": "text-to-speech",
        "tags": ["espnet", "espnet_prune", "audio", "text-to-speech"],
        # ESPnet's pipeline calls a language that nobody named noinfo
        **({} if args.language == "noinfo" else {"language": args.language}),
        # the hub refuses words that are not in its list
        "license": "other" if args.license == UNKNOWN else args.license,
    }
    return f"---\n{yaml.safe_dump(facts, sort_keys=False)}---\n"


def example(config: Dict[str, Any], model: str, vocoder: str, text: str) -> str:
    """Write the code that loads the model and says something.

    Args:
        config: Of the training.
        model: Tag or archive.
        vocoder: Of the example; those without public weights are left out.
        text: What to say.

    """
    conf = config.get("tts_conf") or {}
    arguments = [json.dumps(text, ensure_ascii=False)]
    imports = ["soundfile"]
    if takes_reference(config):
        arguments.append('speech="reference.wav"')
    # what else a FastSpeech2 may have been told of a speaker; numbers count from 1
    if conf.get("spks"):
        arguments.append("sids=torch.tensor([1])")
    if conf.get("langs"):
        arguments.append("lids=torch.tensor([1])")
    if conf.get("spk_embed_dim"):
        arguments.append('spembs=torch.load("speaker_embedding.pt")')
    if any("torch" in argument for argument in arguments):
        imports.append("torch")
    options = f", vocoder={json.dumps(vocoder)}" if vocoder in WEIGHTS else ""
    lines = [
        "import espnet_prune  # registers the model with ESPnet",
        *(f"import {name}" for name in imports),
        "",
        "text2speech = espnet_prune.Text2Speech.from_pretrained(",
        f"    {json.dumps(model, ensure_ascii=False)}{options}",
        ")",
        f'wav = text2speech({", ".join(arguments)})["wav"]',
        'soundfile.write("out.wav", wav.cpu().numpy(), text2speech.fs)',
    ]
    return "\n".join(lines)


def own_vocoder(vocoder: str) -> List[str]:
    """Tell of a vocoder that is nobody else's."""
    if vocoder in NAMES:
        return []
    return [
        f"It was decoded with a vocoder, `{Path(vocoder).name}`, that is not in the "
        "archive: without it (`vocoder=`) the example speaks by Griffin-Lim."
    ]


def requirements(config: Dict[str, Any], vocoder: str, url: Optional[str]) -> str:
    """Name the package, with the extras and the version or place it needs."""
    extras = []
    if vocoder in WEIGHTS:
        extras.append("hifigan")
    if "tacotron" == config.get("cleaner") or str(config.get("g2p")).startswith("g2p_"):
        extras.append("g2p_en")
    names = f"[{','.join(extras)}]" if extras else ""
    return f"espnet_prune{names}" + (f" @ {url}" if url else f">={version_of(config)}")


def version_of(config: Dict[str, Any]) -> str:
    """Give the version of the plugin that trained the model; older ones refuse it."""
    return (config.get("tts_conf") or {}).get("plugin_version") or __version__


def takes_reference(config: Dict[str, Any]) -> bool:
    """Whether the voice is that of a recording."""
    conf = config.get("tts_conf") or {}
    return config["tts"] == "stylespeech" or bool(conf.get("use_gst"))


def describe_voice(config: Dict[str, Any]) -> str:
    """Say whose voice it is, and at which sampling rate it speaks."""
    fs = (config.get("feats_extract_conf") or {}).get("fs")
    rate = f"at {fs} Hz" if fs else "at the sampling rate of its training data"
    if takes_reference(config):
        return (
            f"It speaks {rate}, in the voice of a reference recording of any sampling "
            "rate and number of channels (zero-shot)."
        )
    return f"It speaks {rate}, in voices that it was trained with."


def find_file(experiment: Path, name: str) -> Optional[Path]:
    """Find a file that config.yaml names relative to the recipe, above the folder."""
    above = Path(os.path.abspath(experiment)).parents
    return next((base / name for base in above if (base / name).is_file()), None)


def training_data(experiment: Path, config: Dict[str, Any]) -> str:
    """Say how much was trained with, as far as the recipe's files still tell."""
    names = {
        kind: path
        for path, kind, _ in config.get("train_data_path_and_name_and_type") or []
    }
    text = find_file(experiment, names.get("text", ""))
    if text is None:
        return ""
    utterances = text.read_text(encoding="utf-8").splitlines()
    facts = [f"{len(utterances)} utterances"]
    speakers = text.with_name("utt2spk")
    if speakers.is_file():
        lines = speakers.read_text(encoding="utf-8").splitlines()
        number = len({line.split()[1] for line in lines})
        facts.append(f"{number} speaker" + "s" * (number != 1))
    shapes = [
        name for name in config.get("train_shape_file") or [] if "speech_shape" in name
    ]
    path = find_file(experiment, shapes[0]) if shapes else None
    fs = (config.get("feats_extract_conf") or {}).get("fs")
    if path is not None and isinstance(fs, int):
        lengths = [
            line.split()[1] for line in path.read_text(encoding="utf-8").splitlines()
        ]
        if all(length.isdigit() for length in lengths):  # samples, not features
            facts.append(f"{sum(map(int, lengths)) / fs / 3600:.2g} hours")
    return f" ({', '.join(facts)}; set `{text.parent.name}`)"


def describe_pruning(config: Dict[str, Any]) -> str:
    """Say in words how the decoder was pruned."""
    conf = config.get("tts_conf") or {}
    kind = conf.get("pruning") or "none"
    if kind == "none":
        return "its self-attention is not pruned (a baseline)"
    if kind == "vanilla":
        return "the self-attention of its decoder is pruned by fixed thresholds"
    settings = parse_pruning(kind, conf.get("pruning_conf"))
    return (
        "the self-attention of its decoder is pruned by learned thresholds, "
        f"R = {settings.sparsity_ratio:g}, phase {settings.phase}"
    )


def write_card(args: argparse.Namespace) -> str:
    """Put the card together."""
    config = read_config(args.experiment)
    if config.get("tts") not in MODELS:
        raise UserError(
            f"{args.experiment} is a training of tts: {config.get('tts')}, not of "
            f"{' or '.join(MODELS)}; ESPnet's own card will do"
        )
    name = args.experiment.resolve().name
    model = args.tag or (args.archive.name if args.archive else name)
    own = {file.parent for file in (args.experiment / "scores").rglob("*.md")}
    scores = [*args.scores, *sorted(own)]
    parts = [
        head(args) + PLUGIN_FIRST,
        f"# {args.tag or name}",
        f"Text-to-speech: a {MODELS[config['tts']]} of "
        "[ESPnet](https://github.com/espnet/espnet) and its plugin `espnet_prune`; "
        f"{describe_pruning(config)}. {describe_voice(config)}",
        "## Use",
        "```sh\n"
        f'pip install "{requirements(config, args.vocoder, args.plugin_url)}"\n'
        "```",
        f"```python\n{example(config, model, args.vocoder, args.text)}\n```",
        f"It needs espnet_prune {version_of(config)} or newer, and was trained with "
        f"ESPnet {config.get('version', 'of unknown version')}. ESPnet's own "
        "`espnet2.bin.tts_inference.Text2Speech` loads it too, once `espnet_prune` is "
        "imported.",
        *own_vocoder(args.vocoder),
        "## Training data",
        f"{args.corpus}{training_data(args.experiment, config)}",
        "## Results",
    ]
    # their headings are parts of the card's
    parts += [
        re.sub(r"^#", "###", text.strip(), flags=re.MULTILINE)
        for text in tables.read_markdown(scores)
    ] or ["Not scored."]
    thresholds = args.experiment / "report" / "thresholds.md"
    if thresholds.is_file():
        parts += read_thresholds(thresholds)
    parts += [
        "## Licence and voices",
        f"Licence of the weights: {args.license}. The voices are other people's: clone "
        "them only with their consent, and say that the speech is synthetic.",
        "## Configuration",
        "<details><summary>config.yaml of the training</summary>\n\n```yaml\n"
        f"{yaml.safe_dump(config, sort_keys=False, allow_unicode=True)}```\n\n"
        "</details>",
        "## Citation",
        CITATIONS,
    ]
    return "\n\n".join(parts)


def read_thresholds(file: Path) -> List[str]:
    """Read the table of thresholds without the folders of whoever trained."""
    text = file.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith(("- ", "# "))]
    return ["### Thresholds", "\n".join(lines).strip()]


def put_into(archive: Path, card: str) -> None:
    """Make a text the only README.md at the top of an archive.

    Raises:
        UserError: It is no zip.

    """
    try:
        with zipfile.ZipFile(archive) as old:
            entries = [entry for entry in old.infolist() if entry.filename != CARD]
            with replace_when_written(archive) as partial:
                with zipfile.ZipFile(partial, "w") as new:
                    for entry in entries:
                        with old.open(entry) as source:
                            with new.open(entry, "w") as target:
                                shutil.copyfileobj(source, target)
                    new.writestr(CARD, card)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{archive} is no zip archive ({error}); give that of the packing stage"
        ) from error


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Write the card, and put it into the archive if there is one."""
    args = get_parser().parse_args(cmd)
    card = write_card(args)
    output = args.output or args.experiment / CARD
    if output.is_dir():
        raise UserError(f"--output {output} is a folder; name a file")
    tables.make_output_dir(output.parent)
    if args.archive is not None:
        put_into(args.archive, card)
        print(f"{CARD} in {args.archive}")
    tables.write_text(output, card)
    print(output)
