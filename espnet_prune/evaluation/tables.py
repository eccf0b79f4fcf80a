"""Tables as Markdown, CSV and JSON, each file written whole or not at all."""

import csv
import io
import json
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Sequence, Union

from espnet_prune.errors import UserError
from espnet_prune.files import replace_when_written

NOT_THERE = "-"


class Column(NamedTuple):
    """One column: the key of the value in a row, its heading, how to print it."""

    key: str
    heading: str
    text: Callable[[Any], str] = str


def number(value: float) -> str:
    """Print a number with three significant digits."""
    return f"{value:#.3g}".rstrip(".")


def percent(value: float) -> str:
    """Print a share between 0 and 1 as a percentage."""
    return f"{number(100 * value)} %" if value else "0 %"


def markdown(rows: Sequence[Dict[str, Any]], columns: Sequence[Column]) -> str:
    """Lay out a Markdown table that is aligned on a screen as well.

    Args:
        rows: One dictionary a line; a value of None is shown as a dash.
        columns: What to show, from left to right.

    Returns:
        The table, ending in a line break.

    """
    lines = [[column.heading for column in columns]]
    for row in rows:
        lines.append(
            [
                NOT_THERE if row[column.key] is None else column.text(row[column.key])
                for column in columns
            ]
        )
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(columns))]
    lines.insert(1, ["-" * (width - 1) + ":" for width in widths])
    return "".join(
        "| " + " | ".join(cell.rjust(w) for cell, w in zip(line, widths)) + " |\n"
        for line in lines
    )


def make_output_dir(folder: Union[str, Path]) -> Path:
    """Make the folder that results go to.

    Raises:
        UserError: If it cannot be made.

    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make the folder {folder} ({error.strerror}); choose another "
            "--output_dir"
        ) from None
    return Path(folder)


def write_text(path: Union[str, Path], text: str) -> None:
    """Write a text file."""
    with replace_when_written(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_csv(path: Union[str, Path], rows: List[Dict[str, Any]]) -> None:
    """Write rows, of which all have the same keys; None becomes an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_json(path: Union[str, Path], content: Any) -> None:
    """Write anything that JSON can hold; numbers keep their full precision."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_markdown(folders: Sequence[Path]) -> List[str]:
    """Read the Markdown files that scoring or a listening test left in folders.

    Raises:
        UserError: There is none in a folder.

    """
    texts = []
    for folder in folders:
        files = sorted(folder.glob("*.md"))
        if not files:
            raise UserError(
                f"{folder} holds no tables (.md); give a folder that bin.score or "
                "bin.listening_test wrote"
            )
        texts += [file.read_text(encoding="utf-8") for file in files]
    return texts
