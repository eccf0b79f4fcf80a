"""Files that are whole or absent, and Kaldi's tables."""

import contextlib
from pathlib import Path
from typing import Dict, Iterator, Union

from espnet2.fileio.read_text import read_2columns_text

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
