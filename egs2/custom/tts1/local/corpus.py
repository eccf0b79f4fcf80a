"""Read a folder of speech: a Kaldi folder or a tree SPEAKER/NAME.wav.

Texts of a tree are in SPEAKER/NAME.txt, in SPEAKER/NAME.normalized.txt as in LibriTTS,
or in SPEAKER/metadata.csv with lines NAME|TEXT|NORMALISED as in LJSpeech. Unreadable
utterances are left out, with a finding that gives the reason.
"""

import os
import re
from pathlib import Path

from espnet_prune.data.checks import Utterance
from espnet_prune.data.kaldi import Finding, read_columns
from espnet_prune.errors import UserError
from espnet_prune.files import can_name_a_file
from espnet_prune.text.normalise import TextError, decode, read_lines

AUDIO = (".wav", ".flac")
METADATA = "metadata.csv"
WAVS = "wavs"  # where the recordings of metadata.csv are


def read_corpus(
    folder: Path, base_dir: Path, needs_text: bool = True
) -> tuple[list[Utterance], list[Finding]]:
    """Find the utterances of a Kaldi folder or of a tree SPEAKER/NAME.wav.

    Args:
        folder: has wav.scp, utt2spk and text, or one folder per speaker; or it has
            metadata.csv, and is the folder of one speaker.
        base_dir: another folder that paths in wav.scp may be relative to.
        needs_text: whether a Kaldi folder without text is refused.

    Returns:
        Utterances sorted by name, and findings about those that were left out.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; name the folder of the corpus")
    if (folder / "wav.scp").is_file():
        found, faults = _read_kaldi(folder, base_dir, needs_text)
    else:
        found, faults = _read_tree(folder)
    speakers: dict[str, str] = {}
    utterances: dict[str, Utterance] = {}
    for name, speaker, path, text in found:
        safe_speaker = re.sub(r"[^\w.]", "_", speaker)
        if speakers.setdefault(safe_speaker, speaker) != speaker:
            raise UserError(
                f"speakers '{speakers[safe_speaker]}' and '{speaker}' of {folder} "
                f"would both be called {safe_speaker}; rename one"
            )
        safe = re.sub(r"[^\w.-]", "_", name)
        if not name.startswith(f"{speaker}-"):
            safe = f"{safe_speaker}-{safe}"
        elif safe_speaker != speaker:
            safe = f"{safe_speaker}-{safe[len(speaker) + 1 :]}"
        if safe in utterances:
            faults.append(Finding(name, "duplicate id", f"{path}, as {safe}"))
        elif not can_name_a_file(safe) or not _fits_a_line(str(path)):
            faults.append(Finding(name, "name that cannot be used", str(path)))
        else:
            utterances[safe] = Utterance(safe, safe_speaker, path, text)
    if not utterances:
        raise UserError(
            f"{folder} has no usable recording: give a folder with wav.scp, utt2spk "
            "and text, with SPEAKER/NAME.wav (or .flac) and SPEAKER/NAME.txt, or with "
            f"{METADATA} and wavs/NAME.wav"
        )
    return [utterances[name] for name in sorted(utterances)], faults


def _fits_a_line(path: str) -> bool:
    """Return whether wav.scp can contain a path."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return not set(path) & set("\n\r")


def _read_kaldi(folder: Path, base_dir: Path, needs_text: bool):
    """Return (id, speaker, path, text) of each utterance, and faults."""
    if (folder / "segments").exists():
        raise UserError(
            f"{folder} has segments: cut the recordings first, one file per utterance"
        )
    for needed in ["utt2spk"] + ["text"] * needs_text:
        if not (folder / needed).is_file():
            raise UserError(f"{folder} has wav.scp but no {needed}; add it")
    faults: list[Finding] = []
    paths = read_columns(folder / "wav.scp", faults)
    for name, value in paths.items():
        if value.endswith("|"):
            raise UserError(
                f"{folder / 'wav.scp'} has a command for {name}: write the recordings "
                "to files and name those"
            )
    speakers = read_columns(folder / "utt2spk", faults)
    has_text = (folder / "text").is_file()
    texts = read_columns(folder / "text", faults) if has_text else {}
    # In Kaldi's recipes, paths are relative to a folder above data/NAME.
    bases = [folder, base_dir, *folder.resolve().parents[:2]]
    found = []
    for name, value in paths.items():
        if not speakers.get(name):
            faults.append(Finding(name, "no speaker", f"no line in {folder}/utt2spk"))
            continue
        candidates = [Path(os.path.abspath(base / value)) for base in bases]
        path = next((path for path in candidates if path.exists()), candidates[0])
        found.append((name, speakers[name], path, texts.get(name)))
    for name in sorted(speakers.keys() | texts.keys()):
        if name not in paths:
            faults.append(Finding(name, "no recording", f"no line in {folder}/wav.scp"))
    return found, faults


def _read_tree(folder: Path):
    """Return (NAME, speaker, path, text) of SPEAKER/NAME.wav, and faults.

    Folders inside a speaker's become part of the name.
    """
    found, faults = [], []
    visited = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        real = os.path.realpath(root)
        if real in visited:  # links may go in circles
            folders.clear()
            continue
        visited.add(real)
        if METADATA in files:
            listed, gone = _read_metadata(folder, Path(root))
            faults += gone
            if listed:
                found += listed
                folders.clear()
                continue
        files = [name for name in files if not name.startswith(".")]
        texts = _texts_of(files)
        recorded = set()
        for file in sorted(files):
            path = Path(os.path.abspath(root)) / file
            if path.suffix.lower() not in AUDIO:
                continue
            recorded.add(path.stem)
            speaker, *inside = (Path(root) / path.stem).relative_to(folder).parts
            if not inside:
                reason = "not in the folder of a speaker"
                faults.append(Finding(path.stem, reason, str(path)))
                continue
            text = None
            if path.stem in texts:
                written = path.with_name(texts[path.stem])
                try:
                    text = decode(written.read_bytes(), written)
                except (TextError, OSError) as error:
                    reason = "text cannot be read"
                    faults.append(Finding(path.stem, reason, str(error)))
                    continue
            found.append(("-".join(inside), speaker, path, text))
        for stem in sorted(texts.keys() - recorded):
            detail = str(Path(os.path.abspath(root)) / texts[stem])
            faults.append(Finding(stem, "no recording", detail))
    return found, faults


def _texts_of(files: list[str]) -> dict[str, str]:
    """Return the file of the text for each recording; NAME.txt is preferred."""
    texts: dict[str, str] = {}
    for name in sorted(files):
        match = re.fullmatch(r"(.+?)(\.normalized|\.original)?\.txt", name, re.I)
        if not match or (match[2] or "").lower() == ".original":
            continue
        if match[2] is None or match[1] not in texts:
            texts[match[1]] = name
    return texts


def _read_metadata(folder: Path, root: Path):
    """Return (NAME, speaker, path, text) of metadata.csv in ``root``, and faults.

    Nothing is found if it lists no recordings. The speaker is the folder in ``folder``,
    or ``folder`` itself.
    """
    table = root / METADATA
    try:
        lines = read_lines(table)
    except UserError as error:
        return [], [Finding(METADATA, "text cannot be read", str(error))]
    speaker, *inside = root.relative_to(folder).parts or (folder.resolve().name,)
    found, faults = [], []
    heard = set()
    for number, line in enumerate(lines, 1):
        name, *texts = [column.strip() for column in line.split("|")]
        if not texts:
            if name:
                reason = "no text"
                faults.append(Finding(name, reason, f"line {number} of {table}"))
            continue
        path = _find_recording(root, name)
        if path is None:
            faults.append(Finding(name, "no recording", f"line {number} of {table}"))
            continue
        heard.add(path.name)
        # the normalised text, if there is one
        text = next((text for text in texts[1::-1] if text), "")
        name = name.removesuffix(path.suffix).replace("/", "-")
        found.append(("-".join([*inside, name]), speaker, path, text))
    if not found:
        return [], [Finding(METADATA, "lists no recording", f"NAME|TEXT of {table}")]
    for path in sorted((root / WAVS).glob("*")):
        known = path.name in heard or path.name.startswith(".")
        if path.suffix.lower() in AUDIO and not known:
            faults.append(Finding(path.stem, "no text", f"{path} is not in {table}"))
    return found, faults


def _find_recording(root: Path, name: str) -> Path | None:
    """Find the recording that a line of metadata.csv names."""
    for base in (root / WAVS, root):
        for ending in ("", *AUDIO):
            path = Path(os.path.abspath(base / f"{name}{ending}"))
            if path.suffix.lower() in AUDIO and path.is_file():
                return path
    return None
