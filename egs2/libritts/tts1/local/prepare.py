#!/usr/bin/env python3
"""LibriTTS and its labels as Kaldi folders; what is done is kept, see ``check_part``.

data/train-clean-460_phn  phones of the labels, and where each ends (--durations given)
data/dev-clean_phn        the same
data/train-clean-460      English texts, for durations that are learned
data/dev-clean            the same
data/test-clean           English texts
data/test_unseen          sentences of test-clean in the voice of their reader, who is
                          not in training: wav.scp is a reference, gt_wav.scp is what
                          the reader said
data/test_seen            the same sentences in voices of training
data/arpabet/text         every token, so that all models of this recipe have the same
data/left_out.tsv         recordings that are not used, each with its reason

A speaker is a reader. Ids are READER-CHAPTER_PARAGRAPH_SENTENCE, for Kaldi's scripts
want them in the order of the readers, which READER_CHAPTER... would not be.
"""

import argparse
import itertools
import json
import os
import random
from pathlib import Path
from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

import soundfile
from tqdm import tqdm

from espnet_prune.data.labels import read_labels, tokens_and_ends
from espnet_prune.errors import UserError, run
from espnet_prune.files import replace_when_written
from espnet_prune.processes import process_pool
from espnet_prune.text import arpabet

TRAIN_PARTS = ("train-clean-100", "train-clean-360")
DEV_PART, TEST_PART = "dev-clean", "test-clean"
PARTS = TRAIN_PARTS + (DEV_PART, TEST_PART)

# Labels end where the recording does, but for their two decimals.
LARGEST_MISFIT = 0.1  # seconds
# The longest hop of conf/features: learned durations need a frame for each token.
LONGEST_HOP = 0.016  # seconds
REFERENCE_SECONDS = (4.0, 10.0)  # if a reader has some; 2 s at least
SHORTEST_REFERENCE = 2.0
SENTENCE_SECONDS = (2.0, 12.0)

LABEL_SUFFIXES = (".lab", ".TextGrid")
CHECKED_AT_ONCE = 200  # utterances between two writes of what is done


class Utterance(NamedTuple):
    """A recording, what was measured of it, and why it cannot be used."""

    name: str
    speaker: str
    wav: str
    seconds: float = 0.0
    text: str = ""
    tokens: str = ""  # phones of the labels
    ends: str = ""  # where each, and <eos>, end in seconds
    fault: Tuple[str, str] = ("", "")  # of the recording or text: reason, detail
    label_fault: Tuple[str, str] = ("", "")


# ------------------------------------------------------------------ one recording


class Checker:
    """Reads what belongs to one recording.

    Args:
        label_root: folder of a part's labels, laid out as its recordings; None if
            labels are not asked for.
    """

    def __init__(self, label_root: Optional[Path] = None):
        self.label_root = label_root

    def __call__(self, wav: Path) -> Utterance:
        """Read one recording; a fault takes the place of what cannot be read."""
        reader, chapter = wav.parts[-3:-1]
        rest = wav.stem.removeprefix(f"{reader}_")
        utterance = Utterance(f"{reader}-{rest}", reader, str(wav))
        try:
            info = soundfile.info(str(wav))
            text = wav.with_suffix(".normalized.txt").read_text(encoding="utf-8")
        except FileNotFoundError as error:
            return utterance._replace(fault=("no text", str(error.filename)))
        except (soundfile.LibsndfileError, OSError, UnicodeDecodeError) as error:
            return utterance._replace(fault=("unreadable", f"{wav}: {error}"))
        seconds, text = info.frames / info.samplerate, " ".join(text.split())
        utterance = utterance._replace(seconds=seconds, text=text)
        if not text or info.frames == 0:
            fault = "empty text" if info.frames else "no samples"
            return utterance._replace(fault=(fault, str(wav)))
        if self.label_root is None:
            return self._judge_text(utterance)
        return self._add_labels(utterance, self.label_root / reader / chapter, wav.stem)

    def _judge_text(self, utterance: Utterance) -> Utterance:
        tokens = arpabet.to_tokens(utterance.text)
        if not tokens:
            fault = ("text without a word", utterance.text)
        elif utterance.seconds < (len(tokens) + 2) * LONGEST_HOP:
            fault = ("too short for its text", f"{len(tokens)} tokens")
        else:
            return utterance
        return utterance._replace(fault=fault)

    def _add_labels(self, utterance: Utterance, folder: Path, stem: str) -> Utterance:
        found = [folder / f"{stem}{suffix}" for suffix in LABEL_SUFFIXES]
        file = next((path for path in found if path.exists()), None)
        if file is None:
            fault = ("no labels", str(found[0]))
            return utterance._replace(label_fault=fault)
        try:
            tokens, ends = tokens_and_ends(read_labels(file))
        except UserError as error:
            fault = ("labels that cannot be used", f"{file}: {error}")
            return utterance._replace(label_fault=fault)
        unknown = sorted(set(tokens) - set(arpabet.TOKENS))
        fault = ("", "")
        if abs(ends[-1] - utterance.seconds) > LARGEST_MISFIT:
            detail = f"{file}: to {ends[-1]:g} s of {utterance.seconds:.2f} s"
            fault = ("labels that do not fit the recording", detail)
        elif unknown:
            fault = ("labels with unknown phones", f"{file}: {' '.join(unknown)}")
        elif not arpabet.is_phones(tokens):
            fault = ("labels without a vowel", str(file))
        return utterance._replace(
            tokens=" ".join(tokens),
            ends=" ".join(f"{end:g}" for end in [*ends, ends[-1]]),
            label_fault=fault,
        )


# ------------------------------------------------------------------ all of a part


def find_corpus(folder: Path) -> Path:
    """Find LibriTTS in ``folder`` or in its folder LibriTTS.

    Raises:
        UserError: a part is missing.

    """
    lacking = {
        corpus: [part for part in PARTS if not (corpus / part).is_dir()]
        for corpus in (folder, folder / "LibriTTS")
    }
    corpus, missing = min(lacking.items(), key=lambda item: len(item[1]))
    if missing:
        raise UserError(
            f"{corpus} lacks {', '.join(missing)} of LibriTTS: name the folder that "
            "has them by LIBRITTS in db.sh, or write downloads there"
        )
    return corpus


def find_labels(folder: Path, corpus: Path, part: str) -> Path:
    """Find the labels of a part: in a clone of LibriTTSLabel, or beside the recordings.

    Raises:
        UserError: there are none.

    """
    roots = [folder / "lab" / "phone" / part, folder / "textgrid" / part]
    roots += [folder / part, corpus / part]
    for root in roots:
        for suffix in LABEL_SUFFIXES:
            if next(root.glob(f"*/*/*{suffix}"), None):
                return root
    raise UserError(
        f"no label of {part} in {folder} (looked for {roots[0]}/READER/CHAPTER/*.lab): "
        "name the folder of the labels by LIBRITTS_LABEL in db.sh, or run with "
        "--durations learned"
    )


def check_part(
    corpus: Path, part: str, label_root: Optional[Path], done: Path, nj: int
) -> List[Utterance]:
    """Check all recordings of a part; those that were found good before are not again.

    Args:
        corpus: folder of the parts.
        part: name of a part.
        label_root: its labels, None for none.
        done: file with what was found, a line of JSON each; written on as it comes.
        nj: processes.

    Returns:
        Utterances sorted by name.

    """
    header = json.dumps([str(corpus / part), str(label_root)])
    known: Dict[str, Utterance] = {}
    if done.exists():
        first, *lines = done.read_text(encoding="utf-8").split("\n")
        if first == header:
            for line in lines[:-1]:  # the last one is empty, or half of one
                one = Utterance(*json.loads(line))
                if not (one.fault[0] or one.label_fault[0]):
                    known[one.wav] = one
    found = {str(path): path for path in corpus.glob(f"{part}/*/*/*.wav")}
    known = {wav: one for wav, one in known.items() if wav in found}
    wavs = [path for wav, path in found.items() if wav not in known]
    done.parent.mkdir(parents=True, exist_ok=True)
    with replace_when_written(done) as partial:  # without the half of a line
        lines = [header, *(json.dumps(one) for one in known.values())]
        partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    check = Checker(label_root)
    with (
        done.open("a", encoding="utf-8") as file,
        tqdm(desc=part, initial=len(known), total=len(known) + len(wavs)) as progress,
    ):
        for batch in _checked(check, sorted(wavs), nj):
            file.write("".join(f"{json.dumps(one)}\n" for one in batch))
            file.flush()
            known.update((one.wav, one) for one in batch)
            progress.update(len(batch))
    return sorted(known.values())


def _check_all(check: Checker, wavs: Sequence[Path]) -> List[Utterance]:
    return [check(wav) for wav in wavs]


def _checked(check, wavs, nj) -> Iterable[List[Utterance]]:
    batches = [
        wavs[start : start + CHECKED_AT_ONCE]
        for start in range(0, len(wavs), CHECKED_AT_ONCE)
    ]
    if nj == 1 or len(batches) < 2:
        yield from (_check_all(check, batch) for batch in batches)
        return
    with process_pool(nj) as pool:
        yield from pool.map(_check_all, itertools.repeat(check), batches)


# ------------------------------------------------------------------------ test sets


def draw_references(utterances: List[Utterance], seed: int) -> Dict[str, Utterance]:
    """Draw one recording of each speaker who has one that is long enough.

    Leaving out others does not change it: models on labels, some of which are missing,
    and models without are to be heard in the same voices.
    """
    references = {}
    for speaker, group in itertools.groupby(utterances, lambda one: one.speaker):
        long_enough = [one for one in group if one.seconds >= SHORTEST_REFERENCE]
        low, high = REFERENCE_SECONDS
        best = [one for one in long_enough if low <= one.seconds <= high]
        if long_enough:
            references[speaker] = min(
                best or long_enough,
                key=lambda one: random.Random(f"{seed} {one.name}").random(),
            )
    return references


def draw_sentences(
    utterances: List[Utterance],
    references: Dict[str, Utterance],
    number: int,
    seed: int,
) -> List[Utterance]:
    """Draw ``number`` recordings of each speaker, never the reference."""
    drawn = []
    for speaker, group in itertools.groupby(utterances, lambda one: one.speaker):
        low, high = SENTENCE_SECONDS
        possible = [
            one
            for one in group
            if one != references.get(speaker) and low <= one.seconds <= high
        ]
        if speaker in references:
            generator = random.Random(f"{seed} {speaker} sentences")
            drawn += sorted(generator.sample(possible, min(number, len(possible))))
    return drawn


def unseen_tables(references, sentences) -> Dict[str, Dict[str, str]]:
    """Make tables of sentences in the voice of their own readers."""
    return {
        "text": {one.name: one.text for one in sentences},
        "utt2spk": {one.name: one.speaker for one in sentences},
        "wav.scp": {one.name: references[one.speaker].wav for one in sentences},
        "gt_wav.scp": {one.name: one.wav for one in sentences},
    }


def seen_tables(
    utterances: List[Utterance], sentences: List[Utterance], seed: int
) -> Dict[str, Dict[str, str]]:
    """Make tables of the same sentences in as many voices of training."""
    references = draw_references(utterances, seed)
    readers = sorted({one.speaker for one in sentences})
    number = min(len(readers), len(references))
    voices = dict(zip(readers, random.Random(seed).sample(sorted(references), number)))
    tables: Dict[str, Dict[str, str]] = {"text": {}, "utt2spk": {}, "wav.scp": {}}
    for one in sentences:
        if one.speaker in voices:
            voice = voices[one.speaker]
            name = f"{voice}-{one.name}"
            tables["text"][name] = one.text
            tables["utt2spk"][name] = voice
            tables["wav.scp"][name] = references[voice].wav
    return tables


# ---------------------------------------------------------------------- what is written


def recorded_tables(
    utterances: List[Utterance], labelled: bool
) -> Dict[str, Dict[str, str]]:
    """Make tables of recordings, with the phones of their labels or English texts."""
    tables = {
        "text": {one.name: one.tokens if labelled else one.text for one in utterances},
        "utt2spk": {one.name: one.speaker for one in utterances},
        "wav.scp": {one.name: one.wav for one in utterances},
    }
    if labelled:
        tables["token_ends"] = {one.name: one.ends for one in utterances}
    return tables


def write_folder(folder: Path, tables: Dict[str, Dict[str, str]]) -> None:
    """Write a Kaldi folder, sorted as the C locale does."""
    folder.mkdir(parents=True, exist_ok=True)
    speakers = tables["utt2spk"]
    by_speaker = itertools.groupby(sorted(speakers), speakers.get)
    tables = {**tables, "spk2utt": {s: " ".join(group) for s, group in by_speaker}}
    for name, table in tables.items():
        with replace_when_written(folder / name) as partial:
            lines = "".join(f"{key} {table[key]}\n" for key in sorted(table))
            partial.write_text(lines, encoding="utf-8")


def prepare(args: argparse.Namespace) -> None:
    """Check the corpus and write the folders.

    Raises:
        UserError: a part or its labels are missing, or nothing can be used.

    """
    labelled = args.durations == "given"
    nj = min(args.nj, len(os.sched_getaffinity(0)))  # --nj may count a cluster's cores
    corpus = find_corpus(args.corpus.resolve())
    used: Dict[str, List[Utterance]] = {}
    left_out = []
    roots = {  # all of them before hours of work
        part: find_labels(args.labels.resolve(), corpus, part)
        for part in TRAIN_PARTS + (DEV_PART,)
        if labelled
    }
    for part in PARTS:
        root = roots.get(part)
        kind = "phn" if root else "text"
        done = args.data_dir / "local" / f"{part}_{kind}.jsonl"
        checked = check_part(corpus, part, root, done, nj)
        used[part], gone = [], []
        for one in checked:
            reason, detail = one.fault if one.fault[0] else one.label_fault
            if reason:
                gone.append((part, one.name, reason, detail))
            else:
                used[part].append(one)
        left_out += gone
        report_part(part, used[part], gone, args.data_dir)
        write_left_out(args.data_dir / "left_out.tsv", left_out)
        if not used[part]:
            raise UserError(
                f"no recording of {part} can be used, for instance {gone[0][2]} "
                f"({gone[0][3]}): see {args.data_dir}/left_out.tsv and name other "
                "copies in db.sh"
                if checked
                else f"{corpus / part} has no READER/CHAPTER/*.wav: unpack it again"
            )

    train = sorted(one for part in TRAIN_PARTS for one in used[part])
    test = used[TEST_PART]
    references = draw_references(test, args.seed)
    sentences = draw_sentences(test, references, args.num_texts, args.seed)
    suffix = "_phn" if labelled else ""
    folders = {
        f"train-clean-460{suffix}": recorded_tables(train, labelled),
        f"{DEV_PART}{suffix}": recorded_tables(used[DEV_PART], labelled),
        TEST_PART: recorded_tables(test, False),
        "test_unseen": unseen_tables(references, sentences),
        "test_seen": seen_tables(train, sentences, args.seed),
    }
    print(f"Sets in {args.data_dir}")
    for name, tables in folders.items():
        write_folder(args.data_dir / name, tables)
        speakers = len(set(tables["utt2spk"].values()))
        print(f"  {name:20s} {len(tables['text'])} utterances, {speakers} speakers")
    tokens = args.data_dir / "arpabet" / "text"
    tokens.parent.mkdir(exist_ok=True)
    tokens.write_text(f"arpabet {' '.join(arpabet.TOKENS)}\n", encoding="utf-8")


def report_part(part, used, gone, data_dir: Path) -> None:
    """Print how much of a part is used, and what is left out by reason."""
    hours = sum(one.seconds for one in used) / 3600
    speakers = len({one.speaker for one in used})
    print(f"{part}: {len(used)} recordings, {speakers} readers, {hours:.2f} h")
    if gone:
        print(f"  left out: {len(gone)}, listed in {data_dir}/left_out.tsv")
        reasons = [reason for _, _, reason, _ in gone]
        for reason in sorted(set(reasons)):
            print(f"    {reasons.count(reason)}  {reason}")


def write_left_out(path: Path, rows: List[Tuple[str, str, str, str]]) -> None:
    """Write what was left out, tab-separated."""
    lines = ["part\tutterance\treason\tdetail"]
    lines += ["\t".join(" ".join(cell.split()) for cell in row) for row in rows]
    with replace_when_written(path) as partial:
        partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def get_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--corpus", type=Path, required=True, help="LibriTTS, or the folder it is in")
    add("--labels", type=Path, required=True, help="LibriTTSLabel")
    add("--data_dir", type=Path, default=Path("data"), help="where to write")
    add("--durations", default="given", choices=["given", "learned"], help="see run.sh")
    add("--num_texts", type=int, default=3, help="sentences a speaker says")
    add("--seed", type=int, default=0, help="of references and sentences")
    add("--nj", type=int, default=len(os.sched_getaffinity(0)), help="processes")
    return parser


def main(cmd=None) -> None:
    """Run as a command."""
    prepare(get_parser().parse_args(cmd))


if __name__ == "__main__":
    run(main)
