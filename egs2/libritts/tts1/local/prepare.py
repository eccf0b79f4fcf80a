#!/usr/bin/env python3
"""LibriTTS and its labels as Kaldi folders; finished work is kept, see ``check_part``.

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

A speaker is a reader. Ids are READER-CHAPTER_PARAGRAPH_SENTENCE, because Kaldi's
scripts need ids in the order of the readers. Ids with READER_CHAPTER would have another
order.
"""

import argparse
import os
import random
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from espnet_prune.cli.options import make_parser
from espnet_prune.config import require_whole
from espnet_prune.data import testset
from espnet_prune.data.kaldi import Finding, Row, fault_of_id, write_sets, write_table
from espnet_prune.data.labels import read_labels, tokens_and_ends
from espnet_prune.errors import UserError, run
from espnet_prune.files import Journal, lock_folder
from espnet_prune.processes import in_parallel
from espnet_prune.speech.audio import AudioError, read_header
from espnet_prune.text import arpabet
from espnet_prune.text.normalise import TextError, decode, find_doubts, normalise
from espnet_prune.training.identity import require_fresh_models, write_identity

TRAIN_PARTS = ("train-clean-100", "train-clean-360")
DEV_PART, TEST_PART = "dev-clean", "test-clean"
PARTS = TRAIN_PARTS + (DEV_PART, TEST_PART)

# Labels end with the recording, rounded to two decimals.
LARGEST_MISFIT = 0.1  # seconds
# The longest hop of conf/features: learned durations need a frame for each token.
LONGEST_HOP = 0.016  # seconds
SENTENCE_SECONDS = (2.0, 12.0)

LABEL_SUFFIXES = (".lab", ".TextGrid")


class Utterance(NamedTuple):
    """A recording, its measurements, and its fault if it cannot be used."""

    name: str
    speaker: str
    wav: str
    seconds: float = 0.0
    text: str = ""
    tokens: str = ""  # phones of the labels
    ends: str = ""  # where each, and <eos>, end in seconds
    fault: tuple[str, str] = ("", "")  # reason and detail
    stamp: str = ""  # of the files that this was read from


# ------------------------------------------------------------------ one recording


class Checker:
    """Reads the files of one recording, and its labels if ``label_root`` is given."""

    def __init__(self, label_root: Path | None = None):
        self.label_root = label_root

    def __call__(self, wav: Path) -> Utterance:
        """Read one recording; if that fails, the result has a fault."""
        reader = wav.parts[-3]
        rest = wav.stem.removeprefix(f"{reader}_")
        name = f"{reader}-{rest}"
        # before it is read, so that a change while it is read is noticed
        utterance = Utterance(name, reader, str(wav), stamp=self.stamp(wav))
        if fault := fault_of_id(name):
            return utterance._replace(fault=(fault, str(wav)))
        try:
            seconds = read_header(wav).seconds
            written = wav.with_suffix(".normalized.txt")
            text = normalise(decode(written.read_bytes(), written))
        except AudioError as error:
            return utterance._replace(fault=(error.reason, f"{wav} {error.detail}"))
        except TextError as error:
            return utterance._replace(fault=(error.reason, f"{wav}: {error.detail}"))
        except FileNotFoundError as error:
            return utterance._replace(fault=("no text", str(error.filename)))
        except OSError as error:
            return utterance._replace(fault=("unreadable text", f"{wav}: {error}"))
        utterance = utterance._replace(seconds=seconds, text=text)
        if not utterance.text or seconds == 0:
            fault = "empty text" if seconds else "no samples"
            return utterance._replace(fault=(fault, str(wav)))
        if self.label_root is None:
            return self._judge_text(utterance)
        return self._add_labels(utterance, self._find_labels(wav))

    def _find_labels(self, wav: Path) -> list[Path]:
        """Return the names that the labels of a recording may have."""
        if self.label_root is None:
            return []
        folder = self.label_root.joinpath(*wav.parts[-3:-1])
        return [folder / f"{wav.stem}{suffix}" for suffix in LABEL_SUFFIXES]

    def stamp(self, wav: Path) -> str:
        """Return what differs when a file of a recording has changed."""
        found = []
        for file in (wav, wav.with_suffix(".normalized.txt"), *self._find_labels(wav)):
            try:
                about = file.stat()
                found.append(f"{about.st_size}:{about.st_mtime_ns}")
            except OSError:
                found.append("-")
        return " ".join(found)

    def _judge_text(self, utterance: Utterance) -> Utterance:
        tokens = arpabet.to_tokens(utterance.text)
        doubts = find_doubts(utterance.text, "arpabet")
        if doubts:
            fault = (doubts[0].reason, doubts[0].detail)
        elif not tokens:
            fault = ("text without a word", utterance.text)
        elif utterance.seconds < (len(tokens) + 2) * LONGEST_HOP:
            fault = ("too short for its text", f"{len(tokens)} tokens")
        else:
            return utterance
        return utterance._replace(fault=fault)

    def _add_labels(self, utterance: Utterance, found: list[Path]) -> Utterance:
        file = next((path for path in found if path.exists()), None)
        if file is None:
            fault = ("no labels", str(found[0]))
            return utterance._replace(fault=fault)
        try:
            tokens, ends = tokens_and_ends(read_labels(file))
        except UserError as error:
            fault = ("labels that cannot be used", f"{file}: {error}")
            return utterance._replace(fault=fault)
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
            fault=fault,
        )


# ------------------------------------------------------------------ all of a part


def find_corpus(folder: Path) -> Path:
    """Find LibriTTS in ``folder`` or in its folder LibriTTS."""
    lacking = {
        corpus: [part for part in PARTS if not (corpus / part).is_dir()]
        for corpus in (folder, folder / "LibriTTS")
    }
    corpus, missing = min(lacking.items(), key=lambda item: len(item[1]))
    if missing:
        raise UserError(
            f"{corpus} lacks {', '.join(missing)} of LibriTTS: name their folder with "
            "LIBRITTS in db.sh, or write downloads there"
        )
    return corpus


def find_labels(folder: Path, corpus: Path, part: str) -> Path:
    """Find the labels of a part: in LibriTTSLabel, or with the recordings."""
    roots = [folder / "lab" / "phone" / part, folder / "textgrid" / part]
    roots += [folder / part, corpus / part]
    for root in roots:
        for suffix in LABEL_SUFFIXES:
            if next(root.glob(f"*/*/*{suffix}"), None):
                return root
    raise UserError(
        f"no label of {part} in {folder} (looked for "
        f"{roots[0]}/READER/CHAPTER/*.lab): name the folder of the labels with "
        "LIBRITTS_LABEL in db.sh, or run with --durations learned"
    )


def check_part(
    corpus: Path, part: str, label_root: Path | None, done: Path, nj: int
) -> list[Utterance]:
    """Check all recordings of a part; skip those that were good in an earlier run.

    Those of which a file has changed since then are checked again.
    """
    wavs = {
        str(path): path
        for path in sorted(corpus.glob(f"{part}/*/*/*.wav"))
        if not path.name.startswith(".")  # ._NAME.wav, which macOS writes
    }
    checked = {}
    state = f"{Utterance._fields} of {corpus / part} and {label_root}"
    stamp = Checker(label_root).stamp
    with Journal(done, state) as journal:
        for wav, record in journal.known.items():
            try:
                one = Utterance(*record)
            except TypeError:  # the file was damaged
                continue
            if wav in wavs and not one.fault[0] and one.stamp == stamp(wavs[wav]):
                checked[wav] = one
        new = [path for wav, path in wavs.items() if wav not in checked]
        for one in in_parallel(Checker, new, nj, part, label_root):
            journal.add(one.wav, one)
            checked[one.wav] = one
    return sorted(checked.values())


# ------------------------------------------------------------------------ test sets


def unseen_rows(references: dict[str, Utterance], targets: list[Utterance]):
    """Yield sentences in the voice of their own readers."""
    for one in targets:
        reference = references[one.speaker]
        yield testset.row(one.name, one.speaker, one.text, reference.wav, one.wav)


def seen_rows(utterances: list[Utterance], targets: list[Utterance], seed: int):
    """Yield the same sentences in as many voices of training."""
    references = testset.draw_lasting_references(utterances, seed)
    readers = list(testset.by_speaker(targets))
    number = min(len(readers), len(references))
    drawn = random.Random(seed).sample(sorted(references), number)
    voices = dict(zip(readers, drawn, strict=False))  # training may have fewer
    for one in targets:
        if one.speaker in voices:
            voice = voices[one.speaker]
            yield testset.row(
                f"{voice}-{one.name}", voice, one.text, references[voice].wav
            )


def recorded_rows(utterances: list[Utterance], labelled: bool) -> Iterable[Row]:
    """Yield recordings, with the phones of their labels or English texts."""
    for one in utterances:
        text = one.tokens if labelled else one.text
        found = testset.row(one.name, one.speaker, text, one.wav)
        yield found | {"token_ends": one.ends} if labelled else found


# ------------------------------------------------------------------------- the job


def prepare(args: argparse.Namespace) -> None:
    """Check the corpus and write the folders."""
    require_whole("--num_texts", args.num_texts)
    labelled = args.durations == "given"
    # --nj may be the number of a cluster's cores
    nj = min(args.nj, len(os.sched_getaffinity(0)))
    corpus = find_corpus(Path(os.path.realpath(args.corpus)))
    roots = {  # all are checked before hours of work
        part: find_labels(Path(os.path.realpath(args.labels)), corpus, part)
        for part in (*TRAIN_PARTS, DEV_PART)
        if labelled
    }
    with lock_folder(args.data_dir, "data preparation"):
        used: dict[str, list[Utterance]] = {}
        left_out: dict[str, list[Finding]] = {}
        for part in PARTS:
            root = roots.get(part)
            kind = "phn" if root else "text"
            done = args.data_dir / "local" / f"{part}_{kind}.jsonl"
            checked = check_part(corpus, part, root, done, nj)
            used[part] = [one for one in checked if not one.fault[0]]
            left_out[part] = [
                Finding(one.name, *one.fault) for one in checked if one.fault[0]
            ]
            report_part(part, used[part], left_out[part], args.data_dir)
            testset.write_findings(args.data_dir / "left_out.tsv", left_out, "part")
            if not checked:
                raise UserError(
                    f"{corpus / part} has no READER/CHAPTER/*.wav: unpack it again"
                )
            if not used[part]:
                first = left_out[part][0]
                raise UserError(
                    f"no recording of {part} can be used, for instance {first.reason} "
                    f"({first.detail}): see {args.data_dir}/left_out.tsv and name "
                    "other copies in db.sh"
                )
        require_unseen(used)
        draw_sets(args, used, "_phn" if labelled else "")


def require_unseen(used: dict[str, list[Utterance]]) -> None:
    """Refuse a reader in two parts, who would be in training and in a test set."""
    part_of: dict[str, str] = {}
    for part, utterances in used.items():
        for reader in testset.by_speaker(utterances):
            if part_of.setdefault(reader, part) != part:
                raise UserError(
                    f"reader {reader} is in {part_of[reader]} and in {part}, which "
                    "have no reader in common in LibriTTS: unpack both again"
                )


def draw_sets(args: argparse.Namespace, used, suffix: str) -> None:
    """Draw the test sets and write all folders."""
    train = sorted(one for part in TRAIN_PARTS for one in used[part])
    test = used[TEST_PART]
    references = testset.draw_lasting_references(test, args.seed)
    targets = testset.draw_targets(
        test, references, args.num_texts, SENTENCE_SECONDS, args.seed
    )
    sets = {
        f"train-clean-460{suffix}": recorded_rows(train, bool(suffix)),
        f"{DEV_PART}{suffix}": recorded_rows(used[DEV_PART], bool(suffix)),
        TEST_PART: recorded_rows(test, False),
        "test_unseen": unseen_rows(references, targets),
        "test_seen": seen_rows(train, targets, args.seed),
    }
    rows_of = {name: list(rows) for name, rows in sets.items()}
    training_set = f"train-clean-460{suffix}"
    identity = require_fresh_models(
        args.data_dir / training_set, args.exp_dir, rows_of[training_set]
    )
    write_sets(args.data_dir, rows_of)
    write_identity(args.data_dir / training_set, identity)
    (args.data_dir / "arpabet").mkdir(exist_ok=True)
    tokens = {"arpabet": " ".join(arpabet.TOKENS)}
    write_table(args.data_dir / "arpabet" / "text", tokens)


def report_part(part, used, gone: list[Finding], data_dir: Path) -> None:
    """Print how much of a part is used, and what is left out by reason."""
    hours = sum(one.seconds for one in used) / 3600
    readers = len(testset.by_speaker(used))
    print(f"{part}: {len(used)} recordings, {readers} readers, {hours:.2f} h")
    if gone:
        print(f"  left out: {len(gone)}, listed in {data_dir}/left_out.tsv")
        print("\n".join(testset.count_reasons(gone)))


def main(cmd=None) -> None:
    """Run as a command."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add(
        "--corpus",
        type=Path,
        required=True,
        help="LibriTTS, or the folder that contains it",
    )
    add("--labels", type=Path, required=True, help="LibriTTSLabel")
    add("--data_dir", type=Path, default=Path("data"), help="folder to write to")
    add("--exp_dir", type=Path, default=Path("exp"), help="folder of the models")
    add("--durations", default="given", choices=["given", "learned"], help="see run.sh")
    add("--num_texts", type=int, default=3, help="sentences per speaker")
    add("--seed", type=int, default=0, help="seed of references and sentences")
    add("--nj", type=int, default=len(os.sched_getaffinity(0)), help="processes")
    prepare(parser.parse_args(cmd))


if __name__ == "__main__":
    run(main)
