"""Scripts of recipes as modules, and the Kaldi folders that they write."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def load_script(path: Path, name: str) -> ModuleType:
    """Import a script of a recipe, which finds its neighbours beside it.

    Args:
        path: Of the script.
        name: Of the module; several recipes have a prepare.py.
    """
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # for processes, which import by name
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


def read_folder(folder: Path) -> dict[str, dict[str, str]]:
    """Read the files of a Kaldi folder: {file: {utterance: value}}."""
    return {
        path.name: dict(
            line.split(maxsplit=1) for line in path.read_text("utf-8").splitlines()
        )
        for path in folder.iterdir()
        # these have no lines of utterances
        if path.name not in ("cleaner", "identity.json")
    }
