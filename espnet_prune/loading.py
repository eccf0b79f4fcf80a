"""Load files that may be broken or not trusted.

A file that is missing, empty, cut off, damaged or of another kind gives a message of
one line that names it. Importing this module imports neither torch nor ESPnet.
"""

import contextlib
import json
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from espnet_prune.errors import UserError, first_line

# A configuration with a list of 100,000 tokens takes 2 MB.
MAX_YAML_BYTES = 16 * 2**20
# With aliases, a few hundred bytes of YAML can mean billions of entries.
MAX_YAML_ENTRIES = 2_000_000
# Archives of ESPnet's packing stage are stored, not compressed.
MAX_UNPACKED_BYTES = 4 * 2**30
MAX_UNPACKED_RATIO = 100
# Small archives may have any ratio, because configurations and tables compress well.
SMALL_ARCHIVE_BYTES = 64 * 2**20

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load_yaml(
    path: str | Path, what: str = "configuration", may_be_empty: bool = False
) -> dict[str, Any]:
    """Read a YAML file of settings.

    ``what`` is the kind of the file, for messages. An empty file is refused unless it
    ``may_be_empty``.

    Raises:
        UserError: The file cannot be read, is not YAML, has no settings, or is far
            larger than any such file.
    """
    try:
        path = Path(path)
        if path.stat().st_size > MAX_YAML_BYTES:
            raise UserError(
                f"{path} is larger than any {what} ({MAX_YAML_BYTES >> 20} MB): name "
                "another file"
            )
        text = path.read_text(encoding="utf-8")
    except UserError:
        raise
    except (OSError, TypeError, ValueError) as error:  # a name may be none of a file
        raise UserError(
            f"the {what} {path} cannot be read ({first_line(error)}): name another "
            "file, or make it again"
        ) from error
    return parse_yaml(text, path, what, may_be_empty)


def parse_yaml(
    text: str,
    name: str | Path,
    what: str = "configuration",
    may_be_empty: bool = False,
) -> dict[str, Any]:
    """Read settings from the text of a YAML file; see :func:`load_yaml`."""
    try:
        settings = yaml.load(text, Loader=_Loader)
        if settings is None and may_be_empty:
            return {}
        if not isinstance(settings, dict):
            found = "nothing" if settings is None else type(settings).__name__
            raise ValueError(f"it contains {found}, not lines of NAME: VALUE")
        if _count_entries(settings, {}) > MAX_YAML_ENTRIES:
            raise ValueError("its aliases repeat too much")
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{name} is not a {what} ({reason}): name another file, or make it again"
        ) from error
    return settings


def load_json(
    path: Path, what: str, remedy: str, version: int | None = None
) -> dict[str, Any]:
    """Read a JSON object; its entry ``format`` must be ``version``, if there is one.

    Raises:
        UserError: ``path`` cannot be read, or is not ``what`` in this format.
    """
    with reading(path, what, remedy):
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"it contains a {type(content).__name__}")
        if version is not None and content.get("format") != version:
            raise ValueError(f"its format is {content.get('format')}, not {version}")
    return content


@contextlib.contextmanager
def reading(path: str | Path, what: str, remedy: str) -> Iterator[None]:
    """Turn errors of reading and using a file into a ``UserError`` that names it.

    Entries that are missing or have another type can raise any of these errors.
    """
    try:
        yield
    except UserError:
        raise
    except (
        *(ArithmeticError, AttributeError, LookupError, OSError, RecursionError),
        *(TypeError, ValueError),
    ) as error:
        fault = first_line(error)
        if isinstance(error, LookupError):
            fault = f"it lacks {fault}"
        raise UserError(f"{path} is not {what} ({fault}): {remedy}") from error


def _count_entries(value: Any, known: dict[int, int | None]) -> int:
    """Count the entries when every alias is written out.

    Raises:
        ValueError: An alias refers to a part that contains it.
    """
    if not isinstance(value, (dict, list)):
        return 1
    if id(value) not in known:
        known[id(value)] = None  # until it is counted completely
        inside = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count_entries(entry, known) for entry in inside)
    count = known[id(value)]
    if count is None:
        raise ValueError("an alias refers to a part that contains it")
    return count


def load_weights(path: str | Path) -> dict[str, Any]:
    """Read weights or a checkpoint to the CPU, and check that they are complete.

    Args:
        path: A file of ``torch.save``, or a ``.safetensors`` file.

    Returns:
        The dictionary in the file, for instance name and tensor of each weight.

    Raises:
        UserError: The file is missing, empty, cut off, damaged or of another kind, or
            has values that are not finite; the first such weight is named.
    """
    import torch

    path = Path(path)
    try:
        if path.stat().st_size == 0:
            raise ValueError("it is empty")
        if path.suffix == ".safetensors":
            import safetensors.torch

            weights = safetensors.torch.load_file(path)
        else:
            _check_crc(path)
            weights = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(weights, dict):
            raise ValueError(f"it contains a {type(weights).__name__}")
    except Exception as error:
        # pickle, zipfile, torch and safetensors raise different errors for broken files
        raise UserError(
            f"cannot load the weights {path} ({first_line(error)}): name another "
            "file, or copy or train it again"
        ) from error
    require_finite(weights, path)
    return weights


def fault_of_weights(error: Exception) -> str:
    """Return the first fault that ``load_state_dict`` found, without its heading."""
    *_, fault = str(error).splitlines()[:2]
    return fault.strip()


def _check_crc(path: Path) -> None:
    """Check a zip file against its checksums, which ``torch.load`` does not do.

    Files in the older format of PyTorch are not zip files and have no checksums.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            require_archive_size(path, sum(e.file_size for e in archive.infolist()))
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"{damaged} in it is damaged")


def require_finite(value: Any, path: str | Path, name: str = "") -> None:
    """Refuse tensors of a nested dictionary or list that contain NaN or infinity.

    Raises:
        UserError: The message names the file and the first such tensor.
    """
    import torch

    if isinstance(value, dict):
        for key, entry in value.items():
            require_finite(entry, path, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)):
        for number, entry in enumerate(value):
            require_finite(entry, path, f"{name}.{number}")
    elif isinstance(value, torch.Tensor) and not torch.isfinite(value).all():
        bad = int((~torch.isfinite(value)).sum())
        raise UserError(
            f"{path} has {bad} of {value.numel()} values of {name} that are NaN or "
            "infinite, its training diverged: use an earlier checkpoint"
        )


def check_archive(path: Path) -> None:
    """Refuse an archive that would unpack to far more than a model.

    Args:
        path: zip or tar, compressed or not.

    Raises:
        UserError: It would unpack to too much, or contains a broken YAML file.
        OSError, zipfile.BadZipFile, tarfile.TarError: It cannot be read.
    """
    total = 0
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            require_archive_size(path, sum(e.file_size for e in archive.infolist()))
            for entry in archive.infolist():
                if entry.filename.endswith((".yaml", ".yml")):
                    _check_member(path, entry.filename, archive.open(entry))
    else:
        with tarfile.open(path) as archive:
            for member in archive:  # a large member is refused before it is read
                total += member.size
                require_archive_size(path, total)
                if member.isfile() and member.name.endswith((".yaml", ".yml")):
                    _check_member(path, member.name, archive.extractfile(member))


def require_archive_size(path: Path, unpacked: int) -> None:
    """Refuse an archive that unpacks to this number of bytes, if it is too large."""
    packed = path.stat().st_size
    allowed = min(
        MAX_UNPACKED_BYTES, max(SMALL_ARCHIVE_BYTES, MAX_UNPACKED_RATIO * packed)
    )
    if unpacked > allowed:
        raise UserError(
            f"{path} has {packed >> 10} KB and would unpack to {unpacked >> 20} MB, "
            f"more than {allowed >> 20} MB: it is not a packed model, name another "
            "file"
        )


def _check_member(path: Path, name: str, file: Any) -> None:
    with file:
        content = file.read(MAX_YAML_BYTES + 1)
    if len(content) > MAX_YAML_BYTES:
        raise UserError(f"{name} in {path} is too large: name another archive")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name} in {path} is not text ({error.reason}): pack the model again"
        ) from error
    parse_yaml(text, f"{name} in {path}")
