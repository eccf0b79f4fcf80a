"""Files that are whole or absent, Kaldi's tables, and records of utterances."""

import contextlib
import json
from pathlib import Path
from typing import Any, Dict, Iterator, Union

from espnet_prune.errors import UserError


@contextlib.contextmanager
def replace_when_written(path: Union[str, Path]) -> Iterator[Path]:
    """Hand out a neighbouring name to write to and move it in place at the end.

    Whoever is killed in between leaves the old file, or none, never half of one.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_columns(path: Path) -> Dict[str, str]:
    """Read a Kaldi file of lines ``ID VALUE``.

    Raises:
        UserError: It is missing, empty or something else.

    """
    from espnet2.fileio.read_text import read_2columns_text

    try:
        table = read_2columns_text(path)
    except FileNotFoundError:
        raise UserError(
            f"cannot read {path}, there is no {path.name}: run the stage that writes "
            "it first, or name another folder"
        ) from None
    except (OSError, UnicodeDecodeError, RuntimeError) as error:
        raise UserError(f"cannot read {path} ({error}); write `ID VALUE`") from error
    if not table:
        raise UserError(f"{path} is empty; write `ID VALUE`, one a line")
    return table


def can_name_a_file(name: str) -> bool:
    """Say whether an utterance can be written to a file of its name."""
    return "/" not in name and not name.startswith(".")


def read_json_lines(path: Path) -> Dict[str, Dict[str, Any]]:
    """Read JSON lines, each the record of an ``utterance``; no file has no records.

    Of two lines for an utterance the last one counts. Lines that are none, as the last
    one of whoever was killed, are left out.
    """
    records: Dict[str, Dict[str, Any]] = {}
    # bytes: a line may end within a character, and a text may hold U+2028, at which
    # splitlines would split
    for line in path.read_bytes().split(b"\n") if path.is_file() else ():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            record = json.loads(line)
            records[record["utterance"]] = record
    return records
