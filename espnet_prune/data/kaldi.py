"""Read and write Kaldi folders.

Each file has one line per utterance, ``ID VALUE`` in UTF-8, sorted as in the C locale.
``text`` has the text and ``utt2spk`` the speaker. ``wav.scp`` has the recording, or in
a zero-shot test set the reference; the recording is then in ``gt_wav.scp``.
"""

import shutil
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from espnet_prune.errors import UserError
from espnet_prune.files import LONGEST_NAME, write_text
from espnet_prune.text.normalise import BOM

# Files that ``write_folder`` writes, or removes if a set does not have them.
FILES = ("text", "utt2spk", "spk2utt", "wav.scp", "gt_wav.scp", "token_ends")

Row = dict[str, str]  # "utterance": its id; name of a file: the value there


class Finding(NamedTuple):
    """A remark about an utterance for the user."""

    utterance: str
    reason: str  # the same words for all findings of a kind
    detail: str


def read_columns(path: Path, faults: list[Finding] | None = None) -> dict[str, str]:
    """Read a file of lines ``ID VALUE``, in any order; blank lines are skipped.

    Lines end at line feeds only, not at U+2028 inside a text. ``faults`` gets the lines
    that cannot be used, which are then left out; otherwise they are refused. If an id
    comes twice, the first line counts.

    Returns:
        Values by id, in the order of the file; a line without a value has "".
    """
    path = Path(path)
    try:
        content = path.read_bytes().removeprefix(BOM)
    except FileNotFoundError:
        raise UserError(
            f"cannot read {path}, there is no {path.name}: run the stage that writes "
            "it first, or name another folder"
        ) from None
    except OSError as error:
        raise UserError(
            f"cannot read {path} ({error.strerror}); write `ID VALUE`"
        ) from error
    table: dict[str, str] = {}
    for number, line in enumerate(content.split(b"\n"), 1):
        words = line.decode("utf-8", "replace").split(maxsplit=1)
        if not words:
            continue
        fault = _fault_of_line(line, words[0], table)
        if not fault:
            table[words[0]] = words[1].strip() if len(words) == 2 else ""
        elif faults is not None:
            faults.append(Finding(words[0], fault, f"line {number} of {path}"))
        else:
            raise UserError(
                f"cannot read {path}, line {number} ({fault}: {words[0][:40]!r}); "
                "write lines of `ID VALUE`"
            )
    if not table and faults is None:
        raise UserError(f"{path} is empty; write lines of `ID VALUE`")
    return table


def _fault_of_line(line: bytes, name: str, table: dict[str, str]) -> str:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return "not UTF-8"
    if name in table:
        return "duplicate id"
    return fault_of_id(name)


def fault_of_id(name: str) -> str:
    """Return why a name cannot be the id of an utterance; "" if it can."""
    if "\0" in name:
        return "id with a null character"
    if len(name.encode("utf-8", "surrogateescape")) > LONGEST_NAME:
        return f"id of more than {LONGEST_NAME} bytes"
    if name.split() != [name]:
        return "id with a space"
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return "id that is not UTF-8"
    return ""


def write_table(path: Path, table: Mapping[str, str]) -> None:
    """Write lines ``ID VALUE``, sorted, completely or not at all."""
    write_text(path, _table_text(path, table))


def _table_text(path: Path, table: Mapping[str, str]) -> str:
    """Return the lines of a table, or refuse what cannot be in ``path``."""
    lines = []
    for name in sorted(table):
        fault = fault_of_id(name)
        line = f"{name} {table[name]}\n"
        if line.count("\n") > 1 or "\r" in line or "\0" in line:
            fault = fault or "value with a line break or null character"
        try:
            line.encode("utf-8")
        except UnicodeEncodeError:
            fault = fault or "not UTF-8"
        if fault:
            raise UserError(f"{line[:80]!r} cannot be in {path} ({fault}): rename it")
        lines.append(line)
    return "".join(lines)


def write_folder(folder: Path, rows: Iterable[Row]) -> None:
    """Write the files of a set and ``spk2utt``; remove the folder of an empty set.

    ``rows`` has one per utterance, each with ``utt2spk``. Those of ``FILES`` that rows
    do not have are removed from the folder, because they belong to another set.
    """
    tables: dict[str, dict[str, str]] = {}
    speakers: dict[str, list[str]] = {}
    for row in sorted(rows, key=lambda row: row["utterance"]):
        speakers.setdefault(row["utt2spk"], []).append(row["utterance"])
        for name, value in row.items():
            if name != "utterance":
                tables.setdefault(name, {})[row["utterance"]] = value
    if not tables:
        shutil.rmtree(folder, ignore_errors=True)
        return
    tables["spk2utt"] = {name: " ".join(said) for name, said in speakers.items()}
    # all are checked before the first one is written
    texts = {name: _table_text(folder / name, tables[name]) for name in tables}
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        if name not in tables:
            (folder / name).unlink(missing_ok=True)
    for name, text in texts.items():
        write_text(folder / name, text)


def write_sets(
    data_dir: Path, sets: Mapping[str, Collection[Row]], notes: Mapping[str, str] = {}
) -> None:
    """Write a folder for each set, and print a line about it with its note."""
    print(f"Sets in {data_dir}")
    for name, rows in sets.items():
        write_folder(data_dir / name, rows)
        speakers = len({row["utt2spk"] for row in rows})
        if rows:
            note = notes.get(name, "")
            print(f"  {name:16s} {len(rows)} utterances, {speakers} speakers{note}")
