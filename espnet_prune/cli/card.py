"""Write the model card of an experiment, README.md of its archive and repository.

espnet-prune card EXP --archive EXP/MODEL.zip
espnet-prune card EXP --tag OWNER/NAME --output REPOSITORY/README.md

Options give what only people know, such as the licence; without them the card contains
"to be filled in".
"""

from collections.abc import Sequence
from pathlib import Path

from espnet_prune.cli.options import make_parser
from espnet_prune.errors import UserError
from espnet_prune.evaluation import card
from espnet_prune.evaluation.card import CARD, UNKNOWN
from espnet_prune.files import write_text
from espnet_prune.speech.vocoder import GRIFFIN_LIM


def main(cmd: Sequence[str] | None = None) -> None:
    """Write the card, and put it into the archive if there is one."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("experiment", type=Path, metavar="EXP", help="Folder of the model")
    add(
        "--tag",
        help="Name of the repository, OWNER/NAME; without it the card loads the "
        "archive",
    )
    add(
        "--archive",
        type=Path,
        metavar="ZIP",
        help="Archive of the packing stage; the card is put into it",
    )
    add("--output", type=Path, help=f"File of the card (default: EXP/{CARD})")
    add("--language", default="noinfo", help="Language code")
    add("--corpus", default=UNKNOWN, help="Corpus that the model was trained with")
    add(
        "--license",
        default=UNKNOWN,
        help="Licence of the weights, for instance cc-by-4.0",
    )
    add(
        "--vocoder",
        default=GRIFFIN_LIM,
        help="Vocoder of the example, for instance hifigan",
    )
    add(
        "--text",
        default="Hello, this is my voice.",
        help="Text that the example speaks",
    )
    add(
        "--plugin_url",
        help="Address from which pip installs the plugin, for instance "
        "git+https://HOST/OWNER/NAME (default: from a copy of its source)",
    )
    add(
        "--scores",
        nargs="*",
        type=Path,
        default=[],
        metavar="DIR",
        help="Folders that `score` or `listen collect` wrote, in addition to those in "
        "EXP/scores",
    )
    options = vars(parser.parse_args(cmd))
    output = options.pop("output") or options["experiment"] / CARD
    text = card.make_card(**options)
    if output.is_dir():
        raise UserError(f"--output {output} is a folder; name a file")
    if options["archive"] is not None:
        card.put_into(options["archive"], text)
        print(f"{CARD} in {options['archive']}")
    write_text(output, text)
    print(output)
