"""Use the espeak-ng of ``espeakng-loader``, so that none has to be installed."""

import os
import tempfile
import zlib
from pathlib import Path

# espeak-ng keeps the path of its data in 160 bytes; a longer path crashes the process.
LONGEST_DATA_PATH = 150


def use_bundled_espeak() -> bool:
    """Make phonemizer, and so ESPnet's ``espeak_ng_*``, use the package's espeak-ng.

    It is preferred to an espeak-ng of the system, whose phonemes differ from version to
    version, but not to one that the user named in ``PHONEMIZER_ESPEAK_LIBRARY``,
    ``PHONEMIZER_ESPEAK_DATA_PATH`` or ``ESPEAK_DATA_PATH``. Only environment variables
    are set, so nothing is loaded and worker processes inherit the choice.

    Returns:
        bool: Whether the package's library was chosen; False without the package.
    """
    library, data = "PHONEMIZER_ESPEAK_LIBRARY", "ESPEAK_DATA_PATH"
    if {library, data, "PHONEMIZER_ESPEAK_DATA_PATH"} & os.environ.keys():
        return False
    try:
        import espeakng_loader
    except ImportError:
        return False
    os.environ[library] = espeakng_loader.get_library_path()
    # Not phonemizer's own variable: phonemizer would resolve a shortened path again.
    os.environ[data] = shortened(espeakng_loader.get_data_path())
    return True


def shortened(path: str) -> str:
    """Return ``path``, or a link to it if it is too long for espeak-ng."""
    if len(os.fsencode(path)) <= LONGEST_DATA_PATH:
        return path
    name = f"espeak-ng-data-{os.getuid()}-{zlib.crc32(os.fsencode(path)):08x}"
    link = Path(tempfile.gettempdir()) / name
    try:
        link.symlink_to(path)
    except FileExistsError:
        # This link is from an earlier process, unless another user made it.
        if link.lstat().st_uid != os.getuid():
            return path
    return str(link)
