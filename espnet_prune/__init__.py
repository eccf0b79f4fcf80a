"""espnet_prune: zero-shot text-to-speech by pruned self-attention, inside ESPnet.

Importing the package registers ``tts: stylespeech`` with ESPnet.
"""

__version__ = "0.1.0"

from espnet_prune.attention import record_attention
from espnet_prune.errors import UserError
from espnet_prune.model import StyleSpeech
from espnet_prune.task import PruneTTSTask, register
from espnet_prune.text import use_bundled_espeak

__all__ = [
    "PruneTTSTask",
    "StyleSpeech",
    "UserError",
    "record_attention",
    "register",
]

register("stylespeech", StyleSpeech)
use_bundled_espeak()
