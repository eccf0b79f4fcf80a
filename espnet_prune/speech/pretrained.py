"""Find a trained model by its name, folder, packed archive or tag."""

import contextlib
import hashlib
import importlib.resources
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from espnet_prune.errors import UserError, first_line
from espnet_prune.experiment import find_file, read_config
from espnet_prune.files import replace_when_written
from espnet_prune.loading import check_archive, load_yaml
from espnet_prune.speech.vocoder import GRIFFIN_LIM, list_vocoders, read_features
from espnet_prune.training.identity import require_same_statistics

# The model of the package that speaks where none is named.
DEFAULT_MODEL = "english_small"

DEFAULT_WEIGHTS = "train.loss.ave.pth"
# The weights of a model that the recipe's local/ship.py made for synthesis.
SHIPPED_WEIGHTS = "model.safetensors"
ARCHIVES = (".zip", ".tar", ".tgz", ".tbz2", ".txz", ".gz", ".bz2", ".xz")
ADDRESSES = ("http://", "https://")
WEIGHTS = (".pth", ".safetensors")
VOICE_SUFFIX = ".voice"
# Vocoders for a model of the package, the best one first.
BEST_VOCODERS = ("hifigan", GRIFFIN_LIM)


def shipped_models() -> dict[str, Path]:
    """Return the models that are part of the package, with their folders.

    Each is ``espnet_prune/models/NAME/``: ``config.yaml``, one file of weights
    (``.pth`` or ``.safetensors``, in half or single precision), ``voices/*.voice``, and
    a card, ``README.md``.
    """
    models = importlib.resources.files("espnet_prune") / "models"
    folders = sorted(Path(str(models)).glob("*/config.yaml"))
    return {config.parent.name: config.parent for config in folders}


def find_model(
    model: str | Path | None = None, model_file: str | Path | None = None
) -> dict[str, str]:
    """Find configuration and weights of a model.

    Args:
        model: The name of a model of the package, an experiment folder, an archive of
            ESPnet's packing stage, its address, or a tag of the model zoo or Hugging
            Face. None is ``english_small`` of the package.
        model_file: Weights, a file of the experiment folder or any other; by default
            ``train.loss.ave.pth``. Archives, tags and models of the package have only
            one.

    Returns:
        ``train_config`` and ``model_file``, arguments of ``Text2Speech``.

    Raises:
        UserError: There is no such model.
    """
    shipped = shipped_models()
    for what, value in (("model", model), ("model_file", model_file)):
        if value is not None and not isinstance(value, (str, os.PathLike)):
            raise UserError(
                f"a {what} is a name or a path, found {type(value).__name__}: give a "
                "name, an experiment folder, a packed model or a tag"
            )
    name = DEFAULT_MODEL if model is None else str(model)
    if name in shipped:
        return _find_in_folder(shipped[name], model_file)
    path = Path(name).expanduser()
    if model is None or (name == DEFAULT_MODEL and not os.path.exists(path)):
        raise UserError(
            f"the model {DEFAULT_MODEL} is missing from this installation of "
            "espnet_prune: install it again, or name an experiment folder, a packed "
            "model or a tag (--model, or the argument of from_pretrained)"
        )
    # not path.is_file(), which raises for a name that is too long
    if os.path.isdir(path):
        return _find_in_folder(path, model_file)
    address = str(model).startswith(ADDRESSES)
    if os.path.isfile(path):
        files = unpack_model(path)
    elif not address and (
        path.is_absolute() or path.suffix in ARCHIVES or str(model).count("/") != 1
    ):
        names = f"one of the package ({', '.join(shipped)}), " if shipped else ""
        raise UserError(
            f"there is no model {model}: name {names}an experiment folder, a packed "
            "model or a tag"
        )
    else:
        files = _fetch(str(model), address)
    if not {"train_config", "model_file"} <= files.keys():
        raise UserError(
            f"{model} is not a packed TTS model: pack one with the packing stage of "
            "tts.sh"
        )
    if model_file is not None:
        files["model_file"] = str(model_file)
    return {key: str(files[key]) for key in ("train_config", "model_file")}


def find_voices(train_config: str | Path) -> dict[str, Path]:
    """Return name and file of each voice of a model, next to its config.yaml."""
    files = sorted((Path(train_config).parent / "voices").glob(f"*{VOICE_SUFFIX}"))
    return {file.stem: file for file in files}


def default_vocoder(model: str | Path | None) -> str:
    """Return the vocoder of a model, if the user names none.

    For a model of the package it is HiFi-GAN, if that is installed and fits. For all
    others it is Griffin-Lim.
    """
    folder = shipped_models().get(DEFAULT_MODEL if model is None else str(model))
    if folder is None:
        return GRIFFIN_LIM
    fitting = list_vocoders(read_features(read_config(folder / "config.yaml")))
    return next(name for name in BEST_VOCODERS if name in fitting)


def _fetch(model: str, address: bool) -> dict[str, Any]:
    """Fetch a model from the network, into ESPnet's cache.

    This module unpacks archives at an address, not the model zoo.
    """
    try:
        if address and Path(model.partition("?")[0]).suffix in ARCHIVES:
            from espnet_model_zoo.downloader import ModelDownloader

            return unpack_model(Path(ModelDownloader().download(model)))
        from espnet2.utils.pretrained import download_pretrained

        return download_pretrained(model)
    except UserError:
        raise
    except Exception as error:
        # many kinds of error, from a missing network to an unknown name
        what = "cannot be fetched"
        if not address:
            what = f"is not a folder or file here, and as a tag it {what}"
        raise UserError(
            f"{model} {what} ({type(error).__name__}: {first_line(error)}): check the "
            "name, the folder you are in, and the network"
        ) from error


def _find_in_folder(folder: Path, model_file: str | Path | None) -> dict[str, str]:
    config = folder / "config.yaml"
    if not os.path.isfile(config):
        raise UserError(
            f"{folder} has no config.yaml: name an experiment folder "
            "(exp/tts_...) or a packed model"
        )
    name = DEFAULT_WEIGHTS if model_file is None else model_file
    if model_file is None and (folder / SHIPPED_WEIGHTS).is_file():
        name = SHIPPED_WEIGHTS
    weights = folder / name
    if not os.path.isfile(weights) and model_file is not None:
        weights = Path(model_file)
    if not os.path.isfile(weights):
        found = [file.name for file in folder.iterdir() if file.suffix in WEIGHTS]
        raise UserError(
            f"{folder} has no {weights.name}: name one of its weights as model_file, "
            f"found {', '.join(sorted(found)) or 'none'}"
        )
    return {"train_config": str(config), "model_file": str(weights)}


def unpack_model(archive: Path) -> dict[str, str]:
    """Unpack an archive of ESPnet's packing stage into the user's cache, once.

    An archive that was packed again is unpacked again, and so is one whose unpacking
    was interrupted.

    Returns:
        ``train_config`` and ``model_file``.
    """
    archive = archive.resolve()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    folder = cache / "espnet_prune" / hashlib.sha256(bytes(archive)).hexdigest()[:16]
    state = f"{archive.stat().st_size} {archive.stat().st_mtime_ns}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{folder}.lock").acquire()
    except OSError as error:
        raise UserError(
            f"{archive} cannot be unpacked into {folder.parent} ({error.strerror}): "
            "set XDG_CACHE_HOME to a writable folder"
        ) from error
    with lock:
        whole = folder / "unpacked.yaml"
        if whole.is_file():
            files = _read_unpacked(whole, state)
            if files is not None:
                return files
        shutil.rmtree(folder, ignore_errors=True)
        try:
            check_archive(archive)
            files = _unpack(archive, folder)
            with replace_when_written(whole) as partial:
                content = yaml.safe_dump({"state": state, "files": files})
                partial.write_text(content, encoding="utf-8")
        except UserError:
            raise
        except Exception as error:
            # zipfile, tarfile, yaml and ESPnet raise different errors
            shutil.rmtree(folder, ignore_errors=True)
            raise UserError(
                f"{archive} cannot be unpacked as a model ({first_line(error)}): "
                "name an archive of the packing stage of tts.sh"
            ) from error
    return files


def _unpack(archive: Path, folder: Path) -> dict[str, str]:
    from espnet2.main_funcs.pack_funcs import unpack

    return unpack(archive, folder, use_cache=False)


def _read_unpacked(record: Path, state: str) -> dict[str, str] | None:
    """Return the files of an unpacked archive; None unless all of them exist."""
    with contextlib.suppress(UserError):  # an empty file, if the disk was full
        kept = load_yaml(record)
        files = kept.get("files")
        if (
            kept.get("state") == state
            and isinstance(files, dict)
            and all(os.path.isfile(str(file)) for file in files.values())
        ):
            return files
    return None


@contextlib.contextmanager
def paths_made_absolute(config: Path) -> Iterator[Path]:
    """Yield a copy of a config.yaml that can be read from any folder.

    Paths are searched above the experiment folder first, see ``find_file``, because the
    recipe in the working folder may have a file of the same name, with the statistics
    of other speech.
    """
    settings = read_config(config)

    def absolute(value):
        if isinstance(value, dict):
            return {key: absolute(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [absolute(entry) for entry in value]
        if isinstance(value, str) and "/" in value and not os.path.isabs(value):
            return str(find_file(config, value) or value)
        return value

    tokens = settings.pop("token_list", None)
    settings = absolute(settings)
    settings["token_list"] = absolute(tokens) if isinstance(tokens, str) else tokens
    require_same_statistics(settings, config.parent)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "config.yaml"
        copy.write_text(yaml.safe_dump(settings), encoding="utf-8")
        yield copy


def require_device(device: str) -> None:
    """Refuse a device that PyTorch cannot use here."""
    import torch

    try:
        if not isinstance(device, str):
            raise TypeError(f"it is {type(device).__name__}, not a text")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise UserError(
            f"device {device} cannot be used ({first_line(error)}): use cpu"
        ) from error
