"""Files that are whole or absent, folders with one writer, results that are kept."""

import contextlib
import errno
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from espnet_prune.errors import UserError

# Names of files end at 255 bytes, and ours get a temporary part and an ending.
LONGEST_NAME = 200
ABANDONED_SECONDS = 24 * 3600
LOCK, OWNER = ".lock", ".lock.owner"

_swept: set[Path] = set()  # folders that this process has looked through


@contextlib.contextmanager
def replace_when_written(path: str | Path) -> Iterator[Path]:
    """Hand out a temporary name beside ``path`` and move it in place at the end.

    A process that is killed in between leaves the old file, or none, never half of
    one. Each writer has a temporary name of its own, so the content is always that of
    one of them. The content is on the disk before the name changes.

    Raises:
        UserError: The disk is full, or the folder cannot be written to.

    """
    path = Path(path)
    _remove_abandoned(path.parent)
    start = os.fsencode(path.name)[:LONGEST_NAME].decode("utf-8", "ignore")
    partial = path.with_name(f".{start}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
        _flush(partial)
        partial.replace(path)
        with contextlib.suppress(OSError):  # some file systems cannot flush folders
            _flush(path.parent)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if full or error.filename == str(partial):
            raise UserError(
                f"cannot write {path} ({error.strerror}): make room, or choose a "
                "folder that can be written to"
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
    """Remove what killed writers left, once a process and folder."""
    if folder in _swept:
        return
    _swept.add(folder)
    oldest = time.time() - ABANDONED_SECONDS
    with contextlib.suppress(OSError):
        for partial in folder.glob(".*.partial"):
            if partial.stat().st_mtime < oldest:
                partial.unlink()


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with replace_when_written(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def is_done(path: Path, state: str) -> bool:
    """Say whether ``mark_done`` has written this mark for the same ``state``."""
    try:
        return path.read_text(encoding="utf-8") == f"{state}\n"
    except (OSError, UnicodeDecodeError):
        return False


def mark_done(path: Path, state: str) -> None:
    """Write a mark beside finished work.

    Args:
        path: The mark.
        state: One line that says what the work was made from. Work that was made from
            something else counts as not done.

    """
    write_text(path, f"{state}\n")


class Journal:
    """Results of long work that are kept as they come: an interrupted run goes on.

    Used as a context manager, it is open for ``add``.

    Args:
        path: The file, a line of JSON each.
        state: What all results depend on; those of another state are forgotten.

    Attributes:
        known: Results by key, those of earlier runs included.

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
            # the last line is empty, or half of one
            with contextlib.suppress(ValueError, TypeError):
                key, value = json.loads(line)
                self.known[key] = value

    def __enter__(self) -> "Journal":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"state": self.state})]
        lines += [json.dumps(item) for item in self.known.items()]
        write_text(self.path, "".join(f"{line}\n" for line in lines))
        self._file = self.path.open("a", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, key: str, value: Any) -> None:
        """Keep a result that JSON can hold."""
        self._file.write(json.dumps([key, value]) + "\n")
        self._file.flush()
        self.known[key] = value


@contextlib.contextmanager
def lock_folder(path: str | Path, what: str) -> Iterator[None]:
    """Keep a folder for this process while it writes there; the folder is made.

    The lock ends with the process, however that ends.

    Args:
        path: The folder.
        what: What is done there, for the message that others get.

    Raises:
        UserError: Another process has the folder, or it cannot be written to.

    """
    from filelock import FileLock, Timeout

    folder = Path(path)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise UserError(
            f"{folder} is in use by {_read_owner(folder)}: wait until that has ended, "
            "end it, or choose another folder"
        ) from None
    except OSError as error:
        raise UserError(
            f"cannot write to the folder {folder} ({error.strerror}): choose another"
        ) from error
    owner = folder / OWNER
    try:
        record = {
            "what": what,
            "process": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        write_text(owner, json.dumps(record) + "\n")
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def _read_owner(folder: Path) -> str:
    try:
        record = json.loads((folder / OWNER).read_text(encoding="utf-8"))
        return "{what} (process {process} on {host}, since {since})".format(**record)
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"  # it has just begun


def can_name_a_file(name: str) -> bool:
    """Say whether an utterance can be written to a file of its name."""
    return (
        bool(name)
        and not set(name) & {"/", "\0"}
        and not name.startswith(".")
        and len(name.encode("utf-8", "surrogateescape")) <= LONGEST_NAME
    )


def read_json_lines(path: Path) -> dict[str, dict[str, Any]]:
    """Read JSON lines, each the record of an ``utterance``; no file has no records.

    Of two lines for an utterance the last one counts. Lines that cannot be read are
    left out, such as the last one of a process that was killed.
    """
    records: dict[str, dict[str, Any]] = {}
    # bytes: a line may end within a character, and a text may hold U+2028, at which
    # splitlines would split
    for line in path.read_bytes().split(b"\n") if path.is_file() else ():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            record = json.loads(line)
            records[record["utterance"]] = record
    return records
