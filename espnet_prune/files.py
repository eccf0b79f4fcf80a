"""Write complete files, lock folders, and keep results of long work."""

import contextlib
import errno
import functools
import hashlib
import json
import logging
import os
import secrets
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from espnet_prune.errors import UserError

# File names have at most 255 bytes, and ours get a temporary part and an ending.
LONGEST_NAME = 200
ABANDONED_SECONDS = 24 * 3600
LOCK, OWNER = ".lock", ".lock.owner"
_logger = logging.getLogger(__name__)

_swept: set[Path] = set()  # folders that this process has cleaned


@contextlib.contextmanager
def replace_when_written(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name in the folder of ``path``, and rename it at the end.

    A missing folder is made. A process that is killed in between leaves the old file,
    or none, never a part of one. Each writer has its own temporary name, so the content
    is always that of one writer. It is on the disk before the name changes.

    Raises:
        UserError: The disk is full, the folder cannot be made or is not writable, or
            ``path`` is something else than a file.
    """
    path = Path(path)
    if os.path.exists(path) and not os.path.isfile(path):
        # a device such as /dev/null would be replaced
        raise UserError(f"{path} is not a file: name another one to write to")
    _remove_abandoned(path.parent)
    start = os.fsencode(path.name)[:LONGEST_NAME].decode("utf-8", "ignore")
    partial = path.with_name(f".{start}.{secrets.token_hex(4)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        _flush(partial)
        partial.replace(path)
        with contextlib.suppress(OSError):  # some file systems cannot flush folders
            _flush(path.parent)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if full or error.filename in map(str, (partial, *path.parents)):
            raise UserError(
                f"cannot write {path} ({error.strerror}): free disk space, or choose "
                "a writable folder"
            ) from error
        raise
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_abandoned(folder: Path) -> None:
    """Remove files of killed writers, once per process and folder."""
    if folder in _swept:
        return
    _swept.add(folder)
    oldest = time.time() - ABANDONED_SECONDS
    with contextlib.suppress(OSError):
        for partial in folder.glob(".*.partial"):
            if partial.stat().st_mtime < oldest:
                partial.unlink()


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, completely or not at all."""
    try:
        content = text.encode("utf-8")
    except UnicodeEncodeError as error:  # a name or an option in another encoding
        near = text[max(0, error.start - 20) : error.end + 20]
        raise UserError(
            f"cannot write {path}, it would contain {near!r}, which is not UTF-8: "
            "write names and options in UTF-8"
        ) from error
    with replace_when_written(path) as partial:
        partial.write_bytes(content)


def digest(path: str | Path, size: int | None = None) -> str:
    """Return a hash of the content of a file: SHA-256, or ``size`` bytes of BLAKE2."""
    with open(path, "rb") as file:
        kind: Any = "sha256"
        if size is not None:
            kind = functools.partial(hashlib.blake2b, digest_size=size)
        return hashlib.file_digest(file, kind).hexdigest()


class Journal:
    """Results of long work, each kept at once, so that an interrupted run continues.

    Used as a context manager, it is open for ``add``.

    Args:
        path: The file, with a line of JSON for each result.
        state: What all results depend on; results of another state are ignored.

    Attributes:
        known: Results by key, including those of earlier runs.
    """

    def __init__(self, path: Path, state: str = ""):
        self.path = path
        self.state = state
        self.known: dict[str, Any] = {}
        lines = path.read_bytes().split(b"\n") if path.is_file() else [b""]
        with contextlib.suppress(ValueError):
            if json.loads(lines[0]) != {"state": state}:
                return
        for line in lines[1:]:
            # the last line is empty or incomplete
            with contextlib.suppress(ValueError, TypeError):
                key, value = json.loads(line)
                self.known[key] = value

    def __enter__(self) -> "Journal":
        lines = [json.dumps({"state": self.state})]
        lines += [json.dumps(item) for item in self.known.items()]
        write_text(self.path, "".join(f"{line}\n" for line in lines))
        self._file = self.path.open("a", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, key: str, value: Any) -> None:
        """Keep a result that JSON can represent."""
        self._file.write(json.dumps([key, value]) + "\n")
        self._file.flush()
        self.known[key] = value


@contextlib.contextmanager
def lock_folder(path: str | Path, what: str) -> Iterator[None]:
    """Lock a folder while this process writes there; the folder is made.

    The lock ends with the process, also if it is killed. If nothing is written into a
    new folder, it is removed. ``what`` describes the work to other processes.

    Raises:
        UserError: Another process has locked the folder, or it is not writable.
    """
    from filelock import FileLock, Timeout

    folder = Path(path)
    lock = FileLock(folder / LOCK, timeout=0)
    owner = folder / OWNER
    is_new = not os.path.exists(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except NotImplementedError:  # as on some file systems of clusters
            _logger.warning("%s cannot be locked: let only one process write", folder)
    except Timeout:
        raise UserError(
            f"{folder} is in use by {read_owner(folder)}: wait for it to end, end "
            "it, or choose another folder"
        ) from None
    except OSError as error:
        raise UserError(
            f"cannot write to the folder {str(folder)[:200]} ({error.strerror}): "
            "choose another"
        ) from error
    try:
        write_owner(folder, what, os.getpid(), " ".join(sys.argv))
        yield
    finally:
        with contextlib.suppress(OSError):
            owner.unlink(missing_ok=True)
            if is_new and not {file.name for file in folder.iterdir()} - {LOCK}:
                (folder / LOCK).unlink(missing_ok=True)
                folder.rmdir()
        lock.release()


def write_owner(folder: Path, what: str, process: int, command: str = "") -> None:
    """Describe the process that has locked a folder, for messages to others."""
    record = {
        "what": what,
        "process": process,
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": command[:200],
    }
    write_text(folder / OWNER, json.dumps(record) + "\n")


def read_owner(folder: Path) -> str:
    """Describe the process that has locked a folder."""
    try:
        record = json.loads((folder / OWNER).read_text(encoding="utf-8"))
        known = "{what} (process {process} on {host}, since {since}".format(**record)
        return (
            f"{known}: {record['command']})" if record.get("command") else f"{known})"
        )
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"  # it has just begun


def can_name_a_file(name: str) -> bool:
    """Return whether an utterance can be written to a file of its name."""
    return (
        bool(name)
        and not set(name) & {"/", "\0"}
        and not name.startswith(".")
        and len(name.encode("utf-8", "surrogateescape")) <= LONGEST_NAME
    )


def read_json_lines(path: Path) -> dict[str, dict[str, Any]]:
    """Read JSON lines, each the record of an ``utterance``; {} for a missing file.

    The last line for an utterance counts. Broken lines, such as the last one of an
    interrupted run, are skipped.
    """
    records: dict[str, dict[str, Any]] = {}
    # bytes: a line may end within a character, and a text may contain U+2028, at which
    # splitlines would split
    for line in path.read_bytes().split(b"\n") if path.is_file() else ():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            record = json.loads(line)
            records[record["utterance"]] = record
    return records


def write_json_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Write records for :func:`read_json_lines`, completely or not at all."""
    write_text(path, "".join(map(_json_line, records)))


def append_json_line(path: Path, record: dict[str, Any]) -> None:
    """Add one record, so that an interruption does not lose it."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(_json_line(record))


def _json_line(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"
