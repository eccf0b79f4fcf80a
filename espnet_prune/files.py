"""Files that are whole or absent."""

import contextlib
from pathlib import Path
from typing import Iterator, Union


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
