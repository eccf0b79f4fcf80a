"""Record what a training was made from, and check all that continues or uses it.

When a training begins, ``identity.json`` in its folder gets its features, tokens, text
front end, model, data and optimiser. Files count by their content, because paths stay
the same when stages run again. ESPnet rewrites config.yaml whenever a training is
resumed; this record stays. A folder of training data has such a record of its data.

Importing this module imports neither torch nor ESPnet.
"""

import functools
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from espnet_prune.errors import UserError
from espnet_prune.experiment import CHECKPOINT, CONFIG, read_config
from espnet_prune.files import digest, write_text
from espnet_prune.loading import load_json, reading

RECORD = "identity.json"
# At least this many recordings of a set, or all, are compared by their samples.
COMPARED_RECORDINGS = 50
NORMALIZERS = ("normalize", "pitch_normalize", "energy_normalize")
# These settings of a model may change while it is trained.
FREE = (
    "inference_mask",
    "sparsity_ratio",
    "temperature",
    "stop_gradient_from",
    "compile_model",
)
FREE_ENDINGS = ("_rate", "_dropout", "_weight")

# Weights of tokens, in all models of the plugin and in ESPnet's.
EMBEDDING = "tts.encoder.embed"

_Identity = dict[str, Any]
_logger = logging.getLogger(__name__)


# ------------------------------------------------------------------------ the record


def identify(settings: Mapping[str, Any]) -> _Identity:
    """Describe a training by its options, or by the content of config.yaml.

    Returns:
        ``features``, ``text``, ``model``, ``free`` (settings of the model that may
        change) and ``optimiser``: values by the name of their option; ``tokens``, a
        list; ``phase``; ``data``, see :func:`describe_data`.
    """
    model, free, phase = _split_model(settings)
    bpemodel = settings.get("bpemodel") or ""
    return {
        "features": _features(settings),
        "tokens": read_tokens(settings.get("token_list")),
        "text": {
            "token_type": settings.get("token_type"),
            "g2p": settings.get("g2p"),
            "cleaner": settings.get("cleaner"),
            "bpemodel": digest(bpemodel) if os.path.isfile(bpemodel) else None,
        },
        "model": model,
        "free": free,
        "phase": phase,
        "optimiser": _optimiser(settings),
        "data": _training_data(settings),
    }


def read_identity(folder: str | Path) -> _Identity | None:
    """Return the record in a folder; None if there is none, as in older folders."""
    file = Path(folder) / RECORD
    if not os.path.isfile(file):
        return None
    what, remedy = "the record of a training", "restore it, or train in another folder"
    with reading(file, what, remedy):
        record = load_json(file, what, remedy)
        for name, value in record.items():
            kind = {"tokens": list, "phase": int}.get(name, dict)
            if not isinstance(value, kind | None):
                raise TypeError(f"{name} is {value!r}")
    return record


def write_identity(folder: str | Path, identity: _Identity) -> None:
    """Write the record into a folder, which is made."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    content = json.dumps(identity, ensure_ascii=False, indent=1)
    write_text(Path(folder) / RECORD, content + "\n")


def read_tokens(tokens: str | Path | Sequence[str] | None) -> list[str] | None:
    """Return a token list, which may be the name of its file; None if it is missing."""
    if not isinstance(tokens, (str, Path)):
        return None if tokens is None else list(tokens)
    try:
        lines = Path(tokens).read_text(encoding="utf-8").split("\n")
    except OSError:
        return None
    # as ESPnet reads them: the first character may be a space
    return [line[0] + line[1:].rstrip() for line in lines if line]


def _features(settings: Mapping[str, Any]) -> dict[str, Any]:
    from espnet2.tasks.tts import TTSTask

    found: dict[str, Any] = {}
    for choice in TTSTask.class_choices_list:
        name = choice.name
        if name == "tts":
            continue
        chosen = _choice(settings, name, choice.classes)
        # ESPnet repeats that of the model here
        chosen.pop(f"{name}_conf.reduction_factor", None)
        file = chosen.pop(f"{name}_conf.stats_file", None)
        if file is not None:
            found[f"the statistics of {name}"] = digest_statistics(file)
        found.update(chosen)
    return found


def _optimiser(settings: Mapping[str, Any]) -> dict[str, Any]:
    from espnet2.tasks.abs_task import optim_classes, scheduler_classes

    return {
        **_choice(settings, "optim", optim_classes),
        **_choice(settings, "scheduler", scheduler_classes),
        "exclude_weight_decay": settings.get("exclude_weight_decay", False),
    }


def _choice(
    settings: Mapping[str, Any], name: str, classes: Mapping[str, Any]
) -> dict[str, Any]:
    """Return an option that chooses a class, and the settings of this class."""
    kind = settings.get(name)
    if kind is None:
        return {name: None}
    conf = settings.get(f"{name}_conf") or {}
    if kind in classes:
        conf = _with_defaults(classes[kind], conf)
    return {name: kind, **{f"{name}_conf.{key}": value for key, value in conf.items()}}


def _with_defaults(kind: Any, conf: Mapping[str, Any] | None) -> dict[str, Any]:
    """Complete the settings of a class, so that two trainings can be compared."""
    from espnet2.utils.get_default_kwargs import get_default_kwargs

    return {**get_default_kwargs(kind), **(conf or {})}


def _split_model(
    settings: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Any], int]:
    """Return what makes a model, which of its settings may change, and its phase."""
    from espnet2.tasks.tts import tts_choices

    from espnet_prune.config import PruningConf
    from espnet_prune.training.host import is_ours

    name = settings["tts"]
    conf = _with_defaults(tts_choices.get_class(name), settings.get("tts_conf"))
    conf.pop("plugin_version", None)
    for section in ("pruning_conf", "encoder_pruning_conf"):
        if is_ours(name) and (section == "pruning_conf" or conf.get(section)):
            inner = _with_defaults(PruningConf, conf.pop(section, None))
            conf.update({f"{section}.{key}": value for key, value in inner.items()})
    phase = conf.pop("pruning_conf.phase", 1)
    conf.pop("encoder_pruning_conf.phase", None)
    if conf.get("pruning") != "differentiable":
        phase = 1
    # only its weight may change, because a discriminator has parameters
    judged = bool(conf.get("adversarial_weight"))
    model: dict[str, Any] = {"tts": name, "a discriminator": judged}
    free: dict[str, Any] = {}
    for key, value in conf.items():
        last = key.rpartition(".")[2]
        may_change = last in FREE or last.endswith(FREE_ENDINGS)
        (free if may_change else model)[f"tts_conf.{key}"] = value
    return model, free, phase


def _training_data(settings: Mapping[str, Any]) -> dict[str, Any]:
    texts, recordings, others = {}, {}, hashlib.sha256()
    for path, name, kind in settings.get("train_data_path_and_name_and_type") or ():
        if name == "text":
            texts = dict(_columns(path))
        elif kind == "sound":
            recordings = dict(_columns(path))
        elif kind.startswith(("text", "csv")):
            others.update(f"{name}\n".encode() + b"".join(_lines(path)))
    for path in settings.get("train_shape_file") or ():
        others.update(b"".join(_lines(path)))
    found = describe_data(texts, recordings)
    return {**found, "numbers": others.hexdigest()}


def _lines(path: str | Path) -> Iterator[bytes]:
    """Yield lines of a file, or of the parts that ESPnet splits a file into."""
    path = Path(path)
    parts = sorted(path.glob("split.*")) if path.is_dir() else [path]
    for part in parts:
        if part.is_file():
            with part.open("rb") as file:
                yield from file


def _columns(path: str | Path) -> Iterator[tuple[str, str]]:
    for line in _lines(path):
        words = line.decode("utf-8", "replace").split(maxsplit=1)
        if words:
            yield words[0], words[1].strip() if len(words) == 2 else ""


def describe_data(
    texts: Mapping[str, str], recordings: Mapping[str, str | Path], sizes: bool = False
) -> dict[str, Any]:
    """Describe texts and recordings by their content, in a second or two.

    Some of the recordings are compared by their samples. ``sizes`` compares also the
    sizes of all files, which differ if files with the same samples are made again.
    """
    said = hashlib.sha256()
    for name in sorted(texts):
        said.update(f"{name} {texts[name]}\n".encode("utf-8", "surrogateescape"))
    heard = hashlib.sha256()
    names = sorted(recordings)
    step = max(1, len(names) // COMPARED_RECORDINGS)
    for number, name in enumerate(names):
        heard.update(f"{name}\n".encode("utf-8", "surrogateescape"))
        if sizes and os.path.isfile(recordings[name]):
            heard.update(str(os.path.getsize(recordings[name])).encode())
        if number % step == 0:
            heard.update(_samples(recordings[name]))
    return {
        "utterances": len(texts),
        "texts": said.hexdigest(),
        "recordings": heard.hexdigest(),
    }


def _samples(path: str | Path) -> bytes:
    """Return the samples of a recording; none of a command or a broken file."""
    import soundfile

    if not os.path.isfile(path):
        return b""
    try:
        samples, _ = soundfile.read(os.fsencode(path), dtype="float32")
    except (soundfile.LibsndfileError, MemoryError, TypeError, ValueError):
        return b""
    return samples.tobytes()


def digest_statistics(path: str | Path) -> str | None:
    """Return a hash of the numbers in an .npz file, which also has times inside.

    Numbers that are NaN or infinite are refused.
    """
    import numpy as np

    if not os.path.isfile(path):
        return None
    found = hashlib.sha256()
    try:
        with np.load(path) as file:
            statistics = {name: np.asarray(file[name]) for name in sorted(file)}
    except Exception:  # ESPnet's older format, or a broken file: numpy raises any kind
        return digest(path)
    for name, numbers in statistics.items():
        if not np.isfinite(numbers).all():
            raise UserError(
                f"the statistics {path} have {name} that is NaN or infinite, so some "
                "recording has such samples: remove it, and run stages 2 to 6 again"
            )
        found.update(name.encode() + numbers.tobytes())
    return found.hexdigest()


# ------------------------------------------------------------------------ the checks


def require_same_training(
    folder: str | Path, now: _Identity, new_folder: bool = False
) -> _Identity:
    """Refuse to continue the training in a folder with settings of another one.

    Settings that may change, or that the checkpoint replaces, only give a warning.

    Args:
        folder: Experiment folder of the training to continue.
        now: Identity of the training that continues it.
        new_folder: Whether it continues in a folder of its own, as phase 2 does.

    Returns:
        The record of the continued training, whose optimiser is that of the first one.
    """
    before = read_identity(folder)
    if before is None and (Path(folder) / CONFIG).is_file():
        before = identify(read_config(folder))
    if before is None:
        return now
    # compared as JSON, which has no tuples
    before, now = json.loads(json.dumps([before, now]))
    remedy = "give the settings of that training, or train in a new folder (--tag)"
    if new_folder:
        remedy = "train both phases with the same configuration"
    if not new_folder and before.get("phase", now["phase"]) != now["phase"]:
        raise UserError(
            f"{folder} contains a phase {before['phase']}, not a phase {now['phase']}: "
            "choose another folder"
        )
    require_same_tokens(before.get("tokens"), now["tokens"], str(folder), remedy)
    differ = {
        part: list(_differences(before.get(part), now[part]))
        for part in ("model", "features", "text", "data", "optimiser", "free")
    }
    for name, old, new in differ["model"] + differ["features"] + differ["text"]:
        if name.startswith("the statistics"):
            raise UserError(
                f"{name} have other values than when {folder} was trained: run stages "
                "2 to 6 with the data and features of that training, or train in a new "
                "folder (--tag)"
            )
        raise UserError(
            f"{folder} was trained with {name} {_short(old)}, not with {name} "
            f"{_short(new)}: {remedy}"
        )
    for name, _, _ in differ["data"]:
        what = "durations or lengths" if name == "numbers" else name
        raise UserError(
            f"{folder} was trained on other data, its {what} differ from those given "
            "now: give the data of that training, or train in a new folder (--tag)"
        )
    for name, old, new in differ["optimiser"]:
        if "_conf." not in name:
            raise UserError(
                f"{folder} was trained with {name} {_short(old)}, whose state cannot "
                f"be continued with {_short(new)}: {remedy}"
            )
        _warn(
            f"{name} {_short(new)} is ignored: the training in {folder} continues with "
            f"{_short(old)}; to change it, train in a new folder with --init_param"
        )
    for name, old, new in [] if new_folder else differ["free"]:
        _warn(
            f"{name} is {_short(new)} from now on; the training in {folder} began with "
            f"{_short(old)}"
        )
    kept = ("optimiser",) if new_folder else ("optimiser", "free")
    return {**now, **{name: before[name] for name in kept if name in before}}


def require_same_tokens(
    before: Sequence[str] | None, now: Sequence[str] | None, source: str, remedy: str
) -> None:
    """Refuse weights from ``source`` whose token embeddings would mean other tokens."""
    if before is None or now is None or list(before) == list(now):
        return
    pairs = enumerate(zip(before, now, strict=False))
    same = next((n for n, (a, b) in pairs if a != b), min(len(before), len(now)))
    old, new = (
        repr(tokens[same]) if same < len(tokens) else "nothing"
        for tokens in (before, now)
    )
    raise UserError(
        f"{source} was trained with other tokens: token {same} is {old} of "
        f"{len(before)} tokens there, and {new} of {len(now)} here: {remedy}"
    )


def require_known_tokens(
    init_params: Iterable[str], now: Sequence[str] | None, ignores_mismatch: bool
) -> None:
    """Refuse initial weights of a model with other tokens than those of this training.

    Args:
        init_params: As of ESPnet's ``--init_param``: FILE:FROM:TO:EXCLUDED.
        now: Tokens of this training.
        ignores_mismatch: Whether weights of other shapes are left out.
    """
    for init_param in init_params:
        path, prefix, _, excluded = _split_init_param(init_param)
        folder = Path(path).parent
        record = read_identity(folder)
        tokens = (record or {}).get("tokens")
        if record is None and (folder / CONFIG).is_file():
            tokens = read_tokens(read_config(folder).get("token_list"))
        other_number = (
            tokens is not None and now is not None and len(tokens) != len(now)
        )
        embeds = not prefix or EMBEDDING.startswith(prefix) or prefix in EMBEDDING
        left_out = EMBEDDING.startswith(excluded)
        if embeds and not left_out and not (ignores_mismatch and other_number):
            require_same_tokens(
                tokens,
                now,
                f"--init_param {path}",
                "use the token list of that training, or leave its token embeddings "
                f"out with --init_param {path}:::{EMBEDDING}",
            )


def require_initial_weights(
    model: Any, init_param: str, ignores_mismatch: bool
) -> None:
    """Refuse initial weights that are broken or do not fit a model.

    ESPnet loads them when training begins. It is tried here for a better message.
    """
    from espnet2.torch_utils.load_pretrained_model import load_pretrained_model

    from espnet_prune.loading import fault_of_weights, load_weights

    path, *_ = _split_init_param(init_param)
    load_weights(path)
    if ignores_mismatch:
        return
    try:
        load_pretrained_model(init_param, model, ignores_mismatch)
    except (AttributeError, RuntimeError) as error:
        raise UserError(
            f"--init_param {path} does not fit this model ({fault_of_weights(error)}): "
            "train with the settings of that model, or add --ignore_init_mismatch true "
            "to leave such weights out"
        ) from error


def _split_init_param(init_param: str) -> tuple[str, str, str, tuple[str, ...]]:
    path, prefix, target, excluded = [*init_param.split(":", 4), "", "", ""][:4]
    return path, prefix, target, tuple(filter(None, excluded.split(",")))


def require_same_statistics(settings: Mapping[str, Any], folder: str | Path) -> None:
    """Refuse to decode with other statistics than those of the training in a folder.

    Without a record of the training nothing is checked.
    """
    before = (read_identity(folder) or {}).get("features", {})
    for name in NORMALIZERS:
        file = (settings.get(f"{name}_conf") or {}).get("stats_file")
        known = before.get(f"the statistics of {name}")
        if file and known and digest_statistics(file) not in (None, known):
            raise UserError(
                f"{file} has other statistics than when {folder} was trained: run "
                "stages 2 to 6 again with the data and features of the training"
            )


def require_rate(data: Iterable[tuple[str, str, str]], rate: Any) -> None:
    """Refuse recordings with another sampling rate than the features.

    ``data`` has path, name and type, as in ESPnet's options; only the first recording
    of a set is looked at. ``rate`` is that of the features in Hz, None if not known.
    """
    import soundfile

    for path, name, kind in data:
        if name != "speech" or kind != "sound" or not isinstance(rate, int):
            continue
        file = next((file for _, file in _columns(path)), "")
        if not os.path.isfile(file):
            continue
        try:
            found = soundfile.info(os.fsencode(file)).samplerate
        except (soundfile.LibsndfileError, TypeError):
            continue
        if found != rate:
            raise UserError(
                f"the recordings in {path} have {found} Hz, but the features are for "
                f"{rate} Hz: run stage 2 with --fs {rate}, or train with --fs {found}"
            )


def require_fresh_models(
    folder: Path, exp_dir: Path, rows: Sequence[Mapping[str, str]]
) -> _Identity:
    """Refuse to replace the training data of existing models by others.

    Args:
        folder: Training set; it may not exist yet.
        exp_dir: Folder of the models.
        rows: The new set, as ``data.kaldi.write_folder`` takes it.

    Returns:
        The record to write into the folder once the set is written.
    """
    texts = {row["utterance"]: row["text"] for row in rows}
    wavs = {row["utterance"]: row["wav.scp"] for row in rows}
    data = describe_data(texts, wavs, sizes=True)
    models = sorted(
        file for depth in ("*", "*/*") for file in exp_dir.glob(f"{depth}/{CHECKPOINT}")
    )
    record = read_identity(folder)
    differ = [name for name, _, _ in _differences((record or {}).get("data"), data)]
    if record is None and (folder / "text").is_file():
        differ = [] if _had_texts(folder, texts) else ["texts"]
    if models and differ:
        raise UserError(
            f"{models[0].parent} was trained on other data than these (other "
            f"{' and '.join(differ)}): move {exp_dir} and dump away, or use a copy of "
            "this recipe's folder"
        )
    return {"data": data}


def _had_texts(folder: Path, texts: Mapping[str, str]) -> bool:
    """Return whether a set without a record has these texts, if they can be aligned."""
    unaligned = folder / "unaligned.tsv"
    lines = unaligned.read_bytes().split(b"\n") if unaligned.is_file() else []
    gone = {line.partition(b"\t")[0].decode("utf-8", "replace") for line in lines}
    wanted = {name: text for name, text in texts.items() if name not in gone}
    return dict(_columns(folder / "text")) == wanted


def _differences(
    before: Mapping[str, Any] | None, now: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, old and new value of what differs; unknown values do not."""
    for name, old in (before or {}).items():
        new = now.get(name)
        hashed = name.startswith("the statistics") or name == "bpemodel"
        if old != new and not (hashed and None in (old, new)):
            yield name, old, new


def _short(value: Any) -> str:
    text = json.dumps(value) if not isinstance(value, str) else value
    return text if len(text) <= 60 else f"{text[:57]}..."


@functools.cache  # once, although several checks find the same
def _warn(message: str) -> None:
    # not logging.warning, which would set up logging before ESPnet does
    _logger.warning("espnet_prune: warning: %s", message)
