"""espnet_prune: zero-shot text-to-speech by pruned self-attention, inside ESPnet.

Importing the package registers ``tts: stylespeech`` and ``tts: pruned_fastspeech2``
with ESPnet.
"""

__version__ = "0.1.0"

from espnet_prune import arpabet
from espnet_prune.attention import prune_self_attention, record_attention
from espnet_prune.errors import UserError
from espnet_prune.fastspeech2 import PrunedFastSpeech2
from espnet_prune.model import StyleSpeech
from espnet_prune.task import PruneTTSTask, register
from espnet_prune.text import use_bundled_espeak

__all__ = [
    "PruneTTSTask",
    "PrunedFastSpeech2",
    "StyleSpeech",
    "Text2Speech",
    "UserError",
    "prune_self_attention",
    "record_attention",
    "register",
]

register("stylespeech", StyleSpeech)
register("pruned_fastspeech2", PrunedFastSpeech2)
arpabet.register()
use_bundled_espeak()


def __getattr__(name):
    # on first use only: it imports ESPnet's decoding, which training has no use for
    if name == "Text2Speech":
        from espnet_prune.synthesis import Text2Speech

        return Text2Speech
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
