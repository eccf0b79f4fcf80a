"""The corpora of unseen and seen speakers on disk.

VCTK        release 0.92: ``wav48_silence_trimmed/p225/p225_001_mic1.flac``; before it:
            ``wav48/p225/p225_001.wav``; texts of both: ``txt/p225/p225_001.txt``
LibriSpeech ``test-other/367/130732/367-130732-0000.flac`` and one
            ``367-130732.trans.txt`` a chapter; texts with punctuation, if the
            manifest of LibriSpeech-PC, ``test-other.json``, lies beside ``test-other``
LibriTTS    ``train-clean-100/103/1241/103_1241_000000_000001.wav`` and
            ``103_1241_000000_000001.normalized.txt``

The name of an utterance is that in the corpus, without the microphone.
"""

import functools
import json
import os
from pathlib import Path

from espnet_prune.data.kaldi import fault_of_id
from espnet_prune.errors import UserError
from espnet_prune.text.normalise import lower, normalise, read_lines

VCTK_LEFT_OUT = {
    "p315": "there are no texts of this speaker",
    "s5": "is in release 0.92 only, and not among the 108",
}


class VCTK:
    """VCTK 0.92, first microphone, or the release before it.

    ``folder`` is that of the corpus, or the one that it was unpacked in.
    """

    def __init__(self, folder: Path):
        releases = (
            ("wav48_silence_trimmed", "_mic1.flac", "VCTK 0.92"),
            ("wav48", ".wav", "VCTK before 0.92"),
        )
        found = [
            (root, *release)
            for root in (folder, folder / "VCTK-Corpus-0.92", folder / "VCTK-Corpus")
            for release in releases
            if (root / release[0]).is_dir()
        ]
        if not found:
            raise UserError(
                f"{folder} has neither wav48_silence_trimmed nor wav48; give the folder"
                " that VCTK was unpacked in as --corpus_dir"
            )
        root, audio, self.suffix, self.title = found[0]
        self.audio, self.texts = root / audio, root / "txt"
        if not self.texts.is_dir():
            raise UserError(f"{self.texts} is missing; unpack VCTK again")

    def recording(self, utterance: str) -> Path:
        """Return the file of a recording, which may be missing."""
        speaker = utterance.partition("_")[0]
        return self.audio / speaker / f"{utterance}{self.suffix}"

    def text(self, utterance: str) -> str | None:
        """Return the text of a recording."""
        speaker = utterance.partition("_")[0]
        return _read(self.texts / speaker / f"{utterance}.txt")

    def left_out(self) -> dict[str, str]:
        """Return p315, s5 and all others without texts."""
        reasons = {}
        for name in sorted(path.name for path in self.audio.iterdir() if path.is_dir()):
            if name in VCTK_LEFT_OUT:
                reasons[name] = VCTK_LEFT_OUT[name]
            elif not (self.texts / name).is_dir():
                reasons[name] = VCTK_LEFT_OUT["p315"]
        return reasons


class Libri:
    """Common base of LibriSpeech and LibriTTS: SPEAKER/CHAPTER/ folders.

    ``folder`` is that of the corpus, of its part, or the one that it was unpacked in.
    """

    name, separator, suffix = "", "", ""

    def __init__(self, folder: Path, part: str):
        candidates = [folder / part, folder / self.name / part]
        if folder.name == part:
            candidates.insert(0, folder)
        found = [path for path in candidates if path.is_dir()]
        if not found:
            raise UserError(
                f"{folder} has no {part}; give the folder that {self.name} was "
                "unpacked in as --corpus_dir, or another --part"
            )
        self.root = found[0]
        self.title = f"{self.name} {part}"
        if not self.speakers():
            raise UserError(f"{self.root} has no SPEAKER/CHAPTER folders; unpack again")

    def speakers(self) -> list[str]:
        """Return the speakers, by number."""
        folders = (path for path in self.root.iterdir() if path.is_dir())
        names = (path.name for path in folders if path.name.isascii())
        return sorted((name for name in names if name.isdigit()), key=int)

    def utterances(self, speaker: str) -> list[str]:
        """Return the recordings of a speaker, in order."""
        files = (self.root / speaker).glob(f"*/*{self.suffix}")
        names = (file.name.removesuffix(self.suffix) for file in files)
        return sorted(
            name
            for name in names
            if name.startswith(f"{speaker}{self.separator}")
            and name.count(self.separator) > 1
            and not fault_of_id(name)
        )

    def left_out(self) -> dict[str, str]:
        """Return no speaker: all can be used."""
        return {}

    def _chapter(self, utterance: str) -> Path:
        return self.root.joinpath(*utterance.split(self.separator)[:2])

    def recording(self, utterance: str) -> Path:
        """Return the file of a recording, which may be missing."""
        return self._chapter(utterance) / f"{utterance}{self.suffix}"


class LibriSpeech(Libri):
    """LibriSpeech, whose texts are capitals without punctuation.

    If the manifest of LibriSpeech-PC (OpenSLR 145) lies beside the part, for instance
    ``test-clean.json``, texts are its own, with punctuation and case.
    """

    name, separator, suffix = "LibriSpeech", "-", ".flac"

    def __init__(self, folder: Path, part: str):
        super().__init__(folder, part)
        manifest = self.root.with_name(f"{self.root.name}.json")
        self.punctuated = {}
        if os.path.lexists(manifest):
            self.punctuated = _read_manifest(manifest)
            self.title += " with the texts of LibriSpeech-PC"

    def text(self, utterance: str) -> str | None:
        """Return the text of a recording, without punctuation in lower case.

        A phonemizer may spell words in capitals as abbreviations.
        """
        if utterance in self.punctuated:
            return self.punctuated[utterance]
        chapter = self._chapter(utterance)
        path = chapter / f"{'-'.join(utterance.split('-')[:2])}.trans.txt"
        return _read_transcripts(path).get(utterance)


class LibriTTS(Libri):
    """LibriTTS, with its normalised texts."""

    name, separator, suffix = "LibriTTS", "_", ".wav"

    def text(self, utterance: str) -> str | None:
        """Return the text of a recording."""
        return _read(self._chapter(utterance) / f"{utterance}.normalized.txt")


def _read(path: Path) -> str | None:
    """Read a text as one line, None without any that can be used."""
    try:
        return normalise("\n".join(read_lines(path))) or None
    except UserError:
        return None


def _read_manifest(path: Path) -> dict[str, str]:
    """Read a manifest of LibriSpeech-PC: JSON lines of audio_filepath and text."""
    texts = {}
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            texts[Path(entry["audio_filepath"]).stem] = normalise(entry["text"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                f"line {number} of {path} has no audio_filepath and text ({error}): "
                "unpack the manifests of LibriSpeech-PC again"
            ) from None
    if not texts:
        raise UserError(
            f"{path} is empty: unpack the manifests of LibriSpeech-PC again, or remove "
            "it for texts without punctuation"
        )
    return texts


@functools.cache
def _read_transcripts(path: Path) -> dict[str, str]:
    """Read lines ``UTTERANCE TEXT`` of a chapter, in lower case; {} without a file."""
    if not os.path.lexists(path):
        return {}
    columns = (line.split(maxsplit=1) for line in read_lines(path))
    return {
        words[0]: lower(normalise(words[1], f"{words[0]} in {path}"))
        for words in columns
        if len(words) == 2
    }


Corpus = VCTK | LibriSpeech | LibriTTS


def open_corpus(name: str, folder: Path, part: str | None) -> Corpus:
    """Find vctk, librispeech or libritts on disk; only the last two have parts."""
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; correct --corpus_dir")
    if name == "librispeech":
        return LibriSpeech(folder, part or "test-other")
    if name == "libritts":
        return LibriTTS(folder, part or "train-clean-100")
    if part is not None:
        raise UserError(f"--part is {part}, but VCTK has no parts; leave it out")
    return VCTK(folder)
