"""Tables as Markdown, CSV and JSON; files are written completely or not at all."""

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from espnet_prune.files import write_text

NOT_THERE = "-"


class Column(NamedTuple):
    """One column: the key of the value in a row, its heading, how to print it."""

    key: str
    heading: str
    text: Callable[[Any], str] = str


def named(*names: str) -> list[Column]:
    """Return columns whose headings are their keys, with spaces for underscores."""
    return [Column(name, name.replace("_", " ")) for name in names]


def number(value: float) -> str:
    """Return a number as text with three significant digits."""
    return f"{value:#.3g}".rstrip(".")


def percent(value: float) -> str:
    """Return a share between 0 and 1 as a percentage."""
    return f"{number(100 * value)} %" if value else "0 %"


def with_ends(values: Sequence[float | None], form: str) -> str | None:
    """Return a value and the ends of its interval as text; each may be None."""
    texts = [f"{each:{form}}" for each in values if each is not None]
    if values[0] is None:
        return None
    whole = len(texts) == len(values)
    return f"{texts[0]} [{', '.join(texts[1:])}]" if whole else texts[0]


def grid(rows: Sequence[dict[str, Any]], columns: Sequence[Column]) -> list[list[str]]:
    """Return rows as lines of text, the first of which has the headings.

    A value of None is shown as a dash.
    """
    lines = [[column.heading for column in columns]]
    for row in rows:
        values = [(column, row[column.key]) for column in columns]
        lines.append([NOT_THERE if v is None else c.text(v) for c, v in values])
    return lines


def cell(text: str) -> str:
    """Escape a text, so that Markdown shows it unchanged, on one line.

    Line breaks become spaces. Characters that begin a cell, a heading, a tag, an
    entity, a link, code or emphasis are escaped.
    """
    text = re.sub(r"&(?=#?\w+;)", "&amp;", " ".join(str(text).split()))
    text = re.sub(r"[\\|`*]|^#|(?<=\])\(", r"\\\g<0>", text)
    return text.replace("<", "&lt;")  # not every Markdown allows a backslash there


def pipes(lines: Sequence[Sequence[str]]) -> str:
    """Return lines, the first of which has the headings, as a Markdown table."""
    from tabulate import tabulate

    heading, *rest = [[cell(text) for text in line] for line in lines]
    table = tabulate(
        rest, heading, tablefmt="pipe", colglobalalign="right", disable_numparse=True
    )
    return table + "\n"


def markdown(rows: Sequence[dict[str, Any]], columns: Sequence[Column]) -> str:
    """Return a Markdown table, see ``grid``; it ends in a line break."""
    return pipes(grid(rows, columns))


def write_csv(path: str | Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows, which all have the same keys; None becomes an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_json(path: str | Path, content: Any) -> None:
    """Write a value as JSON; numbers keep their full precision."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
