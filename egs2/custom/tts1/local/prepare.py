#!/usr/bin/env python3
"""Check a folder of speech and write train, dev and zero-shot test sets of it.

``test_unseen`` and ``test_seen`` are zero-shot sets: ``text`` is what to say, and
``wav.scp`` the reference, a recording of that speaker in which something else is said.
``real_unseen`` and ``real_seen`` have the same references, but the texts are those of
other recordings of the speaker, which ``gt_wav.scp`` names: what real speech scores.
"""

import argparse
import random
import shutil
import statistics
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path
from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import soundfile
import torch
import torchaudio
from corpus import (
    Checked,
    Checker,
    Finding,
    Settings,
    Utterance,
    check,
    find_warnings,
    has_speech,
    in_parallel,
    read_corpus,
)

from espnet_prune.errors import UserError, run
from espnet_prune.files import replace_when_written

# Fewer recordings than this teach nothing.
MIN_TRAINING = 10
# What says the sentences that come with this recipe.
ENGLISH_G2P = ("arpabet", "espeak_ng_english_us_vits", "g2p_en", "g2p_en_no_space")
# What a voice can be heard in, and what it is heard in best (seconds).
SHORTEST_REFERENCE = 2.0
GOOD_REFERENCE = (4.0, 10.0)
# Of the training recordings, at most so many, are held out as dev.
DEV_SHARE, MOST_DEV = 0.05, 100
# Of the speakers, at least two and at most so many, are held out if none are given.
EVAL_SHARE, MOST_EVAL_SPEAKERS = 0.1, 10

Row = Dict[str, str]  # file of the Kaldi folder: value; "utterance": its id


class Split(NamedTuple):
    """Who is used for what."""

    train: List[Checked]
    dev: List[Checked]
    unseen: Dict[str, List[Checked]]  # recordings of each unseen speaker


def by_speaker(recordings: Iterable[Checked]) -> Dict[str, List[Checked]]:
    """Group recordings by speaker, speakers in order."""
    groups = defaultdict(list)
    for one in recordings:
        groups[one.utterance.speaker].append(one)
    return {speaker: groups[speaker] for speaker in sorted(groups)}


# ---------------------------------------------------------------- who is held out


def split(
    known: List[Checked],
    given: Optional[List[Checked]],
    eval_speakers: Optional[int],
    seed: int,
) -> Split:
    """Hold out speakers for evaluation, unless they are given, and some utterances.

    Args:
        known: usable recordings of the training corpus.
        given: usable recordings of the evaluation corpus, None if there is none.
        eval_speakers: how many to evaluate, by default a tenth of them, 2 to 10.
        seed: of the draw.

    Raises:
        UserError: too few speakers or recordings.

    """
    speakers = by_speaker(known)
    pool = by_speaker(known if given is None else given)
    both = sorted(speakers.keys() & pool.keys())
    if given is not None and both:
        some = ", ".join(both[:3]) + (", ..." if len(both) > 3 else "")
        raise UserError(
            f"{len(both)} speakers of --eval_data are in --train_data too ({some}); "
            "they would not be unseen: take them out, or rename them if they are other "
            "people"
        )
    candidates = [name for name in pool if find_references(pool[name])]
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
        raise UserError(
            f"{count} speakers are wanted for evaluation, but only {len(candidates)} "
            f"have a recording of {SHORTEST_REFERENCE:.0f} s or more; give --eval_data "
            "or fewer --eval_speakers"
        )
    if given is None and len(pool) - count < 2:
        raise UserError(
            f"{len(pool)} speakers are too few to hold {count} of them out: training "
            "needs 2 or more; give --eval_data or fewer --eval_speakers"
        )
    chosen = random.Random(f"{seed}-speakers").sample(candidates, count)
    unseen = {name: pool[name] for name in sorted(chosen)}
    rest = [one for one in known if one.utterance.speaker not in unseen]
    dev = draw_dev(rest, seed)
    names = {one.utterance.name for one in dev}
    train = [one for one in rest if one.utterance.name not in names]
    if len(train) < MIN_TRAINING:
        raise UserError(
            f"only {len(train)} usable recordings are left to train on, {MIN_TRAINING} "
            "are needed; the reasons are in left_out.tsv"
        )
    return Split(train, dev, unseen)


def draw_dev(recordings: List[Checked], seed: int) -> List[Checked]:
    """Draw a few recordings, spread over speakers who keep others in training."""
    count = min(MOST_DEV, max(1, round(DEV_SHARE * len(recordings))))
    rng = random.Random(f"{seed}-dev")
    # Round by round, one recording a speaker, so that no voice fills dev.
    rounds = []
    for group in by_speaker(recordings).values():
        spare = rng.sample(group, len(group))[1:]
        rounds += [(number, rng.random(), one) for number, one in enumerate(spare)]
    rounds.sort(key=lambda entry: entry[:2])
    drawn = [one for _, _, one in rounds] or rng.sample(recordings, len(recordings))
    return sorted(drawn[:count], key=lambda one: one.utterance.name)


def find_references(recordings: List[Checked]) -> List[Checked]:
    """Choose the recordings that can be a reference: those of a good length if any."""
    shortest, longest = GOOD_REFERENCE
    good = [one for one in recordings if shortest <= one.seconds <= longest]
    return good or [one for one in recordings if one.seconds >= SHORTEST_REFERENCE]


def draw_references(
    speakers: Dict[str, List[Checked]], seed: int
) -> Dict[str, Checked]:
    """Draw one reference a speaker; it does not depend on the other speakers."""
    return {
        speaker: random.Random(f"{seed}-reference-{speaker}").choice(
            find_references(recordings)
        )
        for speaker, recordings in speakers.items()
    }


def draw_seen(train: List[Checked], count: int, seed: int) -> Dict[str, List[Checked]]:
    """Draw training speakers; first those of whom another recording can be compared.

    Raises:
        UserError: none of them has a recording that can be a reference.

    """
    groups = {
        name: group
        for name, group in by_speaker(train).items()
        if find_references(group)
    }
    names = random.Random(f"{seed}-seen").sample(list(groups), len(groups))
    if count > 0 and not names:
        raise UserError(
            f"no training speaker has a recording of {SHORTEST_REFERENCE:.0f} s or more"
            " to serve as a reference; give --seen_speakers 0"
        )
    names.sort(key=lambda name: len(groups[name]) < 2)
    return {name: groups[name] for name in sorted(names[:count])}


# ----------------------------------------------------------------- what they say


def read_sentences(path: Path) -> List[Tuple[int, str]]:
    """Read sentences, one a line, with their numbers.

    Raises:
        UserError: there is no such file, or nothing in it.

    """
    if not path.is_file():
        raise UserError(f"there is no file of sentences {path}; correct --test_texts")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: convert it") from error
    sentences = [" ".join(line.split()) for line in lines]
    sentences = [sentence for sentence in sentences if sentence]
    if not sentences:
        raise UserError(f"{path} has no sentence; write one a line")
    return list(enumerate(sentences, 1))


def plain(text: str) -> str:
    """Reduce a text to its words, to compare it with others."""
    text = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'")
    kept = (c if c.isalnum() or c == "'" else " " for c in text)
    return f" {' '.join(''.join(kept).split())} "


def write_like(sentence: str, characters: set, keeps_apostrophe: bool) -> str:
    """Write a sentence as the training texts are written.

    A model that has read lower case without commas knows neither capitals nor commas.

    Args:
        sentence: any sentence.
        characters: those of the training texts.
        keeps_apostrophe: whether one stays that training never has; a g2p needs it.

    """
    if not any(c.isupper() for c in characters):
        sentence = sentence.lower()
    elif not any(c.islower() for c in characters):
        sentence = sentence.upper()
    written = []
    for character in sentence:
        if character in characters or character.isalnum() or character.isspace():
            written.append(character)
        elif character in "'\u2019":
            other = "'\u2019".replace(character, "")
            if other in characters or keeps_apostrophe:
                written.append(other if other in characters else "'")
        elif unicodedata.category(character).startswith("M"):
            written.append(character)
        else:
            dash = unicodedata.category(character) == "Pd"
            written.append(" " if dash else "")
    return " ".join("".join(written).split())


def choose_sentences(
    sentences: List[Tuple[int, str]],
    wanted: Optional[int],
    texts: Sequence[str],
    train: List[Checked],
    checker: Checker,
) -> Tuple[List[Tuple[int, str]], List[Finding]]:
    """Take the first sentences that can be said and that no recording says.

    Args:
        sentences: with their numbers.
        wanted: how many, None for all.
        texts: of all recordings.
        train: what the model learns from.
        checker: makes tokens.

    Raises:
        UserError: too few of them are left.

    """
    characters = set().union(*(one.utterance.text for one in train))
    known_tokens = set().union(*(one.token_kinds for one in train))
    recorded = "\n".join(map(plain, texts))
    chosen, remarks = [], []
    for number, sentence in sentences:
        name = f"sent{number:03d}"
        written = write_like(sentence, characters, checker.settings.token_type == "phn")
        tokens = checker.tokenize(written)
        if plain(sentence) in recorded:
            remarks.append(Finding(name, "sentence is in the recordings", sentence))
        elif not has_speech(tokens):
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


def one_line(text: Optional[str]) -> str:
    """Join the lines of a text."""
    return " ".join((text or "").split())


def recorded_rows(recordings: List[Checked]) -> List[Row]:
    """Describe recordings with what is said in them."""
    return [
        {
            "utterance": one.utterance.name,
            "text": one_line(one.utterance.text),
            "wav.scp": str(one.utterance.path),
            "utt2spk": one.utterance.speaker,
        }
        for one in recordings
    ]


def test_rows(
    references: Dict[str, Checked], sentences: List[Tuple[int, str]]
) -> List[Row]:
    """Let every speaker say every sentence."""
    return [
        {
            "utterance": f"{speaker}-sent{number:03d}",
            "text": sentence,
            "wav.scp": str(reference.utterance.path),
            "utt2spk": speaker,
        }
        for speaker, reference in references.items()
        for number, sentence in sentences
    ]


def real_rows(
    references: Dict[str, Checked], recordings: Iterable[Checked]
) -> List[Row]:
    """Pair each recording of these speakers that has a text with their reference."""
    rows = []
    for one in recordings:
        reference = references.get(one.utterance.speaker)
        if reference is None or one.text_fault:
            continue
        # by name: the reference may be a copy at another rate by now
        if one.utterance.name == reference.utterance.name:
            continue
        (row,) = recorded_rows([one])
        row["gt_wav.scp"] = row["wav.scp"]
        row["wav.scp"] = str(reference.utterance.path)
        rows.append(row)
    return rows


def write_kaldi(folder: Path, rows: List[Row]) -> None:
    """Write a Kaldi folder sorted by utterance, or remove it if there are no rows."""
    shutil.rmtree(folder, ignore_errors=True)
    if not rows:
        return
    folder.mkdir(parents=True)
    rows = sorted(rows, key=lambda row: row["utterance"])
    for name in rows[0]:
        if name != "utterance":
            lines = [f"{row['utterance']} {row[name]}\n" for row in rows]
            (folder / name).write_text("".join(lines), encoding="utf-8")
    speakers = defaultdict(list)
    for row in rows:
        speakers[row["utt2spk"]].append(row["utterance"])
    lines = [f"{name} {' '.join(speakers[name])}\n" for name in sorted(speakers)]
    (folder / "spk2utt").write_text("".join(lines), encoding="utf-8")


def write_findings(path: Path, findings: List[Tuple[str, Finding]]) -> None:
    """Write findings with the option that named their corpus, one a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["corpus\tutterance\treason\tdetail\n"]
    for corpus, finding in findings:
        fields = (corpus, finding.name, finding.reason, finding.detail)
        lines.append("\t".join(map(one_line, fields)) + "\n")
    with replace_when_written(path) as partial:
        partial.write_text("".join(lines), encoding="utf-8", errors="replace")


def mix_down(job: Tuple[Utterance, Path]) -> None:
    """Write the mean of a recording's channels, for models hear one."""
    utterance, target = job
    samples, rate = soundfile.read(utterance.path, dtype="float32", always_2d=True)
    mono = samples.mean(axis=1)
    with replace_when_written(target) as partial:
        mono /= max(1.0, float(np.abs(mono).max()))
        soundfile.write(partial, mono, rate, format="FLAC", subtype="PCM_16")


def mixed_down(recordings: List[Checked], folder: Path, nj: int) -> Dict[str, Path]:
    """Mix recordings of several channels down; give their new files by utterance."""
    shutil.rmtree(folder, ignore_errors=True)
    jobs = [
        (one.utterance, Path(folder.absolute(), f"{one.utterance.name}.flac"))
        for one in recordings
        if one.channels > 1
    ]
    if jobs:
        folder.mkdir(parents=True)
        for _ in in_parallel(mix_down, jobs, nj, "Mixing channels"):
            pass
    return {utterance.name: target for utterance, target in jobs}


def resampled(
    references: Dict[str, Checked], folder: Path, fs: int
) -> Dict[str, Checked]:
    """Write references at the model's rate, once.

    ESPnet formats the reference of each sentence anew, and resampling takes longest.

    Args:
        references: by speaker, mono.
        folder: for the files; emptied first.
        fs: Hz.

    """
    shutil.rmtree(folder, ignore_errors=True)
    ready = dict(references)
    for speaker, one in references.items():
        if one.rate == fs:
            continue
        speech, rate = soundfile.read(one.utterance.path, dtype="float32")
        speech = torchaudio.functional.resample(torch.from_numpy(speech), rate, fs)
        target = Path(folder.absolute(), f"{one.utterance.name}.flac")
        target.parent.mkdir(parents=True, exist_ok=True)
        speech /= max(1.0, float(speech.abs().max()))
        soundfile.write(target, speech.numpy(), fs, format="FLAC", subtype="PCM_16")
        ready[speaker] = one._replace(utterance=one.utterance._replace(path=target))
    return ready


def require_fresh_models(data_dir: Path, exp_dir: Path, train: List[Row]) -> None:
    """Refuse to exchange the training data under models that exist.

    Raises:
        UserError: a model of other data would go on training with these.

    """
    text = data_dir / "train" / "text"
    models = sorted(exp_dir.glob("*/checkpoint.pth"))
    if not models or not text.exists():
        return
    # the aligner left these out
    unaligned = data_dir / "train" / "unaligned.tsv"
    gone = set()
    if unaligned.exists():
        lines = unaligned.read_text(encoding="utf-8").splitlines()
        gone = {line.partition("\t")[0] for line in lines}
    new = "".join(
        f"{row['utterance']} {row['text']}\n"
        for row in train
        if row["utterance"] not in gone
    )
    if text.read_text(encoding="utf-8") != new:
        raise UserError(
            f"{models[0].parent} was trained on other data than these: move {exp_dir} "
            "and dump away, or use a copy of this recipe's folder"
        )


# ------------------------------------------------------------------------ the page


def count_reasons(findings: Iterable[Finding]) -> List[str]:
    """Count findings by reason, the most frequent first."""
    counts = Counter(finding.reason for finding in findings)
    return [f"{n:7d}  {reason}" for reason, n in counts.most_common()]


def describe(
    name: str,
    kept: List[Checked],
    left_out: List[Finding],
    warnings: List[Finding],
    data_dir: Path,
) -> List[str]:
    """Say on a few lines what a corpus is like."""
    groups = by_speaker(kept)
    lines = [name]

    def line(label, value):
        lines.append(f"  {label:16s} {value}")

    hours = sum(one.seconds for one in kept) / 3600
    line(
        "usable",
        f"{len(kept)} recordings, {len(groups)} speakers, {hours:.2f} h",
    )
    if kept:
        each = sorted(len(group) for group in groups.values())
        line(
            "a speaker",
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
                f"{len(kinds)} kinds, median {count:.0f} a text, {pace:.1f} a second",
            )
    for label, findings, file in (
        ("left out", left_out, "left_out.tsv"),
        ("worth a look", warnings, "warnings.tsv"),
    ):
        where = f", listed in {data_dir / file}" if findings else ""
        line(label, f"{len(findings)}{where}")
        lines += count_reasons(findings)
    return lines


def describe_set(name: str, rows: List[Row], note: str = "") -> str:
    """Say on one line what a set holds."""
    speakers = len({row["utt2spk"] for row in rows})
    return f"  {name:16s} {len(rows)} utterances, {speakers} speakers{note}"


# ------------------------------------------------------------------------- the job


def prepare(args: argparse.Namespace) -> None:
    """Check the corpora, print the page, and write the folders.

    Raises:
        UserError: the data cannot be used, or is too little.

    """
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
        raise UserError("no data: name the folder of the corpus by --train_data")
    for name in ("num_texts", "seen_speakers"):
        if (getattr(args, name) or 0) < 0:
            raise UserError(f"--{name} is {getattr(args, name)}: choose 0 or more")
    checker = Checker(settings)
    sentences = read_sentences(test_texts(args))

    train_dir, base_dir = Path(args.train_data), Path(args.base_dir)
    found, faults = read_corpus(train_dir, base_dir)
    left_out = [("train_data", fault) for fault in faults]
    given, given_faults = [], []
    if args.eval_data:
        given, given_faults = read_corpus(Path(args.eval_data), base_dir, False)
        left_out += [("eval_data", fault) for fault in given_faults]
    # One pass over both, so that no recording is in both.
    checked = check(found + given, settings, args.nj, "Checking recordings")

    known, unknown, warnings = [], [], []
    for index, one in enumerate(checked):
        corpus = "train_data" if index < len(found) else "eval_data"
        # References need no text.
        fault = one.fault or (one.text_fault if corpus == "train_data" else None)
        if fault:
            left_out.append((corpus, fault))
        else:
            (known if corpus == "train_data" else unknown).append(one)
    parts = [("train_data", train_dir, known)]
    if args.eval_data:
        parts.append(("eval_data", Path(args.eval_data), unknown))
    page = []
    for corpus, folder, kept in parts:
        remarks = find_warnings(kept, settings.fs)
        warnings += [(corpus, remark) for remark in remarks]
        gone = [fault for name, fault in left_out if name == corpus]
        page += describe(
            f"--{corpus} {folder}", kept, gone, remarks, Path(args.data_dir)
        )
    data_dir = Path(args.data_dir)
    write_findings(data_dir / "left_out.tsv", left_out)
    write_findings(data_dir / "warnings.tsv", warnings)
    print("\n".join(page), flush=True)

    divided = split(
        known, unknown if args.eval_data else None, args.eval_speakers, args.split_seed
    )
    texts = [one_line(one.utterance.text) for one in known + unknown]
    chosen, remarks = choose_sentences(
        sentences, args.num_texts or None, texts, divided.train, checker
    )
    count = args.seen_speakers
    seen = draw_seen(
        divided.train, len(divided.unseen) if count is None else count, args.split_seed
    )
    require_fresh_models(data_dir, Path(args.exp_dir), recorded_rows(divided.train))
    used = divided.train + divided.dev
    used += [one for group in divided.unseen.values() for one in group]
    mono = mixed_down(used, data_dir / "mono", args.nj)

    def ready(recordings):
        """Put mixed files in the place of those of several channels."""
        return [
            one._replace(
                utterance=one.utterance._replace(
                    path=mono.get(one.utterance.name, one.utterance.path)
                )
            )
            for one in recordings
        ]

    train, dev = ready(divided.train), ready(divided.dev)
    unseen = {name: ready(group) for name, group in divided.unseen.items()}
    seen = {name: ready(group) for name, group in seen.items()}
    references, seen_references = (
        resampled(draw_references(groups, args.split_seed), data_dir / folder, args.fs)
        for groups, folder in ((unseen, "references"), (seen, "seen_references"))
    )
    strangers = [one for group in unseen.values() for one in group]
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
    print(f"Sets in {data_dir}")
    for name, rows in sets.items():
        write_kaldi(data_dir / name, rows)
        if rows:
            print(describe_set(name, rows, notes[name]))
    for remark in remarks:
        print(f"  note: {remark.name}: {remark.reason}: {remark.detail}")


def test_texts(args: argparse.Namespace) -> Path:
    """Choose the file of sentences; ours are English.

    Raises:
        UserError: the model will speak another language, and no file is named.

    """
    if args.test_texts:
        return Path(args.test_texts)
    english = args.g2p in ENGLISH_G2P
    if args.token_type != "phn" or english:
        english = args.lang.lower() in ("en", "english", "noinfo")
    if not english:
        raise UserError(
            "the sentences that come with this recipe are English: give --test_texts, "
            "a file with some twenty sentences of your language, one a line"
        )
    return Path(__file__).resolve().parent / "sentences.txt"


def get_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--train_data", default="", help="Kaldi folder or tree SPEAKER/NAME.wav")
    add("--eval_data", default="", help="the same, of speakers to imitate")
    add("--base_dir", default=".", help="folder that paths may be relative to")
    add("--data_dir", default="data", help="where to write")
    add("--exp_dir", default="exp", help="where models are")
    add("--eval_speakers", type=int, help="unseen speakers to evaluate")
    add("--seen_speakers", type=int, help="training speakers to evaluate")
    add("--test_texts", default="", help="sentences to say, one a line")
    add("--num_texts", type=int, default=20, help="sentences a speaker, 0 for all")
    add("--split_seed", type=int, default=0, help="of all that is drawn")
    add("--fs", type=int, default=22050, help="sampling rate of the model in Hz")
    add("--n_shift", type=int, default=256, help="samples a mel frame")
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
