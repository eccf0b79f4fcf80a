"""Use the espeak-ng of ``espeakng-loader``, so that none has to be installed."""

import logging
import os
import tempfile
import zlib
from pathlib import Path
from typing import Any

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
    os.environ[data] = short_path(espeakng_loader.get_data_path())
    return True


def open_espeak(language: str | None, g2p: str | None, **options: bool) -> Any:
    """Open espeak-ng with stress, as ESPnet does; ``g2p`` is its name for messages."""
    from espnet_prune.errors import UserError, first_line

    try:
        from phonemizer.backend import EspeakBackend

        quiet = logging.getLogger("espnet_prune.espeak")
        quiet.setLevel(logging.ERROR)
        return EspeakBackend(language, with_stress=True, logger=quiet, **options)
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"g2p {g2p} needs espeak-ng ({first_line(error)}): pip install phonemizer "
            "espeakng-loader"
        ) from error


def short_path(path: str) -> str:
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
