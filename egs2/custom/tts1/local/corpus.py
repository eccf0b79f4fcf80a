"""A folder of speech as it comes: read, and checked recording by recording.

Nothing here ends on a bad recording or text. What cannot be used becomes a ``Fault``,
what can be used but deserves a look a ``Finding`` among the warnings.
"""

import hashlib
import os
import re
import sys
from pathlib import Path
from typing import Dict, Iterable, List, NamedTuple, Optional, Tuple

import numpy as np
import soundfile
from espnet2.text.build_tokenizer import build_tokenizer
from espnet2.text.cleaner import TextCleaner
from tqdm import tqdm

from espnet_prune.errors import UserError
from espnet_prune.processes import process_pool
from espnet_prune.speech.reference import (
    CLIPPED_ERROR,
    CLIPPED_WARNING,
    LARGEST_FLOAT,
    PAUSE_DB,
    clipped_share,
    frame_levels,
    is_silent,
)

AUDIO = (".wav", ".flac")
SILENT_WARNING = 0.5  # share of 20 ms frames that are pauses
# A text that is said this many times faster or slower than the median is suspicious.
UNUSUAL_RATE = 2.5


class Utterance(NamedTuple):
    """A recording and what is said in it, as found on disk."""

    name: str  # SPEAKER-REST: Kaldi's scripts want ids that sort as their speakers do
    speaker: str
    path: Path
    text: Optional[str]  # None if there is none


class Finding(NamedTuple):
    """Something about an utterance that the user should know."""

    name: str
    reason: str  # the same words for all of a kind
    detail: str


class Settings(NamedTuple):
    """What the recordings have to fit."""

    fs: int = 22050  # Hz
    n_shift: int = 256  # samples a mel frame
    min_seconds: float = 0.5
    max_seconds: float = 20.0
    token_type: str = "phn"
    g2p: str = "espeak_ng_english_us_vits"
    cleaner: str = "none"


class Checked(NamedTuple):
    """What was measured of an utterance."""

    utterance: Utterance
    fault: Optional[Finding] = None  # of the recording
    text_fault: Optional[Finding] = None
    seconds: float = 0.0
    rate: int = 0  # Hz
    channels: int = 0
    clipped: float = 0.0  # share of samples at the peak
    silent: float = 0.0  # share of frames that are pauses
    digest: bytes = b""  # of the samples
    tokens: int = 0
    token_kinds: Tuple[str, ...] = ()


# ----------------------------------------------------------------- the two layouts


def read_corpus(
    folder: Path, base_dir: Path, needs_text: bool = True
) -> Tuple[List[Utterance], List[Finding]]:
    """Find the utterances of a Kaldi folder or of a tree SPEAKER/NAME.wav.

    Args:
        folder: has wav.scp, utt2spk and text, or a folder a speaker.
        base_dir: another folder that paths in wav.scp may be relative to.
        needs_text: whether a Kaldi folder without text is refused.

    Returns:
        Utterances sorted by name, and what had to be left out.

    Raises:
        UserError: there is no such folder, or it has neither layout.

    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; name the folder of the corpus")
    if (folder / "wav.scp").is_file():
        found, faults = _read_kaldi(folder, base_dir, needs_text)
    else:
        found, faults = _read_tree(folder)
    speakers: Dict[str, str] = {}
    utterances: Dict[str, Utterance] = {}
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
        else:
            utterances[safe] = Utterance(safe, safe_speaker, path, text)
    if not utterances:
        raise UserError(
            f"{folder} has no usable recording: give a folder with wav.scp, utt2spk "
            "and text, or with SPEAKER/NAME.wav (or .flac) and SPEAKER/NAME.txt"
        )
    return [utterances[name] for name in sorted(utterances)], faults


def _read_kaldi(folder: Path, base_dir: Path, needs_text: bool):
    """Give (id, speaker, path, text) and faults; bases of paths: see below."""
    if (folder / "segments").exists():
        raise UserError(
            f"{folder} has segments: cut the recordings first, one file an utterance"
        )
    for needed in ["utt2spk"] + ["text"] * needs_text:
        if not (folder / needed).is_file():
            raise UserError(f"{folder} has wav.scp but no {needed}; add it")
    faults: List[Finding] = []
    paths = _read_table(folder / "wav.scp", faults)
    for name, path in paths.items():
        if path.endswith("|"):
            raise UserError(
                f"{folder / 'wav.scp'} has a command for {name}: write the recordings "
                "to files and name those"
            )
    speakers = _read_table(folder / "utt2spk", faults)
    has_text = (folder / "text").is_file()
    texts = _read_table(folder / "text", faults) if has_text else {}
    # Kaldi's recipes have them relative to a folder above data/NAME.
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


def _read_table(path: Path, faults: List[Finding]) -> Dict[str, str]:
    """Read lines ``ID VALUE``; of an id that comes twice the first line counts."""
    table: Dict[str, str] = {}
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        try:
            words = line.decode("utf-8-sig").split(maxsplit=1)
        except UnicodeDecodeError:
            name = line.split(maxsplit=1)[0].decode("ascii", "replace")
            faults.append(Finding(name, "not UTF-8", f"line {number} of {path}"))
            continue
        if not words:
            continue
        if words[0] in table:
            detail = f"line {number} of {path}"
            faults.append(Finding(words[0], "duplicate id", detail))
        else:
            table[words[0]] = words[1].strip() if len(words) == 2 else ""
    return table


def _read_tree(folder: Path):
    """Give (NAME, speaker, path, text) of SPEAKER/NAME.wav, and faults.

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
        texts = {Path(f).stem: f for f in files if f.lower().endswith(".txt")}
        recorded = set()
        for file in sorted(files):
            path = Path(os.path.abspath(root)) / file
            if path.suffix.lower() not in AUDIO or file.startswith("."):
                continue
            recorded.add(path.stem)
            speaker, *inside = (Path(root) / path.stem).relative_to(folder).parts
            if not inside:
                reason = "not in the folder of a speaker"
                faults.append(Finding(path.stem, reason, str(path)))
                continue
            text = None
            if path.stem in texts:
                try:
                    text = path.with_name(texts[path.stem]).read_text("utf-8-sig")
                except (UnicodeDecodeError, OSError) as error:
                    reason = "text cannot be read"
                    faults.append(Finding(path.stem, reason, f"{path}: {error}"))
                    continue
            found.append(("-".join(inside), speaker, path, text))
        for stem in sorted(texts.keys() - recorded):
            detail = str(Path(os.path.abspath(root)) / texts[stem])
            faults.append(Finding(stem, "no recording", detail))
    return found, faults


# ------------------------------------------------------------ one recording at a time


class Checker:
    """Judges utterances, one a call; made once a process, for tokenizers cannot travel.

    Raises:
        UserError: these settings have no tokenizer.

    """

    def __init__(self, settings: Settings):
        self.settings = settings
        # Pieces are not known yet; there are no more of them than characters.
        kind = "char" if settings.token_type == "bpe" else settings.token_type
        try:
            self.clean = TextCleaner(
                None if settings.cleaner == "none" else settings.cleaner
            )
            self.clean("a")  # it looks for what it needs when it is called
            self.tokenizer = build_tokenizer(
                kind, g2p_type=None if settings.g2p == "none" else settings.g2p
            )
        except Exception as error:  # whatever a g2p or cleaner raises
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise UserError(
                f"no tokens can be made with token_type {kind}, g2p {settings.g2p}, "
                f"cleaner {settings.cleaner} ({reason[0]}); install what is missing or "
                "choose others"
            ) from error

    def tokenize(self, text: str) -> List[str]:
        """Make tokens of a text, as training will."""
        return self.tokenizer.text2tokens(self.clean(text))

    def __call__(self, utterance: Utterance) -> Checked:
        """Measure an utterance; a fault takes the place of what cannot be measured."""
        try:
            return self._judge_text(self._judge_recording(utterance))
        except Exception as error:  # one odd file must not end a night's work
            detail = f"{utterance.path}: {type(error).__name__}: {error}"
            fault = Finding(utterance.name, "cannot be judged", detail)
            return Checked(utterance, fault=fault, text_fault=fault)

    def _judge_recording(self, utterance: Utterance) -> Checked:
        path = utterance.path
        wanted = self.settings

        def faulty(reason, detail=""):
            detail = f"{path}: {detail}" if detail else str(path)
            return Checked(utterance, fault=Finding(utterance.name, reason, detail))

        if not path.is_file():
            return faulty("missing file")
        try:
            with soundfile.SoundFile(path) as file:
                rate, frames = file.samplerate, file.frames
                seconds = frames / rate
                if frames == 0:
                    return faulty("no samples")
                if seconds < wanted.min_seconds:
                    return faulty("too short", f"{seconds:.2f} s")
                if seconds > wanted.max_seconds:
                    return faulty("too long", f"{seconds:.1f} s")
                samples = file.read(dtype="float32", always_2d=True)
        except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
            return faulty("unreadable audio", str(error))
        if len(samples) != frames:
            found = f"{len(samples)} samples of {frames}"
            return faulty("unreadable audio", found)
        if not np.isfinite(samples).all():
            return faulty("samples that are no numbers")
        peaks = np.abs(samples).max(axis=0)
        if peaks.max() > LARGEST_FLOAT:
            return faulty("samples far above full scale", f"up to {peaks.max():.0f}")
        clipped = clipped_share(samples)
        mono = samples.mean(axis=1)
        level = frame_levels(mono, rate)
        if is_silent(level):
            return faulty("silent", f"reaches {level.max():.0f} dBFS")
        if clipped > CLIPPED_ERROR:
            return faulty("clipped", f"{100 * clipped:.0f} % of samples at the peak")
        return Checked(
            utterance,
            seconds=seconds,
            rate=rate,
            channels=samples.shape[1],
            clipped=clipped,
            silent=float((level < level.max() - PAUSE_DB).mean()),
            digest=hashlib.blake2b(samples.tobytes(), digest_size=16).digest(),
        )

    def _judge_text(self, checked: Checked) -> Checked:
        utterance = checked.utterance

        def faulty(reason, detail=""):
            fault = Finding(utterance.name, reason, detail or str(utterance.path))
            return checked._replace(text_fault=fault)

        if utterance.text is None:
            return faulty("no text")
        if not utterance.text.strip():
            return faulty("empty text")
        try:
            tokens = self.tokenize(utterance.text)
        except Exception as error:  # of a g2p
            return faulty("text cannot be tokenised", f"{utterance.text}: {error}")
        if not has_speech(tokens):
            return faulty("text without tokens", utterance.text)
        if checked.fault is None:
            samples = int(checked.seconds * checked.rate + 0.5)
            frames = samples * self.settings.fs // checked.rate
            frames = frames // self.settings.n_shift + 1
            if frames < len(tokens) + 1:
                detail = f"{frames} frames for {len(tokens)} tokens and <eos>"
                return faulty("too short for its text", detail)
        return checked._replace(tokens=len(tokens), token_kinds=tuple(set(tokens)))


def has_speech(tokens: Iterable[str]) -> bool:
    """Tell whether any token is more than a space or a punctuation mark."""
    return any(
        character.isalnum()
        for token in tokens
        if token not in ("<space>", "<unk>")
        for character in token
    )


# ------------------------------------------------------------------------ all of them

_checker: Optional[Checker] = None


def _start_worker(settings: Settings) -> None:
    global _checker
    _checker = Checker(settings)


def _check_one(utterance: Utterance) -> Checked:
    return _checker(utterance)


def progress(iterable, total: int, label: str):
    """Show a bar; where there is no terminal, a line twice a minute."""
    interval = 0.5 if sys.stderr.isatty() else 30
    return tqdm(iterable, label, total, unit="file", mininterval=interval, ncols=79)


def in_parallel(function, items: list, nj: int, label: str, start=None, arguments=()):
    """Apply a function to all items in ``nj`` processes, in order, with progress.

    Raises:
        UserError: a process was killed from outside.

    """
    if nj <= 1 or len(items) < 2 * nj:
        if start is not None:
            start(*arguments)
        yield from progress(map(function, items), len(items), label)
        return
    chunk = max(1, min(64, len(items) // (4 * nj)))
    with process_pool(nj, start, *arguments) as pool:
        results = pool.map(function, items, chunksize=chunk)
        yield from progress(results, len(items), label)


def check(
    utterances: List[Utterance], settings: Settings, nj: int, label: str
) -> List[Checked]:
    """Measure all utterances; of recordings with the same samples the first counts.

    Raises:
        UserError: these settings have no tokenizer.

    """
    Checker(settings)  # says what is wrong before any process is started
    checked, seen = [], {}
    for one in in_parallel(
        _check_one, utterances, nj, label, _start_worker, (settings,)
    ):
        if one.fault is None:
            first = seen.setdefault(one.digest, one.utterance)
            if first is not one.utterance:
                detail = f"{one.utterance.path}: the same as {first.path}"
                fault = Finding(one.utterance.name, "same recording twice", detail)
                one = one._replace(fault=fault)
        # what came from other processes shares no strings yet
        kinds = tuple(map(sys.intern, one.token_kinds))
        checked.append(one._replace(token_kinds=kinds))
    return checked


def find_warnings(kept: List[Checked], fs: int) -> List[Finding]:
    """List what is used but deserves a look."""
    warnings = []
    spoken = [one for one in kept if one.tokens]
    usual = np.median([one.tokens / one.seconds for one in spoken]) if spoken else 0
    for one in kept:
        name = one.utterance.name
        if one.clipped > CLIPPED_WARNING:
            share = f"{100 * one.clipped:.1f} % of samples at the peak"
            warnings.append(Finding(name, "somewhat clipped", share))
        if one.silent > SILENT_WARNING:
            share = f"{100 * one.silent:.0f} % of its length"
            warnings.append(Finding(name, "mostly silent", share))
        if one.rate < 0.7 * fs:
            detail = f"{one.rate} Hz, the model speaks at {fs} Hz"
            warnings.append(Finding(name, "low sampling rate", detail))
        if one.tokens:
            ratio = one.tokens / one.seconds / usual
            if not 1 / UNUSUAL_RATE < ratio < UNUSUAL_RATE:
                detail = f"said {ratio:.2f} times as fast as the median text"
                warnings.append(Finding(name, "text may not fit", detail))
    return warnings
