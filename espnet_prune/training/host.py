"""Every place where the plugin touches ESPnet, in one list.

ESPnet has no entry points, so its tables are extended when their modules are imported,
by whomever. Importing this module imports nothing of ESPnet.

    espnet2.tasks.tts               ``tts_choices.classes``: names of our models
    espnet2.tts.fastspeech2         our models count as ``FastSpeech2``, to which ESPnet's
                                    ``Text2Speech`` hands the speed factor
    espnet2.text.phoneme_tokenizer  ``g2p_choices`` and ``PhonemeTokenizer.__init__``:
                                    the g2p ``arpabet``
    phonemizer                      the espeak-ng of a wheel
"""

import functools
import importlib.abc
import importlib.util
import sys
from collections.abc import Callable
from typing import Any

from espnet_prune.errors import UserError

# Our names for YAML, and where the models are.
MODELS = {
    "stylespeech": ("espnet_prune.model", "StyleSpeech"),
    "pruned_fastspeech2": ("espnet_prune.fastspeech2", "PrunedFastSpeech2"),
}
_registered: set[str] = set()


def install() -> None:
    """Extend ESPnet's modules, now if they are imported already, else when they are.

    Doing it again changes nothing.
    """
    after_import("espnet2.tasks.tts", _register_models)
    after_import("espnet2.text.phoneme_tokenizer", _register_arpabet)
    after_import("phonemizer", _use_bundled_espeak)


def register(name: str, model: type) -> None:
    """Let ``tts: NAME`` in YAML mean ``model``; doing it again changes nothing.

    Args:
        name: lower case, not one of ESPnet's own.
        model: an ``AbsTTS`` that takes the call of FastSpeech2's ``inference``.

    Raises:
        UserError: ESPnet defines the name itself, or it is not lower case.
        TypeError: ``model`` is not an ``AbsTTS``.

    """
    from espnet2.tasks.tts import tts_choices
    from espnet2.tts.abs_tts import AbsTTS
    from espnet2.tts.fastspeech2 import FastSpeech2

    if name in tts_choices.classes and name not in _registered:
        raise UserError(
            f"ESPnet defines tts: {name} itself: choose another name for "
            f"{model.__name__}"
        )
    if name != name.lower():
        raise UserError(f"tts: {name} would never match: choose a lower-case name")
    if not issubclass(model, AbsTTS):
        raise TypeError(f"{model.__name__} is not an AbsTTS")
    tts_choices.classes[name] = model
    FastSpeech2.register(model)
    _registered.add(name)


def is_ours(name: str) -> bool:
    """Whether the plugin, not ESPnet, defines a model."""
    return name in MODELS or name in _registered


def after_import(name: str, action: Callable[[Any], None]) -> None:
    """Call ``action(module)`` once a module is imported, or now if it is already."""
    if name in sys.modules:
        action(sys.modules[name])
    else:
        sys.meta_path.insert(0, _Finder(name, action))


class _Finder(importlib.abc.MetaPathFinder):
    """Lets the other finders find one module, and acts after it has run."""

    def __init__(self, name: str, action: Callable[[Any], None]):
        self.name, self.action = name, action

    def find_spec(self, fullname, path=None, target=None):
        if fullname != self.name or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        @functools.wraps(run)
        def run_and_act(module):
            run(module)
            self.action(module)

        spec.loader.exec_module = run_and_act
        return spec


def _register_models(tasks) -> None:
    import importlib

    for name, (module, model) in MODELS.items():
        register(name, getattr(importlib.import_module(module), model))


def _register_arpabet(tokenizers) -> None:
    """Let ``g2p: arpabet`` mean ``text.arpabet.to_tokens``.

    ESPnet has a list of names for its options, and a constructor that knows what each
    means.
    """
    from espnet_prune.text import arpabet

    if arpabet.G2P in tokenizers.g2p_choices:
        return
    tokenizers.g2p_choices.append(arpabet.G2P)
    build = tokenizers.PhonemeTokenizer.__init__

    @functools.wraps(build)
    def with_arpabet(self, g2p_type, *args, **kwargs):
        ours = g2p_type == arpabet.G2P
        build(self, None if ours else g2p_type, *args, **kwargs)
        if ours:
            self.g2p_type, self.g2p = g2p_type, arpabet.to_tokens

    tokenizers.PhonemeTokenizer.__init__ = with_arpabet


def _use_bundled_espeak(phonemizer) -> None:
    from espnet_prune.text.espeak import use_bundled_espeak

    use_bundled_espeak()
