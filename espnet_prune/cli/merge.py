"""Merge YAML files of settings into one, for ``prune_tts.sh --train_overlays``."""

import argparse
from pathlib import Path
from typing import Any, Dict, List

import yaml

from espnet_prune.errors import UserError


def merge(base: Dict[str, Any], changes: Dict[str, Any]) -> Dict[str, Any]:
    """Return ``base`` with ``changes``: sections are merged, all else is replaced."""
    merged = dict(base)
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(merged.get(name), dict):
            value = merge(merged[name], value)
        merged[name] = value
    return merged


def read_settings(path: Path) -> Dict[str, Any]:
    """Read a file of settings.

    Raises:
        UserError: one line; the file is missing or holds something else.

    """
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"cannot read {path} ({reason}); name a YAML file") from None
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise UserError(f"{path} holds no settings; write lines of NAME: VALUE")
    return settings


def write_merged(files: List[Path], output_dir: Path) -> Path:
    """Merge files in this order and write NAME_OVERLAYS.yaml; return its path."""
    settings: Dict[str, Any] = {}
    for file in files:
        settings = merge(settings, read_settings(file))
    output = output_dir / f"{'_'.join(file.stem for file in files)}.yaml"
    text = f"# Merged from {', '.join(map(str, files))}.\n"
    text += yaml.safe_dump(settings, sort_keys=False)
    if not output.exists() or output.read_text(encoding="utf-8") != text:
        output_dir.mkdir(parents=True, exist_ok=True)
        partial = output.with_suffix(".partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(output)
    return output


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "files", nargs="+", type=Path, help="each goes over those before"
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="where to write")
    return parser


def main(cmd=None) -> None:
    """Write the merged file and print its path."""
    args = get_parser().parse_args(cmd)
    print(write_merged(args.files, args.output_dir))
