"""All changes of the plugin to ESPnet, and to packages that ESPnet imports.

ESPnet has no entry points, so its modules are changed when they are imported, in every
process that imports ``espnet_prune``; ``install`` lists them. Further changes are made
on request only: ``use_task``, ``whole_checkpoints``, ``name_recordings``,
``allow_cleaner``, and ``prune_self_attention`` of ``espnet_prune.attention``.
docs/espnet.md gives the reason for each. Importing this module does not import ESPnet.
"""

import contextlib
import functools
import importlib
import importlib.abc
import importlib.util
import inspect
import io
import logging
import os
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from espnet_prune.errors import UserError, first_line
from espnet_prune.files import replace_when_written

# Names of our models in YAML, and their modules.
MODELS = {
    "stylespeech": ("espnet_prune.model", "StyleSpeech"),
    "pruned_fastspeech2": ("espnet_prune.fastspeech2", "PrunedFastSpeech2"),
}
_registered: set[str] = set()
_TASK = "espnet_prune.training.task"
# Says "Failed to import Flash Attention" in every process; our models never use it.
_ATTENTION = "espnet2.legacy.nets.pytorch_backend.transformer.attention"
# The first release of ESPnet that this version of the plugin was not tested with.
UNTESTED = "202612"


def install() -> None:
    """Extend ESPnet's modules, now or when they are imported.

    A second call changes nothing.
    """
    after_import("espnet2.tasks.tts", _register_models)
    after_import("espnet2.text.phoneme_tokenizer", _register_arpabet)
    after_import("espnet2.text.cleaner", _register_lower_case)
    after_import("phonemizer", _use_bundled_espeak)
    after_import("numba", _let_numba_cache)
    after_import("typeguard", _prepare_checks_later)
    after_import(_ATTENTION, lambda module: None)


def register(name: str, model: type) -> None:
    """Let ``tts: NAME`` in YAML mean ``model``; a second call changes nothing.

    Args:
        name: lower case, not one of ESPnet's own.
        model: an ``AbsTTS`` whose ``inference`` has the arguments of FastSpeech2's.

    Raises:
        UserError: ESPnet defines the name itself, or it is not lower case.
        TypeError: ``model`` is not an ``AbsTTS``.
    """
    from espnet2.tasks.tts import tts_choices
    from espnet2.tts.abs_tts import AbsTTS
    from espnet2.tts.fastspeech2 import FastSpeech2

    if not isinstance(name, str) or name != name.lower():
        raise UserError(f"tts: {name} never matches: choose a lower-case name")
    if not isinstance(model, type) or not issubclass(model, AbsTTS):
        raise TypeError(f"{model!r} is not an AbsTTS")
    if name in tts_choices.classes and name not in _registered:
        raise UserError(
            f"ESPnet defines tts: {name} itself: choose another name for "
            f"{model.__name__}"
        )
    tts_choices.classes[name] = model
    # ESPnet's Text2Speech passes the speed factor only to classes that it knows
    FastSpeech2.register(model)
    _registered.add(name)


def is_ours(name: str) -> bool:
    """Return whether the plugin, not ESPnet, defines a model."""
    return name in MODELS or name in _registered


def use_task() -> None:
    """Let ESPnet's own commands run our task, which they look up by name.

    Nothing is imported now, because commands without a task start faster so.
    """

    def load(tasks) -> None:
        _register_models(tasks)
        importlib.import_module(_TASK)

    def replace(module) -> None:
        tasks: Any = importlib.import_module("espnet2.tasks.tts")
        tasks.TTSTask = module.PruneTTSTask

    # two steps, because our module may be imported first, and imports ESPnet's
    after_import(_TASK, replace)
    after_import("espnet2.tasks.tts", load)


@contextlib.contextmanager
def whole_checkpoints() -> Iterator[None]:
    """Let ESPnet's trainer write only complete files in this context.

    The trainer has no hook for it, so two of its modules get another ``torch``.
    """
    from espnet2.main_funcs import average_nbest_models
    from espnet2.train import trainer

    writers = [trainer, average_nbest_models]
    before = [module.torch for module in writers]
    for module, torch in zip(writers, before, strict=True):
        module.torch = _WholeSaves(torch)
    try:
        yield
    finally:
        for module, torch in zip(writers, before, strict=True):
            module.torch = torch


class _WholeSaves(types.ModuleType):
    """``torch``, except that ``save`` never leaves a part of a file."""

    def __init__(self, torch: types.ModuleType):
        super().__init__(torch.__name__)
        self._torch = torch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._torch, name)

    def save(self, states: Any, path: Any, *args, **kwargs) -> None:
        if not isinstance(path, (str, Path)):
            self._torch.save(states, path, *args, **kwargs)
            return
        with replace_when_written(path) as partial:
            try:
                self._torch.save(states, partial, *args, **kwargs)
            except RuntimeError as error:  # what PyTorch makes of a full disk
                raise UserError(
                    f"cannot write {path} ({first_line(error)}): free disk space, or "
                    "choose a writable folder; training continues from the last "
                    "complete checkpoint"
                ) from error


@functools.cache  # once for a process
def name_recordings() -> None:
    """Let ESPnet refuse recordings that it cannot read with a UserError."""
    from espnet2.fileio import sound_scp
    from espnet2.train import iterable_dataset

    def naming(read: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(read)
        def read_or_refuse(path, *args, **kwargs):
            try:
                return read(path, *args, **kwargs)
            except (OSError, RuntimeError) as error:  # libsndfile raises the latter
                from espnet_prune.speech import audio

                for file in [path] if isinstance(path, str) else path:
                    audio.read(file)  # it says what is wrong
                raise UserError(
                    f"the recording {path} cannot be read ({first_line(error)}): run "
                    "the stages that wrote it again"
                ) from error

        return read_or_refuse

    sound_scp.soundfile_read = naming(sound_scp.soundfile_read)
    types = iterable_dataset.DATA_TYPES
    types["sound"] = naming(types["sound"])


def after_import(name: str, action: Callable[[Any], None]) -> None:
    """Call ``action(module)`` when a module is imported, or now if it already is.

    It is called again whenever the module is reloaded.
    """
    _hook.actions[name] = action
    if _hook not in sys.meta_path:
        sys.meta_path.insert(0, _hook)
    if name in sys.modules:
        # wait for another thread that is importing it
        action(importlib.import_module(name))


class _ImportHook(importlib.abc.MetaPathFinder):
    """Adds an action to modules that the other finders find."""

    def __init__(self) -> None:
        self.actions: dict[str, Callable[[Any], None]] = {}

    def find_spec(self, fullname, path=None, target=None):
        if fullname not in self.actions:
            return None
        for finder in sys.meta_path.copy():
            find = getattr(finder, "find_spec", None)
            spec = find(fullname, path, target) if find and finder is not self else None
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader, self.actions[fullname])
                return spec
        return None


class _Loader(importlib.abc.Loader):
    """Loads with ``loader`` and then acts; it leaves no trace in the module."""

    def __init__(self, loader, action: Callable[[Any], None]):
        self.loader, self.action = loader, action

    def __getattr__(self, name: str) -> Any:  # all other attributes of loaders
        return getattr(self.loader, name)

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module) -> None:
        module.__spec__.loader = module.__loader__ = self.loader
        with _without_needless_line(module.__name__):
            self.loader.exec_module(module)
        self.action(module)


_hook = _ImportHook()


def _without_needless_line(name: str) -> contextlib.AbstractContextManager[Any]:
    """Hide what a module says while it is imported, if FlashAttention is missing."""
    if name == _ATTENTION and importlib.util.find_spec("flash_attn") is None:
        return contextlib.redirect_stderr(io.StringIO())
    return contextlib.nullcontext()


def _register_models(tasks) -> None:
    """Let ``tts`` in YAML name our models."""
    _warn_of_untested()
    for name, (module, model) in MODELS.items():
        register(name, getattr(importlib.import_module(module), model))


def _warn_of_untested() -> None:
    import espnet2
    from packaging.version import Version

    import espnet_prune

    if Version(espnet2.__version__) >= Version(UNTESTED):
        # not logging.warning, which would set up logging before ESPnet does
        logging.getLogger(__name__).warning(
            "espnet_prune %s was not tested with ESPnet %s: if something fails, "
            "install `espnet<%s`",
            espnet_prune.__version__,
            espnet2.__version__,
            UNTESTED,
        )


def _register_arpabet(tokenizers) -> None:
    """Let ``g2p: arpabet`` mean ``text.arpabet.to_tokens``.

    ESPnet has a list of names for its options, and a constructor that knows their
    meanings.
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


def _register_lower_case(cleaners) -> None:
    """Let ``cleaner: lower_case`` mean ``text.normalise.lower``, before all others.

    A model whose corpus was in capitals has this cleaner. All that makes tokens for it,
    ESPnet's own commands included, then writes texts in lower case first.
    """
    from espnet_prune.text import normalise

    cleaner = cleaners.TextCleaner
    if hasattr(cleaner, normalise.LOWER_CASE):
        return
    build, clean = cleaner.__init__, cleaner.__call__

    @functools.wraps(build)
    def with_lower_case(self, *args, **kwargs):
        build(self, *args, **kwargs)
        self.lower_case = normalise.LOWER_CASE in self.cleaner_types
        self.cleaner_types = [
            name for name in self.cleaner_types if name != normalise.LOWER_CASE
        ]

    @functools.wraps(clean)
    def clean_lower_case(self, text):
        return clean(self, normalise.lower(text) if self.lower_case else text)

    cleaner.lower_case = False
    cleaner.__init__, cleaner.__call__ = with_lower_case, clean_lower_case


def allow_cleaner(parser: Any, name: str) -> None:
    """Let ``--cleaner`` of ESPnet's parser take another name."""
    (option,) = (action for action in parser._actions if action.dest == "cleaner")
    if name not in option.choices:
        option.choices = [*option.choices, name]


def _use_bundled_espeak(phonemizer) -> None:
    """Let phonemizer use the espeak-ng of a package."""
    from espnet_prune.text.espeak import use_bundled_espeak

    use_bundled_espeak()


def _let_numba_cache(numba) -> None:
    """Give numba a temporary cache if it would find no writable folder.

    It refuses to import librosa otherwise, as in a container that is read-only.
    """
    import atexit
    import shutil
    import tempfile

    librosa = importlib.util.find_spec("librosa")
    if numba.config.CACHE_DIR or librosa is None or not librosa.origin:
        return
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    for folder in (Path(librosa.origin).parent, Path(cache)):
        above = next(each for each in (folder, *folder.parents) if each.exists())
        if above.is_dir() and os.access(above, os.W_OK):
            return
    temporary = tempfile.mkdtemp(prefix="numba_")
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    numba.config.CACHE_DIR = temporary


def _prepare_checks_later(typeguard) -> None:
    """Let typeguard prepare ESPnet's functions when they are first called.

    For each function it reads, parses and compiles the source of the whole module. This
    is a third of the time of importing ESPnet, and few of these functions are called.
    """
    prepare = typeguard.typechecked
    if hasattr(prepare, "__wrapped__"):
        return  # it is done already

    @functools.wraps(prepare)
    def typechecked(target=None, **settings):
        package = getattr(target, "__module__", "").partition(".")[0]
        if settings or package != "espnet2" or not inspect.isfunction(target):
            return prepare(target, **settings)
        checked = None

        @functools.wraps(target)
        def call(*args, **kwargs):
            nonlocal checked
            if checked is None:
                checked = prepare(target)
            return checked(*args, **kwargs)

        return call

    typeguard.typechecked = typechecked
