"""Pages of results as blocks of plain text, which become Markdown, JSON or HTML.

A block is a dictionary with one key:

    heading   str
    text      str; line breaks are kept
    items     list of str
    table     lines of cells, list of list of str; the first line has the headings

Scoring and listening tests write each page as Markdown for people and as JSON for the
report and the model card.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from espnet_prune.errors import UserError
from espnet_prune.evaluation import tables
from espnet_prune.loading import load_json, reading

FORMAT = 1  # version of the JSON; increase it when older files cannot be read any more
SCORES, LISTENING = "scores", "listening"  # names of the files, without their endings

Block = dict[str, Any]


class Document(NamedTuple):
    """A page of results."""

    title: str
    blocks: list[Block]


def to_markdown(document: Document, level: int = 1) -> str:
    """Return a page as Markdown; special characters of texts are escaped.

    Its title has this level of heading; other headings are one level below.
    """
    lines = [f"{'#' * level} {tables.cell(document.title)}"] if document.title else []
    for block in document.blocks:
        ((kind, content),) = block.items()
        if kind == "heading":
            lines.append(f"{'#' * (level + 1)} {tables.cell(content)}")
        elif kind == "text":
            lines.append("\n".join(map(tables.cell, content.strip().splitlines())))
        elif kind == "items":
            lines.append("\n".join(f"- {tables.cell(item)}" for item in content))
        else:
            lines.append(tables.pipes(content).rstrip("\n"))
    return "\n\n".join(lines) + "\n"


def write(
    folder: Path, name: str, document: Document, rows: Sequence[dict[str, Any]]
) -> str:
    """Write NAME.md, NAME.csv and NAME.json to an existing folder; return the Markdown.

    ``name`` is ``SCORES`` or ``LISTENING``, and ``rows`` are the numbers of the page,
    in full precision.
    """
    text = to_markdown(document)
    content = {"format": FORMAT, **document._asdict(), "rows": rows}
    tables.write_json(folder / f"{name}.json", content)
    tables.write_csv(folder / f"{name}.csv", rows)
    # this is written last: if it exists, the other files do too
    tables.write_text(folder / f"{name}.md", text)
    return text


def read(folders: Iterable[Path]) -> list[Document]:
    """Read the pages that scoring or a listening test left in folders."""
    found: list[Document] = []
    for folder in folders:
        files = [folder / f"{name}.json" for name in (SCORES, LISTENING)]
        files = [file for file in files if file.is_file()]
        if not files:
            raise UserError(
                f"{folder} contains no tables ({SCORES}.json or {LISTENING}.json); "
                "give a folder of `espnet-prune score` or `listen collect`, and run "
                "these again if an older version made it"
            )
        found += map(_read_file, files)
    return found


def _read_file(file: Path) -> Document:
    remedy = "write it again with `espnet-prune score` or `listen collect`"
    with reading(file, "a page of results", remedy):
        content = load_json(file, "a page of results", remedy, FORMAT)
        document = Document(content["title"], content["blocks"])
        to_markdown(document)  # so that no later use of it fails
    return document
