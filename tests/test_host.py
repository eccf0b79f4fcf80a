"""host.py: ESPnet's modules are extended when they are imported, by whomever."""

import importlib.util
import io
import json
import os
import subprocess
import sys
import types

import pytest
import torch
from espnet2.main_funcs import average_nbest_models
from espnet2.train import trainer

from espnet_prune.training import host

# A module that takes a while to import, and an action that leaves a mark in it.
PROGRAM = """
import importlib, importlib.util, sys, threading
sys.path.insert(0, {folder!r})
from espnet_prune.training import host

def mark(module):
    module.marks = getattr(module, "marks", 0) + module.ready

host.after_import("package.slow", mark)
"""


@pytest.fixture
def run(tmp_path):
    """Run a program beside ``package.slow`` and return what it prints last."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "package" / "slow.py").write_text(
        "import time\ntime.sleep(0.3)\nready = 1\nif __name__ == '__main__':\n"
        "    print('[1]')\n"
    )

    def run(program):
        child = subprocess.run(
            [sys.executable, "-c", PROGRAM.format(folder=str(tmp_path)) + program],
            capture_output=True,
            text=True,
        )
        assert child.returncode == 0, child.stderr
        return json.loads(child.stdout.splitlines()[-1])

    return run


def test_looking_a_module_up_is_no_import(run):
    """Libraries ask find_spec whether phonemizer is there, and import it later."""
    program = """
assert importlib.util.find_spec("package.slow").origin.endswith("slow.py")
assert importlib.util.find_spec("package.other") is None
import package.slow
print([package.slow.marks])
"""
    assert run(program) == [1]


def test_a_module_that_is_reloaded_is_extended_again(run):
    program = """
import package.slow
package.slow.marks = 0
importlib.reload(package.slow)
print([package.slow.marks])
"""
    assert run(program) == [1]


def test_threads_see_a_module_that_is_whole_and_extended(run):
    program = """
seen = []
def look():
    from package import slow
    seen.append(slow.marks)
threads = [threading.Thread(target=look) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(seen)
"""
    assert run(program) == [1] * 8


def test_an_import_in_another_thread_is_waited_for(run):
    program = """
import time
sys.meta_path.remove(host._hook)
thread = threading.Thread(target=importlib.import_module, args=["package.slow"])
thread.start()
while "package.slow" not in sys.modules: time.sleep(0.01)
host.after_import("package.slow", mark)
print([sys.modules["package.slow"].marks])
"""
    assert run(program) == [1]


def test_the_module_keeps_its_own_loader_and_can_be_run(run):
    program = """
import inspect, package.slow, runpy
kind = type(package.slow.__loader__).__name__
assert kind == type(package.slow.__spec__.loader).__name__ == "SourceFileLoader", kind
assert "time.sleep" in inspect.getsource(package.slow)
runpy.run_module("package.slow", run_name="__main__")
"""
    assert run(program) == [1]


def test_a_module_in_an_archive(run, tmp_path):
    """All modules of an archive share one loader, which must stay as it is."""
    program = f"""
import zipfile
with zipfile.ZipFile({str(tmp_path / "packed.zip")!r}, "w") as archive:
    archive.writestr("one.py", "ready = 1")
    archive.writestr("two.py", "ready = 1")
sys.path.insert(0, {str(tmp_path / "packed.zip")!r})
host.after_import("one", mark)
import one, two
print([one.marks, int(hasattr(two, "marks"))])
"""
    assert run(program) == [1, 0]


def test_only_espnets_trainer_saves_otherwise_and_only_while_it_trains(tmp_path):
    file = tmp_path / "states.pth"
    torch.save({"a": 1}, file)
    save = torch.save

    class Unpicklable:
        def __reduce__(self):
            raise KeyboardInterrupt  # a kill in the middle of the file

    for module in (trainer, average_nbest_models):
        with host.whole_checkpoints():
            assert torch.save is save and module.torch.save is not save
            assert module.torch.nn is torch.nn
            with pytest.raises(KeyboardInterrupt):
                module.torch.save([torch.zeros(9), Unpicklable()], file)
            module.torch.save({"b": 2}, buffer := io.BytesIO())
        assert module.torch is torch
    assert torch.load(file) == {"a": 1} and buffer.getvalue()
    assert [path.name for path in tmp_path.iterdir()] == ["states.pth"]


@pytest.mark.parametrize("version, lines", [("202611", 0), ("202701.post1", 1)])
def test_an_untested_espnet_is_said_in_one_line(version, lines):
    program = (
        "import espnet2, logging\n"
        f"espnet2.__version__ = {version!r}\n"
        "import espnet_prune.training.host as host\n"
        "host._warn_of_untested()\n"
        "assert not logging.getLogger().handlers  # ESPnet sets it up itself\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert child.returncode == 0, child.stderr
    assert child.stderr.count("not tested with ESPnet") == lines
    assert child.stderr.count("\n") == lines


def test_a_read_only_installation_gets_a_cache_for_numba(monkeypatch, tmp_path):
    """Without a writable folder, numba refuses to import librosa."""
    numba = types.SimpleNamespace(config=types.SimpleNamespace(CACHE_DIR=""))
    host._let_numba_cache(numba)
    assert numba.config.CACHE_DIR == ""  # numba finds a folder by itself
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "cache"))
    librosa = types.SimpleNamespace(origin=str(tmp_path / "file" / "l" / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: librosa)
    host._let_numba_cache(numba)
    assert os.access(numba.config.CACHE_DIR, os.W_OK)


@pytest.mark.skipif(
    importlib.util.find_spec("flash_attn") is not None, reason="FlashAttention is here"
)
def test_espnets_attention_is_imported_in_silence():
    """A first line "Failed to import Flash Attention" looks like a fault to users."""
    program = (
        "import sys, espnet_prune\n"
        "from espnet2.legacy.nets.pytorch_backend.transformer import attention\n"
        "print(attention.MultiHeadedAttention.__name__)\n"
        "print('a real complaint', file=sys.stderr)\n"
    )
    child = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True
    )
    assert child.stdout == "MultiHeadedAttention\n", child.stderr
    assert child.stderr == "a real complaint\n"


def test_types_are_checked_though_typeguard_reads_no_source_before_the_first_call(
    tmp_path,
):
    program = """
import inspect
import espnet_prune
import typeguard

read = []
getsource = inspect.getsource
inspect.getsource = lambda what: read.append(what.__name__) or getsource(what)
from espnet2.text.cleaner import TextCleaner

assert not read, read
assert TextCleaner("lower_case")("A") == "a"
assert set(read) == {"espnet2.text.cleaner"}, read
assert list(inspect.signature(TextCleaner).parameters) == ["cleaner_types"]
try:
    TextCleaner(3)
except typeguard.TypeCheckError as error:
    print("refused:", error)

@typeguard.typechecked
class Other:
    def count(self, number: int) -> None:
        pass

try:
    Other().count("one")
except typeguard.TypeCheckError as error:
    print("refused:", error)
"""
    script = tmp_path / "script.py"  # typeguard does nothing for `python -c`
    script.write_text(program)
    child = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    assert child.stdout.count("refused:") == 2
