"""espnet_prune: zero-shot text-to-speech by pruned self-attention, inside ESPnet.

Importing the package costs next to nothing: names are loaded on first use, and ``tts:
stylespeech`` and ``tts: pruned_fastspeech2`` are registered when ESPnet's TTS task is
imported, before or after this package.
"""

import importlib
import os
import signal
import sys
from typing import Any

_is_command = os.path.basename("".join(sys.argv[:1])) in ("-m", "espnet-prune")
if _is_command and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Ctrl-C ends a command without a traceback until errors.run handles it
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from espnet_prune.errors import UserError  # noqa: E402  (after the above)
from espnet_prune.training import host  # noqa: E402

__version__ = "0.1.0"

_HOMES = {
    "PruneTTSTask": "espnet_prune.training.task",
    "PrunedFastSpeech2": "espnet_prune.fastspeech2",
    "StyleSpeech": "espnet_prune.model",
    "Text2Speech": "espnet_prune.speech.synthesis",
    "prune_self_attention": "espnet_prune.attention",
    "record_attention": "espnet_prune.attention",
    "register": "espnet_prune.training.host",
}
__all__ = ["UserError", *_HOMES]  # noqa: PLE0604

host.install()


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
