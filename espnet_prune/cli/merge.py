"""Merge YAML files of settings into one, for ``prune_tts.sh --train_overlays``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from espnet_prune.cli.options import make_parser
from espnet_prune.errors import UserError
from espnet_prune.files import write_text
from espnet_prune.loading import load_yaml


def merge(*settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of all files; later ones override earlier ones.

    Sections are merged; lists and all other values are replaced. A file that chooses
    another scheduler, optimiser or other class drops the ``NAME_conf`` of the old one.
    Text in ``${}`` is not changed.
    """
    try:
        if "'???'" in repr(settings):  # OmegaConf would ignore it
            raise UserError("a setting is '???'; give it a value")
        merged: dict[str, Any] = {}
        for changes in settings:
            for name, value in changes.items():
                if merged.get(name, value) != value:
                    merged.pop(f"{name}_conf", None)  # it was for another class
            # sections merged give a section, with the keys that they had
            both = OmegaConf.to_container(OmegaConf.merge(merged, changes))
            merged = cast("dict[str, Any]", both)
        return merged
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        key = getattr(error, "full_key", None) or "the files"
        raise UserError(f"cannot merge {key} ({reason}); correct it") from None


def write_merged(files: list[Path], output_dir: Path) -> Path:
    """Merge files in this order and write NAME_OVERLAYS.yaml; return its path."""
    settings = merge(*(load_yaml(f, "YAML file of settings", True) for f in files))
    output = output_dir / f"{'_'.join(file.stem for file in files)}.yaml"
    text = f"# Merged from {', '.join(map(str, files))}.\n"
    text += yaml.safe_dump(settings, sort_keys=False)
    if not output.exists() or output.read_text(encoding="utf-8") != text:
        write_text(output, text)
    return output


def main(cmd: Sequence[str] | None = None) -> None:
    """Write the merged file and print its path."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add(
        "files",
        nargs="+",
        type=Path,
        help="YAML files; later files override earlier ones",
    )
    add("--output_dir", type=Path, required=True, help="folder for the merged file")
    args = parser.parse_args(cmd)
    print(write_merged(args.files, args.output_dir))
