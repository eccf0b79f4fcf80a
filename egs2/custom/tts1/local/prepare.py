#!/usr/bin/env python3
"""Check a folder of speech and write train, dev and zero-shot test sets of it.

``test_unseen`` and ``test_seen`` are zero-shot sets: ``text`` has the text to speak,
and ``wav.scp`` the reference, a recording of that speaker with another text.
``real_unseen`` and ``real_seen`` have the same references, but the texts are those of
other recordings of the speaker, which ``gt_wav.scp`` names, for the scores of real
speech.
"""

import argparse
import random
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from corpus import METADATA, read_corpus

from espnet_prune.cli.options import make_parser
from espnet_prune.data import checks, testset
from espnet_prune.data.checks import Checked, Checker, Settings
from espnet_prune.data.kaldi import Finding, Row, write_sets
from espnet_prune.errors import UserError, run
from espnet_prune.files import lock_folder
from espnet_prune.processes import in_parallel
from espnet_prune.speech import audio
from espnet_prune.text.normalise import store_cleaner
from espnet_prune.training.identity import require_fresh_models, write_identity

# Fewer recordings are too few to train on.
MIN_TRAINING = 10
# Language of the sentences of this recipe.
ENGLISH_G2P = ("arpabet", "espeak_ng_english_us_vits", "g2p_en", "g2p_en_no_space")
# Share of the training recordings, and largest number, that become dev.
DEV_SHARE, MOST_DEV = 0.05, 100
# Share of the speakers, and largest number, that are held out if none are given.
EVAL_SHARE, MOST_EVAL_SPEAKERS = 0.1, 10


class TooLittleError(UserError):
    """Too little is left of the corpus."""


class Split(NamedTuple):
    """The use of each recording."""

    train: list[Checked]
    dev: list[Checked]
    unseen: dict[str, list[Checked]]  # recordings of each unseen speaker


# ---------------------------------------------------------------- who is held out


def split(
    known: list[Checked],
    given: list[Checked] | None,
    eval_speakers: int | None,
    seed: int,
) -> Split:
    """Hold out speakers for evaluation, unless they are given, and some utterances.

    ``known`` and ``given`` are the usable recordings of the training and of the
    evaluation corpus. By default a tenth of the speakers, 2 to 10, are evaluated.
    """
    speakers = testset.by_speaker(known)
    pool = testset.by_speaker(known if given is None else given)
    both = sorted(speakers.keys() & pool.keys())
    if given is not None and both:
        some = ", ".join(both[:3]) + (", ..." if len(both) > 3 else "")
        raise UserError(
            f"{len(both)} speakers of --eval_data are in --train_data too ({some}); "
            "they would not be unseen: take them out, or rename them if they are other "
            "people"
        )
    candidates = [name for name in pool if testset.find_references(pool[name])]
    if eval_speakers is None:
        count = MOST_EVAL_SPEAKERS
        if given is None:
            count = min(count, max(2, round(EVAL_SHARE * len(pool))))
        else:
            count = max(1, min(count, len(candidates)))
    else:
        count = eval_speakers
    if count < 1:
        raise UserError(f"--eval_speakers is {count}: choose 1 or more")
    if len(candidates) < count:
        raise TooLittleError(
            f"{count} speakers are wanted for evaluation, but only {len(candidates)} "
            f"have a recording of {testset.SHORTEST_REFERENCE:.0f} s or more; give "
            "--eval_data or fewer --eval_speakers"
        )
    if given is None and len(pool) - count < 2:
        raise TooLittleError(
            f"{len(pool)} speakers are too few to hold {count} of them out: training "
            "needs 2 or more; give --eval_data or fewer --eval_speakers"
        )
    unseen = {
        name: pool[name] for name in testset.draw_speakers(candidates, count, seed)
    }
    rest = [one for one in known if one.speaker not in unseen]
    dev = draw_dev(rest, seed)
    names = {one.name for one in dev}
    train = [one for one in rest if one.name not in names]
    if len(train) < MIN_TRAINING:
        raise TooLittleError(
            f"only {len(train)} usable recordings are left to train on, {MIN_TRAINING} "
            "are needed; the reasons are in left_out.tsv"
        )
    return Split(train, dev, unseen)


def draw_dev(recordings: list[Checked], seed: int) -> list[Checked]:
    """Draw a few recordings from speakers with other recordings in training."""
    count = min(MOST_DEV, max(1, round(DEV_SHARE * len(recordings))))
    rng = random.Random(f"{seed}-dev")
    # One recording per speaker in each round, so that no voice dominates dev.
    rounds = []
    for group in testset.by_speaker(recordings).values():
        spare = rng.sample(group, len(group))[1:]
        rounds += [(number, rng.random(), one) for number, one in enumerate(spare)]
    rounds.sort(key=lambda entry: entry[:2])
    drawn = [one for _, _, one in rounds] or rng.sample(recordings, len(recordings))
    return sorted(drawn[:count], key=lambda one: one.name)


def draw_seen(train: list[Checked], count: int, seed: int) -> dict[str, list[Checked]]:
    """Draw training speakers; those with another recording come first."""
    groups = {
        name: group
        for name, group in testset.by_speaker(train).items()
        if testset.find_references(group)
    }
    names = random.Random(f"{seed}-seen").sample(list(groups), len(groups))
    if count > 0 and not names:
        raise TooLittleError(
            "no training speaker has a recording of "
            f"{testset.SHORTEST_REFERENCE:.0f} s or more to serve as a reference; give "
            "--seen_speakers 0"
        )
    names.sort(key=lambda name: len(groups[name]) < 2)
    return {name: groups[name] for name in sorted(names[:count])}


# ----------------------------------------------------------------- what they say


def choose_sentences(
    sentences: Sequence[str],
    wanted: int | None,
    texts: Sequence[str],
    train: list[Checked],
    checker: Checker,
) -> tuple[list[tuple[int, str]], list[Finding]]:
    """Take the first sentences that can be spoken and that are not recorded."""
    characters = set().union(*(one.text for one in train))
    known_tokens = set().union(*(one.token_kinds for one in train))
    recorded = "\n".join(f" {testset.words_only(text)} " for text in texts)
    chosen, remarks = [], []
    for number, sentence in enumerate(sentences, 1):
        name = f"sent{number:03d}"
        written = testset.write_like(
            sentence, characters, checker.settings.token_type == "phn"
        )
        tokens = checker.tokenize(written)
        if f" {testset.words_only(sentence)} " in recorded:
            remarks.append(Finding(name, "sentence is in the recordings", sentence))
        elif not checks.has_speech(tokens):
            remarks.append(Finding(name, "sentence without tokens", sentence))
        else:
            unknown = sorted(set(tokens) - known_tokens)
            if unknown and checker.settings.token_type != "bpe":
                remarks.append(
                    Finding(name, "tokens that training lacks", " ".join(unknown))
                )
            chosen.append((number, written))
    if len(chosen) < (wanted or 1):
        raise UserError(
            f"{len(chosen)} of {len(sentences)} sentences can be used, but --num_texts "
            f"is {wanted or 1}; give --test_texts with more, none of which is recorded"
        )
    return chosen[:wanted], remarks


# --------------------------------------------------------------------- the folders


def recorded_rows(recordings: list[Checked]) -> list[Row]:
    """Return the rows of recordings with their texts."""
    return [
        testset.row(one.name, one.speaker, one.text, one.utterance.path)
        for one in recordings
    ]


def test_rows(
    references: dict[str, Checked], sentences: list[tuple[int, str]]
) -> list[Row]:
    """Return the rows in which every speaker speaks every sentence."""
    return [
        testset.row(
            f"{speaker}-sent{number:03d}", speaker, sentence, reference.utterance.path
        )
        for speaker, reference in references.items()
        for number, sentence in sentences
    ]


def real_rows(references: dict[str, Checked], recordings: list[Checked]) -> list[Row]:
    """Pair each recording of these speakers that has a text with their reference."""
    rows = []
    for one in recordings:
        reference = references.get(one.speaker)
        if reference is None or one.text_fault or one is reference:
            continue
        wavs = reference.utterance.path, one.utterance.path
        rows.append(testset.row(one.name, one.speaker, one.text, *wavs))
    return rows


def write_copy(job: tuple[Path, Path, int]) -> None:
    """Write the mean of a recording's channels at another rate."""
    source, target, rate = job
    audio.write_mono(target, audio.read_mono(source, rate, "soxr"), rate)


def converted(
    recordings: list[Checked], folder: Path, nj: int, fs: int
) -> list[Checked]:
    """Copy recordings that need it into a folder, and remove other files from it.

    Copies have one channel and the model's rate. ESPnet would resample more slowly, and
    a reference again for each sentence. A training that reads the copies goes on,
    because each is replaced when the new one is complete.
    """
    jobs = {
        one.name: (one.utterance.path, folder.absolute() / f"{one.name}.flac", fs)
        for one in recordings
        if one.needs_copy or one.rate != fs
    }
    if jobs:
        folder.mkdir(parents=True, exist_ok=True)
        list(in_parallel(write_copy, list(jobs.values()), nj, "Converting"))
    if folder.exists():
        wanted = {copy.name for _, copy, _ in jobs.values()}
        for path in folder.iterdir():
            if path.name not in wanted:
                path.unlink()
    return [
        one.in_file(jobs[one.name][1]) if one.name in jobs else one
        for one in recordings
    ]


def main_cause(
    folder: Path, kept: Sequence[Checked], left_out: Sequence[Finding]
) -> str:
    """Say what most recordings have in common and what to do, or nothing."""
    if left_out and len(left_out) >= len(kept):
        ((reason, number),) = Counter(one.reason for one in left_out).most_common(1)
        first = next(one for one in left_out if one.reason == reason)
        return (
            f"{len(left_out)} recordings or texts of {folder} were left out, {number} "
            f"because of: {reason} ({first.utterance}: {first.detail}); correct those"
        )
    speakers = len({one.speaker for one in kept})
    if is_one_each(kept):
        return (
            f"each of the {speakers} recordings of {folder} has a speaker of its own; "
            "let utt2spk, or folders, say who speaks"
        )
    if speakers == 1 and (folder / METADATA).is_file():
        return (
            f"{folder / METADATA} names no speakers, so all recordings are one's; give "
            f"each speaker a folder SPEAKER/{METADATA}, or give --eval_data"
        )
    return ""


def is_one_each(kept: Sequence[Checked]) -> bool:
    """Return whether there are several recordings, each of another speaker."""
    return 1 < len(kept) == len({one.speaker for one in kept})


# ------------------------------------------------------------------------ the page


def describe(
    name: str,
    kept: list[Checked],
    left_out: list[Finding],
    warnings: list[Finding],
    data_dir: Path,
) -> list[str]:
    """Return a few lines that describe a corpus."""
    groups = testset.by_speaker(kept)
    lines = [name]

    def line(label, value):
        lines.append(f"  {label:16s} {value}")

    hours = sum(one.seconds for one in kept) / 3600
    line("usable", f"{len(kept)} recordings, {len(groups)} speakers, {hours:.2f} h")
    if is_one_each(kept):
        line(
            "speakers",
            "each recording has its own speaker; if they are fewer people, unseen "
            "speakers are in training: correct utt2spk",
        )
    if kept:
        each = sorted(len(group) for group in groups.values())
        line(
            "per speaker",
            f"{each[0]} to {each[-1]} recordings, median {statistics.median(each):g}",
        )
        seconds = np.array([one.seconds for one in kept])
        line(
            "lengths",
            f"median {np.median(seconds):.1f} s, 90 % up to "
            f"{np.percentile(seconds, 90):.1f} s, longest {seconds.max():.1f} s",
        )
        for label, values in (
            ("sampling rates", Counter(f"{one.rate} Hz" for one in kept)),
            ("channels", Counter(one.channels for one in kept)),
        ):
            line(label, ", ".join(f"{k} ({n})" for k, n in values.most_common()))
        tokens = [one for one in kept if one.tokens]
        if tokens:
            kinds = set().union(*(one.token_kinds for one in tokens))
            pace = np.median([one.tokens / one.seconds for one in tokens])
            count = np.median([one.tokens for one in tokens])
            line(
                "tokens",
                f"{len(kinds)} kinds, median {count:.0f} per text, {pace:.1f} per "
                "second",
            )
    for label, findings, file in (
        ("left out", left_out, "left_out.tsv"),
        ("to be checked", warnings, "warnings.tsv"),
    ):
        where = f", listed in {data_dir / file}" if findings else ""
        line(label, f"{len(findings)}{where}")
        lines += testset.count_reasons(findings)
    return lines


# ------------------------------------------------------------------------- the job


def prepare(args: argparse.Namespace) -> None:
    """Check the corpora, print the page, and write the folders."""
    settings = Settings(
        fs=args.fs,
        n_shift=args.n_shift,
        min_seconds=args.min_wav_duration,
        max_seconds=args.max_wav_duration,
        token_type=args.token_type,
        g2p=args.g2p,
        cleaner=args.cleaner,
    )
    if not args.train_data:
        raise UserError("no data: name the folder of the corpus with --train_data")
    for name in ("num_texts", "seen_speakers"):
        if (getattr(args, name) or 0) < 0:
            raise UserError(f"--{name} is {getattr(args, name)}: choose 0 or more")
    checker = Checker(settings)
    sentences = testset.read_sentences(test_texts(args))

    data_dir, base_dir = Path(args.data_dir), Path(args.base_dir)
    folders = {"train_data": Path(args.train_data)}
    if args.eval_data:
        folders["eval_data"] = Path(args.eval_data)
    found, left_out = [], {}
    parts = []  # the corpus of each of ``found``
    for part, folder in folders.items():
        utterances, left_out[part] = read_corpus(folder, base_dir, part == "train_data")
        found += utterances
        parts += [part] * len(utterances)
    to_learn = found[: parts.count("train_data")]
    lowers = checks.should_lower((one.text for one in to_learn), settings)
    settings = settings._replace(lower=lowers)
    with lock_folder(data_dir, "data preparation"):
        # One pass over both, so that no recording is in both.
        checked = checks.check(found, settings, args.nj, "Checking recordings")
        kept: dict[str, list[Checked]] = {part: [] for part in folders}
        for part, one in zip(parts, checked, strict=True):
            # References need no text.
            fault = one.fault or (one.text_fault if part == "train_data" else None)
            if fault:
                left_out[part].append(fault)
            else:
                kept[part].append(one)
        warnings = {
            part: checks.find_warnings(kept[part], settings.fs) for part in folders
        }
        testset.write_findings(data_dir / "left_out.tsv", left_out, "corpus")
        testset.write_findings(data_dir / "warnings.tsv", warnings, "corpus")
        for part, folder in folders.items():
            title, gone = f"--{part} {folder}", left_out[part]
            page = describe(title, kept[part], gone, warnings[part], data_dir)
            print("\n".join(page), flush=True)
        if settings.lower:
            print(
                "  warning: the texts are in capitals, so short words such as IT would "
                "be spelled out;\n  they are used in lower case, and the model will "
                "read all texts so",
                flush=True,
            )
        try:
            draw_sets(args, kept, sentences, checker)
            store_cleaner(data_dir / "train", settings.lower)
        except TooLittleError as error:
            causes = [
                main_cause(folder, kept[part], left_out[part])
                for part, folder in folders.items()
            ]
            cause = "; ".join(filter(None, causes))
            raise UserError(f"{cause} (so {error})" if cause else str(error)) from error


def draw_sets(
    args: argparse.Namespace,
    kept: dict[str, list[Checked]],
    sentences: list[str],
    checker: Checker,
) -> None:
    """Draw the sets, and write the folders."""
    known, given = kept["train_data"], kept.get("eval_data")
    seed, data_dir = args.split_seed, Path(args.data_dir)
    divided = split(known, given, args.eval_speakers, seed)
    texts = [testset.one_line(one.utterance.text) for one in known + (given or [])]
    wanted = args.num_texts or None
    chosen, remarks = choose_sentences(sentences, wanted, texts, divided.train, checker)
    count = args.seen_speakers
    count = len(divided.unseen) if count is None else count
    groups = draw_seen(divided.train, count, seed)
    seen = [one for group in groups.values() for one in group]
    identity = require_fresh_models(
        data_dir / "train", Path(args.exp_dir), recorded_rows(divided.train)
    )

    strangers = [one for group in divided.unseen.values() for one in group]
    used = divided.train + divided.dev + strangers
    copies = converted(used, data_dir / "audio", args.nj, args.fs)
    ready = {one.name: one for one in copies}
    train, dev, strangers, seen = (
        [ready[one.name] for one in recordings]
        for recordings in (divided.train, divided.dev, strangers, seen)
    )

    references = testset.draw_references(strangers, seed)
    seen_references = testset.draw_references(seen, seed)
    sets = {
        "train": recorded_rows(train),
        "dev": recorded_rows(dev),
        "test_unseen": test_rows(references, chosen),
        "test_seen": test_rows(seen_references, chosen),
        "real_unseen": real_rows(references, strangers),
        "real_seen": real_rows(seen_references, train + dev),
    }
    hours = sum(one.seconds for one in train) / 3600
    lengths = [one.seconds for one in (references | seen_references).values()]
    span = f"{min(lengths):.1f} to {max(lengths):.1f} s"
    notes = {
        "train": f", {hours:.2f} h",
        "dev": ", held out of training",
        "test_unseen": f": {len(chosen)} sentences each, references of {span}",
        "test_seen": ": the same sentences by speakers of train",
        "real_unseen": ": recordings of the speakers of test_unseen",
        "real_seen": ": recordings of the speakers of test_seen",
    }
    write_sets(data_dir, sets, notes)
    write_identity(data_dir / "train", identity)
    for remark in remarks:
        print(f"  note: {remark.utterance}: {remark.reason}: {remark.detail}")


def test_texts(args: argparse.Namespace) -> Path:
    """Choose the file of sentences; ours are English."""
    if args.test_texts:
        return Path(args.test_texts)
    english = args.g2p in ENGLISH_G2P
    if args.token_type != "phn" or english:
        english = args.lang.lower() in ("en", "english", "noinfo")
    if not english:
        raise UserError(
            "the sentences of this recipe are English: give --test_texts, a file with "
            "about twenty sentences of your language, one per line"
        )
    return Path(__file__).resolve().parent / "sentences.txt"


def get_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--train_data", default="", help="Kaldi folder or tree, see README.md")
    add("--eval_data", default="", help="the same, with the speakers to imitate")
    add("--base_dir", default=".", help="folder that paths may be relative to")
    add("--data_dir", default="data", help="folder to write to")
    add("--exp_dir", default="exp", help="folder of the models")
    add("--eval_speakers", type=int, help="unseen speakers to evaluate")
    add("--seen_speakers", type=int, help="training speakers to evaluate")
    add("--test_texts", default="", help="sentences to speak, one per line")
    add("--num_texts", type=int, default=20, help="sentences per speaker, 0 for all")
    add("--split_seed", type=int, default=0, help="seed of all draws")
    add("--fs", type=int, default=22050, help="sampling rate of the model in Hz")
    add("--n_shift", type=int, default=256, help="samples per mel frame")
    add("--min_wav_duration", type=float, default=0.5, help="seconds")
    add("--max_wav_duration", type=float, default=20.0, help="seconds")
    add("--token_type", default="phn", choices=["phn", "char", "bpe"])
    add("--g2p", default="espeak_ng_english_us_vits", help="phonemes of ESPnet")
    add("--cleaner", default="none", help="text cleaner of ESPnet")
    add("--lang", default="en", help="language of the texts")
    add("--nj", type=int, default=1, help="processes")
    return parser


def main(cmd=None) -> None:
    """Run as a command."""
    prepare(get_parser().parse_args(cmd))


if __name__ == "__main__":
    run(main)
