#!/usr/bin/env python3
"""Write a zero-shot test set: speakers, texts and references.

``text`` has the text to speak, ``wav.scp`` the reference, another recording of the
speaker than the target, and ``gt_wav.scp`` the target, if it was recorded. VCTK has a
fixed list, with a checksum; for the Libri corpora, a list is drawn with a fixed seed.
The list that was used is written too, with the reasons of left-out lines.
"""

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from corpora import open_corpus

from espnet_prune.cli.options import make_parser
from espnet_prune.config import require_whole
from espnet_prune.data import testlist, testset
from espnet_prune.data.kaldi import Finding, write_folder
from espnet_prune.data.testlist import Line
from espnet_prune.errors import UserError, run
from espnet_prune.files import lock_folder, write_text

HERE = Path(__file__).resolve().parent
PINNED = HERE / "vctk_108.tsv"
# Lists that --list knows by name: corpus and part to which they belong.
KNOWN = {"librispeech_pc": ("librispeech", "test-clean")}


def check_pinned(path: Path) -> None:
    """Refuse a fixed list that differs from its checksum."""
    try:
        wanted = path.with_name(f"{path.name}.sha256").read_text().split()[:1]
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(
            f"cannot read {error.filename}, which comes with the recipe: restore it"
        ) from None
    if wanted != [found]:
        raise UserError(
            f"{path} is not the fixed list any more: restore it, or copy it and give "
            "the copy as --list"
        )


def choose_speakers(names: Sequence[str], number: int, seed: int) -> list[str]:
    """Draw some of the speakers, kept in order; 0 takes all."""
    if number < 0 or number > len(names):
        raise UserError(f"--num_speakers is {number}: choose 0 (all) to {len(names)}")
    return testset.draw_speakers(names, number or len(names), seed)


def make_lines(
    corpus: Any, args: argparse.Namespace
) -> tuple[list[Line], list[Finding], str]:
    """Return the list of the options, findings about it, and its name."""
    left_out: list[Finding] = []
    pinned = PINNED if args.corpus == "vctk" else None
    path = args.list or pinned
    number = args.num_speakers
    if path is None:
        if number is None:
            number = {"librispeech": 0, "libritts": 100}[args.corpus]
            number = number if number < len(corpus.speakers()) else 0
        chosen = choose_speakers(corpus.speakers(), number, args.seed)
        each = 1 if args.test_texts else args.texts_per_speaker
        lines, left_out = testlist.draw_list(corpus, chosen, each, args.seed)
        name = f"drawn with seed {args.seed}"
        if not lines:
            raise UserError(
                f"no speaker of {corpus.title} has a reference of "
                f"{testset.SHORTEST_REFERENCE:.0f} to "
                f"{testlist.LONGEST_REFERENCE:.0f} s and {each} other texts; choose "
                "fewer with --texts_per_speaker, or another --part"
            )
    else:
        if path == pinned or path.parent == HERE:
            check_pinned(path)
        lines, name = testlist.add_texts(corpus, testlist.read_list(path)), path.name
        speakers = list(dict.fromkeys(line["speaker"] for line in lines))
        chosen = choose_speakers(speakers, number or 0, args.seed)
        lines = [line for line in lines if line["speaker"] in chosen]
    if args.test_texts is not None:
        lines = testlist.let_all_say(lines, testset.read_sentences(args.test_texts))
        return (
            lines,
            left_out,
            f"references of the list {name}, texts of {args.test_texts.name}",
        )
    return lines, left_out, f"list {name}"


def prepare(args: argparse.Namespace) -> None:
    """Check everything, then write the test set and describe it."""
    require_whole("--texts_per_speaker", args.texts_per_speaker)
    if args.list is not None and str(args.list) in KNOWN:
        wanted = KNOWN[str(args.list)]
        if (args.corpus, args.part or wanted[1]) != wanted:
            raise UserError(
                f"--list {args.list} is for --corpus {wanted[0]} and --part "
                f"{wanted[1]}: give these"
            )
        args.part = wanted[1]
        args.list = HERE / f"{args.list}.tsv"
    corpus = open_corpus(args.corpus, args.corpus_dir, args.part)
    lines, left_out, name = make_lines(corpus, args)
    base = Path() if args.list is None else args.list.absolute().parent
    made = testlist.make_test_set(corpus, lines, base)
    listed = {line["speaker"] for line in lines}  # their texts are those of the list
    by_name = [
        Finding(who, "left out by name", why)
        for who, why in corpus.left_out().items()
        if who not in listed
    ]
    left_out = [*left_out, *made.faults]
    used = testlist.list_text(lines)
    digest = hashlib.sha256(used.encode()).hexdigest()[:16]
    voices = {row["utt2spk"] for row in made.rows}
    about = f"{corpus.title}, {name}, sha256 {digest}: {len(made.rows)} utterances, "
    about += f"{len(voices)} speakers"
    if made.faults:
        about += f"; {len(made.faults)} of the list are left out"
    folder = args.data_dir
    with lock_folder(folder, "data preparation"):
        testset.write_findings(folder / "left_out.tsv", by_name + left_out)
        testset.write_findings(folder / "remarks.tsv", made.remarks)
        if made.faults and (args.skip_faulty == "false" or not made.rows):
            raise UserError(
                f"{len(made.faults)} of {len(lines)} utterances have no reference, "
                f"for instance {made.faults[0].detail}; all are in "
                f"{folder}/left_out.tsv: unpack the corpus again, or leave them out "
                "with --skip_faulty true"
            )
        write_text(folder / "list.tsv", used)
        write_folder(folder, made.rows)
        write_text(folder / "about.txt", f"{about}\n")

    print(f"{folder}: {about}")
    print(f"  recordings of the texts: {sum('gt_wav.scp' in row for row in made.rows)}")
    for finding in by_name:
        print(f"  left out: {finding.utterance}, {finding.detail}")
    for title, findings, file in (
        ("left out", left_out, "left_out.tsv"),
        ("to be checked", made.remarks, "remarks.tsv"),
    ):
        if findings:
            print(f"  {title}: {len(findings)}, listed in {folder}/{file}, first:")
            print(f"    {', '.join(findings[0])}")


def get_parser() -> argparse.ArgumentParser:
    """Get argument parser."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    corpora = ["vctk", "librispeech", "libritts"]
    add("--corpus", choices=corpora, default="vctk", help="Name of the corpus")
    add("--corpus_dir", type=Path, required=True, help="Folder of the unpacked corpus")
    add("--part", help="Part of librispeech (test-other) or libritts (train-clean-100)")
    add(
        "--list",
        type=Path,
        help="Your own list of speakers, texts and references, or librispeech_pc",
    )
    add(
        "--test_texts",
        type=Path,
        help="Sentences that every speaker speaks, one per line",
    )
    add(
        "--num_speakers",
        type=int,
        help="Speakers to draw; 0 for all, which is the default except for libritts, "
        "where it is 100",
    )
    add(
        "--texts_per_speaker",
        type=int,
        default=3,
        help="Sentences of each speaker of a drawn list",
    )
    add("--seed", type=int, default=0, help="Seed of all draws")
    add(
        "--skip_faulty",
        choices=["true", "false"],
        default="false",
        help="Leave out utterances without a usable reference",
    )
    add("--data_dir", type=Path, required=True, help="Folder to write to")
    return parser


def main(cmd: Sequence[str] | None = None) -> None:
    """Run as a command."""
    prepare(get_parser().parse_args(cmd))


if __name__ == "__main__":
    run(main)
