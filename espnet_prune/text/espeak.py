"""Phonemes without an espeak of the system: the one inside ``espeakng-loader``."""

import os
import tempfile
import zlib
from pathlib import Path

# espeak-ng keeps the path of its data in 160 bytes; a longer one ends the process.
LONGEST_DATA_PATH = 150


def use_bundled_espeak() -> bool:
    """Have phonemizer, and so ESPnet's ``espeak_ng_*``, use the wheel's espeak-ng.

    It goes before an espeak-ng of the system, whose phonemes differ from version to
    version, but not before one that the user named by ``PHONEMIZER_ESPEAK_LIBRARY``,
    ``PHONEMIZER_ESPEAK_DATA_PATH`` or ``ESPEAK_DATA_PATH``. Only environment variables
    are set, so nothing is loaded and worker processes inherit the choice.

    Returns:
        bool: Whether the wheel's library was chosen; False without the wheel.

    """
    library, data = "PHONEMIZER_ESPEAK_LIBRARY", "ESPEAK_DATA_PATH"
    if {library, data, "PHONEMIZER_ESPEAK_DATA_PATH"} & os.environ.keys():
        return False
    try:
        import espeakng_loader
    except ImportError:
        return False
    os.environ[library] = espeakng_loader.get_library_path()
    # Not phonemizer's own variable: it would resolve a shortened path again.
    os.environ[data] = shortened(espeakng_loader.get_data_path())
    return True


def shortened(path: str) -> str:
    """Return ``path``, or a link to it where it is too long for espeak-ng."""
    if len(os.fsencode(path)) <= LONGEST_DATA_PATH:
        return path
    name = f"espeak-ng-data-{os.getuid()}-{zlib.crc32(os.fsencode(path)):08x}"
    link = Path(tempfile.gettempdir()) / name
    try:
        link.symlink_to(path)
    except FileExistsError:
        # Ours from an earlier process, unless another user planted it.
        if link.lstat().st_uid != os.getuid():
            return path
    return str(link)
