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
from espnet_prune.speech.vocoder import NAMES, WEIGHTS

CARD = "README.md"
UNKNOWN = "to be filled in"
MODELS = {"stylespeech": "StyleSpeech", "pruned_fastspeech2": "FastSpeech2"}


def make_card(
    experiment: Path,
    tag: str | None,
    archive: Path | None,
    language: str,
    corpus: str,
    license: str,  # noqa: A002, the name of the option
    vocoder: str,
    text: str,
    plugin_url: str | None,
    scores: Sequence[Path],
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
    conf = config.get("tts_conf") or {}
    pruning = conf.get("pruning") or "none"
    takes_reference = config["tts"] == "stylespeech" or bool(conf.get("use_gst"))
    return page.render(
        "card.md",
        facts=yaml.safe_dump(facts, sort_keys=False),
        title=cell(tag or name),
        model=MODELS[config["tts"]],
        pruning=pruning,
        pruning_conf=parse_pruning(pruning, conf.get("pruning_conf")),
        takes_reference=takes_reference,
        fs=cell((config.get("feats_extract_conf") or {}).get("fs") or ""),
        requirement=requirement(config, vocoder, plugin_url),
        source=plugin_url is None,
        name=json.dumps(model, ensure_ascii=False),
        vocoder=json.dumps(vocoder) if vocoder in WEIGHTS else None,
        arguments=example_arguments(conf, takes_reference, text),
        plugin_version=version_of(config),
        espnet_version=cell(config.get("version", "of unknown version")),
        own_vocoder=None if vocoder in NAMES else cell(Path(vocoder).name),
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


def example_arguments(
    conf: dict[str, Any], takes_reference: bool, text: str
) -> list[str]:
    """Return the arguments with which the example speaks a text."""
    arguments = [json.dumps(text, ensure_ascii=False)]
    if takes_reference:
        arguments.append('speech="reference.wav"')
    # other inputs of a FastSpeech2 about the speaker; numbers count from 1
    if conf.get("spks"):
        arguments.append("sids=torch.tensor([1])")
    if conf.get("langs"):
        arguments.append("lids=torch.tensor([1])")
    if conf.get("spk_embed_dim"):
        arguments.append('spembs=torch.load("speaker_embedding.pt")')
    return arguments


def requirement(config: dict[str, Any], vocoder: str, url: str | None) -> str:
    """Return what pip installs: the plugin with the extras that the model needs.

    No package index has the plugin: it comes from ``url``, or from its source.
    """
    extras = []
    if vocoder in WEIGHTS:
        extras.append("hifigan")
    if config.get("cleaner") == "tacotron" or str(config.get("g2p")).startswith("g2p_"):
        extras.append("g2p_en")
    names = f"[{','.join(extras)}]" if extras else ""
    if url is None:
        return shlex.quote(f".{names}")
    if not re.fullmatch(r"[a-z+]+://[^\s;]+", url):
        raise UserError(
            f"--plugin_url {url!r} is not an address that pip takes; give one such as "
            "git+https://HOST/OWNER/NAME"
        )
    return shlex.quote(f"espnet_prune{names} @ {url}")


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
