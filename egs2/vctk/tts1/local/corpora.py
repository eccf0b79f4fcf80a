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
from pathlib import Path

from espnet_prune.errors import UserError
from espnet_prune.text.normalise import TextError, normalise, read_lines

# The speakers of VCTK in both of its layouts.
VCTK_SPEAKERS = [
    "p225",
    "p226",
    "p227",
    "p228",
    "p229",
    "p230",
    "p231",
    "p232",
    "p233",
    "p234",
    "p236",
    "p237",
    "p238",
    "p239",
    "p240",
    "p241",
    "p243",
    "p244",
    "p245",
    "p246",
    "p247",
    "p248",
    "p249",
    "p250",
    "p251",
    "p252",
    "p253",
    "p254",
    "p255",
    "p256",
    "p257",
    "p258",
    "p259",
    "p260",
    "p261",
    "p262",
    "p263",
    "p264",
    "p265",
    "p266",
    "p267",
    "p268",
    "p269",
    "p270",
    "p271",
    "p272",
    "p273",
    "p274",
    "p275",
    "p276",
    "p277",
    "p278",
    "p279",
    "p280",
    "p281",
    "p282",
    "p283",
    "p284",
    "p285",
    "p286",
    "p287",
    "p288",
    "p292",
    "p293",
    "p294",
    "p295",
    "p297",
    "p298",
    "p299",
    "p300",
    "p301",
    "p302",
    "p303",
    "p304",
    "p305",
    "p306",
    "p307",
    "p308",
    "p310",
    "p311",
    "p312",
    "p313",
    "p314",
    "p316",
    "p317",
    "p318",
    "p323",
    "p326",
    "p329",
    "p330",
    "p333",
    "p334",
    "p335",
    "p336",
    "p339",
    "p340",
    "p341",
    "p343",
    "p345",
    "p347",
    "p351",
    "p360",
    "p361",
    "p362",
    "p363",
    "p364",
    "p374",
    "p376",
]
VCTK_LEFT_OUT = {
    "p315": "there are no texts of this speaker",
    "s5": "is in release 0.92 only, and not among the 108",
}


class Corpus:
    """A corpus on disk.

    Attributes:
        title: Its name and part, for the head of a report.

    """

    title = ""

    def recording(self, utterance: str) -> Path:
        """Return the file of a recording, which may be missing."""
        raise NotImplementedError

    def text(self, utterance: str) -> str | None:
        """Return the text of a recording, None if it is not known."""
        raise NotImplementedError

    def left_out(self) -> dict[str, str]:
        """Return speakers that cannot be used, with the reason."""
        return {}


class VCTK(Corpus):
    """VCTK 0.92, first microphone, or the release before it.

    Args:
        folder: Of the corpus, or the one that it was unpacked in.

    Raises:
        UserError: The corpus is missing.

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
        return (
            self.audio
            / utterance.split("_", maxsplit=1)[0]
            / f"{utterance}{self.suffix}"
        )

    def text(self, utterance: str) -> str | None:
        """Return the text of a recording."""
        return _read(
            self.texts / utterance.split("_", maxsplit=1)[0] / f"{utterance}.txt"
        )

    def left_out(self) -> dict[str, str]:
        """Return p315, s5 and all others without texts."""
        reasons = {}
        for name in sorted(path.name for path in self.audio.iterdir() if path.is_dir()):
            if name in VCTK_LEFT_OUT:
                reasons[name] = VCTK_LEFT_OUT[name]
            elif not (self.texts / name).is_dir():
                reasons[name] = VCTK_LEFT_OUT["p315"]
        return reasons


class Libri(Corpus):
    """Common base of LibriSpeech and LibriTTS: SPEAKER/CHAPTER/ folders.

    Args:
        folder: Of the corpus, of its part, or the one that it was unpacked in.
        part: For instance test-other.

    Raises:
        UserError: The corpus is missing.

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
        return sorted((path.name for path in folders if path.name.isdigit()), key=int)

    def utterances(self, speaker: str) -> list[str]:
        """Return the recordings of a speaker, in order."""
        files = (self.root / speaker).glob(f"*/*{self.suffix}")
        names = (file.name for file in files if not file.name.startswith("."))
        return sorted(name.removesuffix(self.suffix) for name in names)

    def _chapter(self, utterance: str) -> Path:
        speaker, chapter = utterance.split(self.separator)[:2]
        return self.root / speaker / chapter

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
        self.punctuated = _read_manifest(manifest) if manifest.is_file() else {}
        if self.punctuated:
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
        return normalise("\n".join(_lines(path))) or None
    except TextError:
        return None


def _read_manifest(path: Path) -> dict[str, str]:
    """Read a manifest of LibriSpeech-PC: JSON lines of audio_filepath and text.

    Raises:
        UserError: A line is not such a line.

    """
    texts = {}
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            texts[Path(entry["audio_filepath"]).stem] = normalise(entry["text"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"line {number} of {path} has no audio_filepath and text ({error}): "
                "unpack the manifests of LibriSpeech-PC again"
            ) from None
    return texts


@functools.cache
def _read_transcripts(path: Path) -> dict[str, str]:
    """Read lines ``UTTERANCE TEXT`` of a chapter."""
    columns = (line.split(maxsplit=1) for line in _lines(path))
    return {words[0]: words[1].strip().lower() for words in columns if len(words) == 2}


def _lines(path: Path) -> list[str]:
    try:
        return read_lines(path)
    except UserError:
        return []


PARTS = {"librispeech": "test-other", "libritts": "train-clean-100"}


def open_corpus(name: str, folder: Path, part: str | None) -> Corpus:
    """Find a corpus on disk.

    Args:
        name: vctk, librispeech or libritts.
        folder: Where it was unpacked.
        part: Of the Libri corpora; None for that of ``PARTS``.

    Raises:
        UserError: The corpus is missing.

    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; correct --corpus_dir")
    if name == "vctk":
        if part is not None:
            raise UserError(f"--part is {part}, but VCTK has no parts; leave it out")
        return VCTK(folder)
    kind = {"librispeech": LibriSpeech, "libritts": LibriTTS}[name]
    return kind(folder, part or PARTS[name])
