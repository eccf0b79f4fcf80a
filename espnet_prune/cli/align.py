"""Find in recordings where each token of their text ends, for given durations.

Reads Kaldi folders DATA_DIR/SET and writes ``token_ends`` into each: the seconds at
which the tokens of an utterance and <eos> end. Utterances that cannot be aligned leave
``text`` and are listed in ``unaligned.tsv``; utils/fix_data_dir.sh takes them out of
the other files. What was found is kept in DATA_DIR/token_ends, so that an interrupted
run goes on where it was.
"""

import argparse
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Tuple

import soundfile
import torch
import torchaudio
from espnet2.text.build_tokenizer import build_tokenizer
from espnet2.text.cleaner import TextCleaner
from tqdm import tqdm

from espnet_prune.data.forced_alignment import (
    RATE,
    AlignmentError,
    ForcedAligner,
    words_of,
)
from espnet_prune.errors import UserError
from espnet_prune.files import read_columns, replace_when_written
from espnet_prune.processes import process_pool

# Fewer is a text in another language, or texts of other recordings.
SMALLEST_SHARE = 0.5


class Utterance(NamedTuple):
    """What to align."""

    name: str
    tokens: Tuple[str, ...]
    path: str


class Aligned(NamedTuple):
    """Where tokens end, or why that is unknown."""

    utterance: Utterance
    ends: Optional[List[float]]
    fault: str = ""


_aligner = None


def _start_worker() -> None:
    global _aligner
    torch.set_num_threads(1)
    _aligner = ForcedAligner()


def align_one(utterance: Utterance) -> Aligned:
    """Align one utterance in a process that has an aligner."""
    try:
        speech, rate = soundfile.read(utterance.path, dtype="float32", always_2d=True)
    except (OSError, soundfile.LibsndfileError) as error:
        return Aligned(utterance, None, f"unreadable: {' '.join(str(error).split())}")
    mono = torch.from_numpy(speech.mean(axis=1))
    mono = torchaudio.functional.resample(mono, rate, RATE)
    try:
        return Aligned(utterance, _aligner.token_ends(utterance.tokens, mono.numpy()))
    except AlignmentError as error:
        return Aligned(utterance, None, str(error))


def align(folder: Path, store: Path, tokenize, nj: int) -> Tuple[int, int]:
    """Align one set.

    Args:
        folder: Kaldi folder with ``text`` and ``wav.scp``, files only.
        store: file that keeps what was found, one utterance a line.
        tokenize: makes tokens of a text.
        nj: processes.

    Returns:
        Numbers of utterances that were aligned and that were left out.

    Raises:
        UserError: most utterances cannot be aligned, or a file is missing.

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
    for one in utterances:
        words_of(one.tokens)  # no English phonemes: said before any process is started
    ends = _found(store, utterances)
    faults: Dict[str, str] = {}
    jobs = [one for one in utterances if one.name not in ends]
    store.parent.mkdir(parents=True, exist_ok=True)
    with (
        process_pool(nj, _start_worker) as pool,
        store.open("a", encoding="utf-8") as found,
        tqdm(desc=folder.name, total=len(utterances), initial=len(ends)) as progress,
    ):
        for result in pool.map(align_one, jobs, chunksize=8) if jobs else ():
            one = result.utterance
            if result.ends is None:
                faults[one.name] = result.fault
            else:
                ends[one.name] = " ".join(f"{end:.5f}" for end in result.ends)
                found.write(f"{_key(one)}\t{ends[one.name]}\n")
                found.flush()
            progress.update()
    if len(ends) < SMALLEST_SHARE * len(utterances):
        name, fault = next(iter(faults.items()))
        raise UserError(
            f"{len(faults)} of {len(utterances)} utterances of {folder} cannot be "
            f"aligned, {name} for one ({fault}): check that texts and recordings "
            "belong together and are English, or learn the durations"
        )
    _write(folder / "unaligned.tsv", "\t", faults)
    _write(folder / "token_ends", " ", ends, texts)
    _write(folder / "text", " ", texts, ends)
    return len(ends), len(faults)


def _key(utterance: Utterance) -> str:
    """Name an utterance so that another text or recording has another name."""
    try:
        info = soundfile.info(utterance.path)
        length = f"{info.frames}/{info.samplerate}"
    except (OSError, soundfile.LibsndfileError):
        length = "unreadable"
    return "\t".join((utterance.name, length, " ".join(utterance.tokens)))


def _found(store: Path, utterances: List[Utterance]) -> Dict[str, str]:
    """Read what an earlier run has found of these utterances, as they are now."""
    if not store.exists():
        return {}
    lines = store.read_text(encoding="utf-8").split("\n")
    # what follows the last line end was cut off by the interruption
    known = dict(line.rsplit("\t", 1) for line in lines[:-1] if "\t" in line)
    with replace_when_written(store) as partial:
        partial.write_text(
            "".join(f"{key}\t{ends}\n" for key, ends in known.items()), encoding="utf-8"
        )
    keys = {one.name: _key(one) for one in utterances}
    return {name: known[key] for name, key in keys.items() if key in known}


def _write(path: Path, separator: str, values: Dict[str, str], names=None) -> None:
    """Write a table, of ``names`` alone if given; remove it if it would be empty."""
    lines = [
        f"{name}{separator}{values[name]}\n"
        for name in (values if names is None else names)
        if name in values
    ]
    if not lines:
        path.unlink(missing_ok=True)
        return
    with replace_when_written(path) as partial:
        partial.write_text("".join(lines), encoding="utf-8")


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = argparse.ArgumentParser(
        description="Find in recordings where each token of their text ends.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("sets", nargs="+", help="names of Kaldi folders in --data_dir")
    add("--data_dir", type=Path, default=Path("data"), help="has SET/text, SET/wav.scp")
    add("--g2p", required=True, help="ESPnet's g2p of the tokens, of English")
    add("--cleaner", default="none", help="ESPnet's text cleaner")
    add("--nj", type=int, default=4, help="processes")
    return parser


def main(cmd=None) -> None:
    """Align each set."""
    args = get_parser().parse_args(cmd)
    if args.nj < 1:
        raise UserError(f"--nj is {args.nj}: choose at least 1")
    ForcedAligner()  # says what is missing before any text is read
    clean = TextCleaner(None if args.cleaner == "none" else args.cleaner)
    tokenizer = build_tokenizer(token_type="phn", g2p_type=args.g2p)
    for name in args.sets:
        aligned, left_out = align(
            args.data_dir / name,
            args.data_dir / "token_ends" / name,
            lambda text: tokenizer.text2tokens(clean(text)),
            args.nj,
        )
        print(f"{args.data_dir / name}: {aligned} aligned, {left_out} left out")
