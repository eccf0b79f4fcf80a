#!/usr/bin/env python3
"""Draw the fixed list of VCTK: speakers, texts and references.

python local/make_list.py --output local/vctk_108.tsv

Each of the 108 speakers says one sentence. Its recording, the target, exists, and the
reference is another one: any of the sentences that all speakers read, the end of the
elicitation paragraph and the rainbow passage, each of 55 characters or more. A
spare reference is drawn as well, for a copy of the corpus that lacks the first.

The targets are drawn from ``vctk_texts.tsv``: numbers and transcripts of VCTK
recordings (CC BY 4.0, Yamagishi, Veaux and MacDonald, University of Edinburgh), as the
test and validation lists of the public VITS repository have them, which are random
draws from the corpus themselves. What is drawn depends on the seed and these texts
only, and not on the other speakers, so the same bytes come out again.
"""

import hashlib
import random
import re
from pathlib import Path

from espnet_prune.cli.options import make_parser
from espnet_prune.data.testlist import Line, list_text
from espnet_prune.data.testset import one_line
from espnet_prune.errors import UserError, run
from espnet_prune.files import write_text
from espnet_prune.text.normalise import read_lines

HERE = Path(__file__).resolve().parent
SEED = 2023
# Sentences 5 to 24 are the same for every speaker; 10 is too short for a reference.
REFERENCES = [number for number in range(5, 25) if number != 10]
FIRST_TARGET = 25


def clean(text: str) -> str:
    """Remove quotes and brackets around a text, and spaces before its punctuation."""
    return one_line(re.sub(r"\s+([.,?!])", r"\1", text.strip(' "()')))


def read_texts(path: Path) -> dict[str, dict[str, str]]:
    """Read the sentences that can be targets, by speaker and utterance."""
    if not path.is_file():
        raise UserError(f"there is no {path}; it comes with the recipe")
    texts: dict[str, dict[str, str]] = {}
    for line in filter(None, read_lines(path)[1:]):
        name, text = line.split("\t")
        speaker, number = name.split("_")
        if int(number) >= FIRST_TARGET:
            texts.setdefault(speaker, {})[name] = clean(text)
    return texts


def draw(texts: dict[str, dict[str, str]], seed: int) -> list[Line]:
    """Draw target, reference and spare of each speaker, speakers in order."""
    rows = []
    for speaker in sorted(texts):
        rng = random.Random(f"{seed}-{speaker}")
        target = rng.choice(sorted(texts[speaker]))
        reference, spare = rng.sample(REFERENCES, 2)
        rows.append(
            {
                "speaker": speaker,
                "reference": f"{speaker}_{reference:03d}",
                "spare": f"{speaker}_{spare:03d}",
                "target": target,
                "text": texts[speaker][target],
            }
        )
    return rows


def write_list(path: Path, rows: list[Line]) -> None:
    """Write a list, and its checksum in the format of ``sha256sum``."""
    text = list_text(rows)
    write_text(path, text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    write_text(path.with_name(f"{path.name}.sha256"), f"{digest}  {path.name}\n")


def main(cmd=None) -> None:
    """Draw and write."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add(
        "--texts",
        type=Path,
        default=HERE / "vctk_texts.tsv",
        help="Numbers and transcripts of recordings",
    )
    add("--output", type=Path, default=HERE / "vctk_108.tsv", help="List to write")
    add("--seed", type=int, default=SEED, help="Seed of the draw")
    args = parser.parse_args(cmd)
    rows = draw(read_texts(args.texts), args.seed)
    write_list(args.output, rows)
    print(f"{args.output}: {len(rows)} speakers, seed {args.seed}")


if __name__ == "__main__":
    run(main)
