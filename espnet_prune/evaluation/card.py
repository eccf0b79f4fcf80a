"""The model card of an experiment, README.md of its archive and repository."""

import json
import re
import shlex
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from packaging.version import InvalidVersion, Version

from espnet_prune import __version__
from espnet_prune.config import parse_pruning
from espnet_prune.data.kaldi import read_columns
from espnet_prune.errors import UserError
from espnet_prune.evaluation import documents, page
from espnet_prune.evaluation.documents import Document
from espnet_prune.evaluation.tables import cell
from espnet_prune.evaluation.thresholds import read_thresholds
from espnet_prune.experiment import CONFIG, find_file, read_config
from espnet_prune.files import replace_when_written
from espnet_prune.loading import reading
from espnet_prune.speech.vocoder import GRIFFIN_LIM, NAMES, WEIGHTS

CARD = "README.md"
UNKNOWN = "to be filled in"
MODELS = {"stylespeech": "StyleSpeech", "pruned_fastspeech2": "FastSpeech2"}


def make_card(
    experiment: Path,
    tag: str | None = None,
    archive: Path | None = None,
    language: str = "noinfo",
    corpus: str = UNKNOWN,
    license: str = UNKNOWN,  # noqa: A002, the name of the option
    vocoder: str = GRIFFIN_LIM,
    text: str = "Hello, this is my voice.",
    plugin_url: str | None = None,
    scores: Sequence[Path] = (),
) -> str:
    """Return the model card; the options are those of ``espnet-prune card``."""
    config = read_config(experiment)
    if str(config.get("tts")) not in MODELS:
        raise UserError(
            f"{experiment} is a training of tts: {config.get('tts')}, not of "
            f"{' or '.join(MODELS)}; use ESPnet's own card"
        )
    name = experiment.resolve().name
    model = tag or (archive.name if archive else name)
    # the page and its JSON: results of an older version raise an error
    own = {file.parent for file in (experiment / "scores").rglob("*.md")}
    results = documents.read([*scores, *sorted(own)])
    thresholds = read_thresholds(experiment / "report")
    if thresholds:
        results.append(Document("Thresholds", thresholds))
    facts = {
        "library_name": "espnet",
        "pipeline_tag": "text-to-speech",
        "tags": ["espnet", "espnet_prune", "audio", "text-to-speech"],
        **({} if language == "noinfo" else {"language": language}),
        # the hub refuses words that are not in its list
        "license": "other" if license == UNKNOWN else license,
    }
    version = version_of(config)
    public = vocoder in NAMES
    return page.render(
        "card.md",
        facts=yaml.safe_dump(facts, sort_keys=False),
        title=cell(tag or name),
        model=MODELS[config["tts"]],
        pruning=describe_pruning(config),
        voice=describe_voice(config),
        install=install(config, vocoder, version, plugin_url),
        example=fence("python", example(config, model, vocoder, text)),
        plugin_version=version,
        espnet_version=cell(config.get("version", "of unknown version")),
        own_vocoder=None if public else cell(Path(vocoder).name),
        corpus=" ".join(corpus.split()) + training_data(experiment, config),
        results=[documents.to_markdown(result, level=3) for result in results],
        license=" ".join(license.split()),
        config=fence(
            "yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
        ),
    )


def fence(language: str, code: str) -> str:
    """Return code as a Markdown block; backticks in the code do not end it."""
    longest = max(map(len, re.findall("`+", code)), default=0)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}{language}\n{code.rstrip()}\n{ticks}"


def example(config: dict[str, Any], model: str, vocoder: str, text: str) -> str:
    """Return the code that loads the model and speaks a text."""
    conf = config.get("tts_conf") or {}
    arguments = [json.dumps(text, ensure_ascii=False)]
    imports = ["soundfile"]
    if takes_reference(config):
        arguments.append('speech="reference.wav"')
    # other inputs of a FastSpeech2 about the speaker; numbers count from 1
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


def install(config: dict[str, Any], vocoder: str, version: str, url: str | None) -> str:
    """Return how to install the plugin, with the extras that the model needs.

    No package index has the plugin: it comes from ``url``, or from its source.
    """
    extras = []
    if vocoder in WEIGHTS:
        extras.append("hifigan")
    if config.get("cleaner") == "tacotron" or str(config.get("g2p")).startswith("g2p_"):
        extras.append("g2p_en")
    names = f"[{','.join(extras)}]" if extras else ""
    if url is None:
        command = f"pip install {shlex.quote(f'.{names}')}"
        about = (
            f"In a copy of the source of `espnet_prune`, version {version} or newer:"
        )
        return f"{about}\n\n{fence('sh', command)}"
    if not re.fullmatch(r"[a-z+]+://[^\s;]+", url):
        raise UserError(
            f"--plugin_url {url!r} is not an address that pip takes; give one such as "
            "git+https://HOST/OWNER/NAME"
        )
    requirement = f"espnet_prune{names} @ {url}"
    return fence("sh", f"pip install {shlex.quote(requirement)}")


def version_of(config: dict[str, Any]) -> str:
    """Return the version of the plugin that trained the model; older ones refuse it."""
    found = (config.get("tts_conf") or {}).get("plugin_version") or __version__
    try:
        return str(Version(str(found)))
    except InvalidVersion:
        raise UserError(
            f"plugin_version {found!r} in config.yaml is not a version; put the one "
            "that trained the model there"
        ) from None


def takes_reference(config: dict[str, Any]) -> bool:
    """Return whether the voice is that of a recording."""
    conf = config.get("tts_conf") or {}
    return config["tts"] == "stylespeech" or bool(conf.get("use_gst"))


def describe_voice(config: dict[str, Any]) -> str:
    """Return a text about its voices and its sampling rate."""
    fs = (config.get("feats_extract_conf") or {}).get("fs")
    rate = f"at {cell(fs)} Hz" if fs else "at the sampling rate of its training data"
    if takes_reference(config):
        return (
            f"It speaks {rate}, in the voice of a reference recording of any sampling "
            "rate and number of channels (zero-shot)."
        )
    return f"It speaks {rate}, in voices that it was trained with."


def training_data(experiment: Path, config: dict[str, Any]) -> str:
    """Return the amount of training data, if the recipe's files still exist."""
    remedy = "restore it"
    config_file = experiment / CONFIG
    with reading(config_file, "the configuration of a training", remedy):
        names = {
            kind: path
            for path, kind, _ in config.get("train_data_path_and_name_and_type") or []
        }
        text = find_file(config_file, names.get("text", ""))
        shapes = [
            n for n in config.get("train_shape_file") or [] if "speech_shape" in n
        ]
        path = find_file(config_file, shapes[0]) if shapes else None
    if text is None:
        return ""
    utterances = read_columns(text)
    facts = [f"{len(utterances)} utterances"]
    speakers = text.with_name("utt2spk")
    if speakers.is_file():
        number = len(set(read_columns(speakers).values()))
        facts.append(f"{number} speaker" + "s" * (number != 1))
    fs = (config.get("feats_extract_conf") or {}).get("fs")
    if path is not None and isinstance(fs, int) and fs > 0:
        lengths = [
            line.split()[-1] for line in path.read_text(encoding="utf-8").splitlines()
        ]
        if all(length.isdigit() for length in lengths):  # samples, not features
            facts.append(f"{sum(map(int, lengths)) / fs / 3600:.2g} hours")
    return f" ({', '.join(facts)}; set {cell(text.parent.name)})"


def describe_pruning(config: dict[str, Any]) -> str:
    """Return a text that describes how the decoder was pruned."""
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


def put_into(archive: Path, card: str) -> None:
    """Make a text the only README.md at the top of an archive."""
    try:
        with (
            zipfile.ZipFile(archive) as old,
            replace_when_written(archive) as partial,
            zipfile.ZipFile(partial, "w") as new,
        ):
            for entry in old.infolist():
                if entry.filename != CARD:
                    with old.open(entry) as source, new.open(entry, "w") as target:
                        shutil.copyfileobj(source, target)
            new.writestr(CARD, card)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{archive} is not a zip archive ({error}); give that of the packing stage"
        ) from error
