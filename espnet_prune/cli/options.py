"""The parser of a verb, and options that several verbs have."""

import argparse
from pathlib import Path
from typing import Any, NoReturn

from espnet_prune.errors import UserError
from espnet_prune.speech.vocoder import CHOICES


class _Formatter(
    argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter
):
    """Shows defaults that help to know, and the description line by line."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default in (None, "", []) or action.default is False
        if silent or "default" in (action.help or ""):
            return action.help
        return super()._get_help_string(action)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line, like all other errors."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser; the description of a verb is the docstring of its module."""
    return _Parser(description=description, formatter_class=_Formatter)


def add_model(parser: argparse.ArgumentParser, name: str = "--model") -> None:
    """Add the model, which may be an argument without dashes, and ``--model_file``."""
    may_be_left_out: dict[str, Any] = {} if name.startswith("-") else {"nargs": "?"}
    parser.add_argument(
        name,
        **may_be_left_out,
        help="A model of the package, an experiment folder, a packed model or a tag "
        "of the model zoo (default: english_small of the package)",
    )
    parser.add_argument(
        "--model_file",
        metavar="FILE",
        help="Weights in the experiment folder (default: train.loss.ave.pth)",
    )


def add_vocoder(parser: argparse.ArgumentParser, about: str = "") -> None:
    """Add ``--vocoder``, whose help begins with ``about``."""
    parser.add_argument(
        "--vocoder",
        help=f"{about}{CHOICES} (default: hifigan for a model of the package, if it is "
        "installed; otherwise griffin_lim)",
    )


def add_spembs(parser: argparse.ArgumentParser) -> None:
    """Add ``--spembs``."""
    parser.add_argument(
        "--spembs",
        type=Path,
        help="scp file of speaker embeddings, for models that use them",
    )


def add_test_set(parser: argparse.ArgumentParser) -> None:
    """Add ``--system`` and ``--data_dir``: the systems, and their texts."""
    parser.add_argument(
        "--system",
        action="append",
        default=[],
        metavar="NAME=WAVS",
        help="A name and a folder of UTTERANCE.wav, or a wav.scp; give it once per "
        "system. The others are compared to the first one",
    )
    parser.add_argument(
        "--data_dir",
        type=Path,
        required=True,
        help="Kaldi folder with text, wav.scp (references), utt2spk and, if there are "
        "recordings of the texts, gt_wav.scp, which is one more system",
    )
