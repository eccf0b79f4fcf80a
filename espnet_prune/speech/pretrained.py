"""Models by whatever names them: an experiment folder, a packed archive or a tag."""

import contextlib
import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterator, Union

import torch
import yaml
from espnet2.main_funcs.pack_funcs import unpack
from espnet2.utils.pretrained import download_pretrained
from filelock import FileLock

from espnet_prune.errors import UserError
from espnet_prune.files import replace_when_written

DEFAULT_WEIGHTS = "train.loss.ave.pth"
ARCHIVES = (".zip", ".tar", ".tgz", ".gz")


def find_model(
    model: Union[Path, str], model_file: Union[Path, str, None] = None
) -> Dict[str, str]:
    """Find configuration and weights of a model.

    Args:
        model: An experiment folder, an archive of ESPnet's packing stage, or a tag of
            the model zoo or Hugging Face.
        model_file: Weights, a file of the experiment folder or any other; by default
            ``train.loss.ave.pth``. Archives and tags hold one.

    Returns:
        ``train_config`` and ``model_file``, arguments of ``Text2Speech``.

    Raises:
        UserError: There is no such model.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return _find_in_folder(path, model_file)
    if path.is_file():
        files = unpack_model(path)
    elif path.is_absolute() or path.suffix in ARCHIVES or not _may_be_tag(str(model)):
        raise UserError(
            f"there is no model {model}: name an experiment folder, a packed model or "
            "a tag"
        )
    else:
        try:
            files = download_pretrained(str(model))
        except Exception as error:
            # anything from a missing network to a name that the hub does not know
            raise UserError(
                f"{model} is no folder or file here, and as a tag it cannot be fetched "
                f"({type(error).__name__}: {first_line(error)}): check the name, the "
                "folder you are in, and the network"
            ) from error
    if not {"train_config", "model_file"} <= files.keys():
        raise UserError(
            f"{model} is no packed TTS model: pack one by the packing stage of tts.sh"
        )
    if model_file is not None:
        files["model_file"] = str(model_file)
    return {key: str(files[key]) for key in ("train_config", "model_file")}


def _may_be_tag(model: str) -> bool:
    """Tags are OWNER/NAME or addresses; paths may look the same."""
    return model.startswith(("http://", "https://")) or model.count("/") == 1


def _find_in_folder(folder: Path, model_file: Union[Path, str, None]) -> Dict[str, str]:
    config = folder / "config.yaml"
    if not config.is_file():
        raise UserError(
            f"{folder} has no config.yaml: name an experiment folder "
            "(exp/tts_...) or a packed model"
        )
    weights = folder / (DEFAULT_WEIGHTS if model_file is None else model_file)
    if not weights.is_file() and model_file is not None:
        weights = Path(model_file)
    if not weights.is_file():
        found = ", ".join(sorted(p.name for p in folder.glob("*.pth"))) or "none"
        raise UserError(
            f"{folder} has no {weights.name}: name one of its weights as model_file, "
            f"found {found}"
        )
    return dict(train_config=str(config), model_file=str(weights))


def unpack_model(archive: Path) -> Dict[str, str]:
    """Unpack an archive of ESPnet's packing stage into the user's cache, once.

    An archive that was packed anew is unpacked anew, and one whose unpacking was
    interrupted is not taken for whole.

    Args:
        archive: What ``python -m espnet2.bin.pack tts`` wrote.

    Returns:
        ``train_config`` and ``model_file``.

    Raises:
        UserError: It is no such archive, or the cache cannot be written to.
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
            "set XDG_CACHE_HOME to a folder that can be written to"
        ) from error
    with lock:
        whole = folder / "unpacked.yaml"
        if whole.is_file():
            # empty where the disk was full
            kept = yaml.safe_load(whole.read_text(encoding="utf-8")) or {}
            if kept.get("state") == state and all(
                map(os.path.isfile, kept["files"].values())
            ):
                return kept["files"]
        shutil.rmtree(folder, ignore_errors=True)
        try:
            files = unpack(archive, folder, use_cache=False)
            with replace_when_written(whole) as partial:
                content = yaml.safe_dump(dict(state=state, files=files))
                partial.write_text(content, encoding="utf-8")
        except Exception as error:
            # zipfile, tarfile, yaml and ESPnet each raise their own
            shutil.rmtree(folder, ignore_errors=True)
            raise UserError(
                f"{archive} cannot be unpacked as a model ({first_line(error)}): "
                "name an archive of the packing stage of tts.sh"
            ) from error
    return files


def read_settings(config: Path) -> Dict[str, Any]:
    """Read a config.yaml.

    Raises:
        UserError: It is no such file.
    """
    try:
        settings = yaml.safe_load(config.read_text(encoding="utf-8"))
        settings.keys()
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError) as error:
        raise UserError(
            f"{config} is no configuration of a training ({first_line(error)}): give "
            "the config.yaml of an experiment folder"
        ) from error
    return settings


@contextlib.contextmanager
def paths_made_absolute(config: Path) -> Iterator[Path]:
    """Hand out a copy of a config.yaml that can be read from any folder.

    ESPnet writes paths relative to the recipe that trained. They are looked for above
    the experiment folder first: the recipe that one happens to be in may have a file
    of the same name, with the statistics of other speech.

    Raises:
        UserError: It is no such file.
    """
    settings = read_settings(config)
    # the folder may be a link: look above both ends of it
    above = [*Path(os.path.abspath(config)).parents, *config.resolve().parents]

    def absolute(value):
        if isinstance(value, dict):
            return {key: absolute(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [absolute(entry) for entry in value]
        if isinstance(value, str) and "/" in value and not os.path.isabs(value):
            found = (str(base / value) for base in above if (base / value).is_file())
            return next(found, value)
        return value

    tokens = settings.pop("token_list", None)
    settings = absolute(settings)
    settings["token_list"] = absolute(tokens) if isinstance(tokens, str) else tokens
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "config.yaml"
        copy.write_text(yaml.safe_dump(settings), encoding="utf-8")
        yield copy


def download_vocoder(tag: str) -> Dict[str, Any]:
    """Fetch a vocoder of ParallelWaveGAN, as ESPnet's ``from_pretrained`` does."""
    prefix = "parallel_wavegan/"
    if not tag.startswith(prefix):
        raise UserError(
            f"vocoder tag {tag} should start with {prefix}: other vocoders are named "
            "by vocoder_file"
        )
    try:
        from parallel_wavegan.utils import download_pretrained_model
    except ImportError as error:
        raise UserError(
            f"vocoder tag {tag} needs a package: pip install parallel_wavegan"
        ) from error
    file = Path(download_pretrained_model(tag.removeprefix(prefix)))
    return dict(vocoder_config=file.parent / "config.yml", vocoder_file=file)


def require_device(device: str) -> None:
    """Refuse a device that PyTorch cannot use here."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"device {device} cannot be used ({first_line(error)}): use cpu"
        ) from error


def first_line(error: BaseException) -> str:
    """Give the first line of an error's message that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
