"""Find the ends of tokens in the recordings of sets, and convert them to durations.

``token_ends`` of a Kaldi folder has the ends of each token of an utterance and of <eos>
in seconds, so that it is valid for every sampling rate and hop size.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from espnet_prune.data.forced_alignment import (
    RATE,
    AlignmentError,
    ForcedAligner,
    words_of,
)
from espnet_prune.data.kaldi import Finding, read_columns, write_table
from espnet_prune.data.labels import frame_count, frame_durations
from espnet_prune.data.testset import write_findings
from espnet_prune.errors import UserError
from espnet_prune.files import Journal
from espnet_prune.processes import in_parallel
from espnet_prune.speech.audio import AudioError, read_header, read_mono

# A smaller share means texts in another language or of other recordings.
SMALLEST_SHARE = 0.5


class Utterance(NamedTuple):
    """An utterance to align."""

    name: str
    tokens: tuple[str, ...]
    path: str

    @property
    def key(self) -> str:
        """Return a key that differs for another text or recording."""
        try:
            header = read_header(self.path)
            length = f"{header.frames}/{header.rate}"
        except AudioError:
            length = "unreadable"
        return "\t".join((self.name, length, " ".join(self.tokens)))


class _Aligner:
    """Returns the ends of the tokens of an utterance, or why there are none."""

    def __init__(self) -> None:
        self.aligner = ForcedAligner()

    def __call__(self, utterance: Utterance) -> list[float] | Finding:
        try:
            speech = read_mono(utterance.path, RATE, "soxr")
            return self.aligner.token_ends(utterance.tokens, speech)
        except (AudioError, AlignmentError) as error:
            return Finding(utterance.name, error.reason, error.detail)


def align_folder(
    folder: Path, store: Path, tokenize: Callable[[str], Sequence[str]], nj: int
) -> tuple[int, int]:
    """Align one set, and write its ``token_ends``.

    Utterances that cannot be aligned leave ``text`` and are listed in
    ``unaligned.tsv``; most utterances must be aligned. ``store`` is a file that keeps
    the results. ``tokenize`` returns the tokens of a text.

    Returns:
        Numbers of aligned and of left-out utterances.
    """
    wavs = read_columns(folder / "wav.scp")
    texts = read_columns(folder / "text")
    missing = sorted(texts.keys() - wavs.keys())
    if missing:
        raise UserError(f"{missing[0]} of {folder}/text is not in wav.scp: repair it")
    utterances = [
        Utterance(name, tuple(tokenize(text)), wavs[name])
        for name, text in texts.items()
    ]
    faults = {}
    for one in utterances:  # before any process starts
        try:
            words_of(one.tokens)
        except AlignmentError as error:
            faults[one.name] = Finding(one.name, error.reason, error.detail)
    _require_most(folder, faults, len(utterances))
    utterances = [one for one in utterances if one.name not in faults]
    keys = {one.name: one.key for one in utterances}
    with Journal(store) as found:
        jobs = [one for one in utterances if keys[one.name] not in found.known]
        results = in_parallel(_Aligner, jobs, nj, folder.name)
        for one, result in zip(jobs, results, strict=True):
            if isinstance(result, Finding):
                faults[one.name] = result
            else:
                found.add(keys[one.name], " ".join(f"{end:.5f}" for end in result))
        ends = {
            name: found.known[key] for name, key in keys.items() if key in found.known
        }
    _require_most(folder, faults, len(texts))
    unaligned = folder / "unaligned.tsv"
    if faults:
        write_findings(unaligned, list(faults.values()))
    else:
        unaligned.unlink(missing_ok=True)
    write_table(folder / "token_ends", ends)
    write_table(folder / "text", {name: texts[name] for name in ends})
    return len(ends), len(faults)


def _require_most(folder: Path, faults: dict[str, Finding], number: int) -> None:
    if number - len(faults) < SMALLEST_SHARE * number:
        first = next(iter(faults.values()))
        raise UserError(
            f"{len(faults)} of {number} utterances of {folder} cannot be aligned, for "
            f"instance {first.utterance} ({first.reason}: {first.detail}): check that "
            "texts and recordings belong together and are English (g2p_en*, "
            "espeak_ng_english*), or learn the durations"
        )


def write_durations(
    data_dir: Path, dump_dir: Path, fs: int, n_shift: int, output: Path
) -> int:
    """Write the frames of each token and <eos> of a set; return how many it has.

    ``data_dir`` has ``token_ends``. ``dump_dir`` is the folder of the same set with
    ``utt2num_samples`` at ``fs`` Hz, which lists the utterances in use.
    """
    ends = read_columns(data_dir / "token_ends")
    table = {}
    for name, samples in read_columns(dump_dir / "utt2num_samples").items():
        if name not in ends:
            raise UserError(
                f"{name} of {dump_dir} has no line in {data_dir}/token_ends: run from "
                "stage 1 again"
            )
        try:
            times = list(map(float, ends[name].split()))
            frames = frame_count(int(samples), n_shift)
        except ValueError as error:
            raise UserError(
                f"{name} has no numbers in {data_dir}/token_ends or "
                f"{dump_dir}/utt2num_samples ({error}): run from stage 1"
            ) from None
        try:
            durations = frame_durations(times, fs, n_shift, frames)
        except (UserError, OverflowError) as error:
            raise UserError(f"{name}: {error}") from error
        table[name] = " ".join(map(str, durations))
    output.parent.mkdir(parents=True, exist_ok=True)
    write_table(output, table)
    return len(table)
