"""processes.py and errors.run: how shared work ends when somebody ends it."""

import concurrent.futures.process
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from espnet_prune.errors import UserError
from espnet_prune.processes import process_pool
from espnet_prune.speech.audio import AudioError

PACKAGE = Path(__file__).parents[1] / "espnet_prune"


def pool_of_two(*start):
    # spawned ones would import ESPnet once more
    return process_pool(2, *start, method="fork")


def test_all_work_is_done_by_others_after_they_have_started(tmp_path):
    with pool_of_two(os.chdir, tmp_path) as pool:
        found = set(pool.map(where, range(8)))
    assert {folder for _, folder in found} == {str(tmp_path.resolve())}
    assert os.getpid() not in {process for process, _ in found}


def where(_):
    return os.getpid(), os.getcwd()


def test_a_killed_process_is_a_line_with_its_remedy():
    with pytest.raises(UserError, match="smaller --nj"), pool_of_two() as pool:
        list(pool.map(os._exit, [1]))


def refuse(path):
    raise AudioError(f"recording {path}", "cut off", "is cut off", "copy it again")


def test_an_error_of_a_process_is_its_message():
    """Errors that cannot be unpickled would look like a killed process."""
    with pytest.raises(AudioError, match="recording a.wav is cut off: copy it"):
        with pool_of_two() as pool:
            list(pool.map(refuse, ["a.wav"]))


def test_an_interruption_while_a_pool_starts_leaves_no_process(monkeypatch):
    """Otherwise its processes and their parent would wait for each other forever."""

    def interrupted(thread):
        raise KeyboardInterrupt

    manager = concurrent.futures.process._ExecutorManagerThread
    monkeypatch.setattr(manager, "start", interrupted)
    with pytest.raises(KeyboardInterrupt), pool_of_two() as pool:
        pool.submit(where, 1)
    for child in multiprocessing.active_children():
        child.join(60)
    assert not multiprocessing.active_children()


COMMAND = """
import os, signal, sys, time, types

# the package without its __init__, which takes seconds to import ESPnet
package = types.ModuleType("espnet_prune")
package.__path__ = [sys.argv[1]]
sys.modules["espnet_prune"] = package
from espnet_prune.errors import run
from espnet_prune.processes import process_pool

# jobs in the background of a shell, such as these tests may be, ignore it
signal.signal(signal.SIGINT, signal.default_int_handler)

def note():
    print(os.getpid(), flush=True)

def work():
    with process_pool(2, note, method="fork") as pool:
        list(pool.map(time.sleep, [0.2] * 1000))

run(work)
"""


@pytest.mark.parametrize(
    "sent, code, line",
    [
        (signal.SIGINT, 130, "espnet_prune: interrupted\n"),
        (signal.SIGKILL, -signal.SIGKILL, ""),
    ],
)
def test_an_end_from_outside_ends_all_and_is_one_line(sent, code, line):
    """A hundred seconds of work: Ctrl-C, which all processes get, and kill -9."""
    child = subprocess.Popen(
        [sys.executable, "-c", COMMAND, PACKAGE],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    workers = [int(child.stdout.readline()) for _ in range(2)]
    (os.killpg if sent == signal.SIGINT else os.kill)(child.pid, sent)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == code
    assert errors == line
    for worker in workers:
        wait_for(lambda worker=worker: not alive(worker))


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def alive(process):
    """Tell whether a process runs; the dead that nobody has buried do not."""
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
