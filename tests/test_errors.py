"""errors.py: how commands end."""

import errno
import os
import pickle
import signal
import subprocess
import sys
import time

import pytest

from espnet_prune.errors import UserError, explain, run
from espnet_prune.speech.audio import AudioError
from espnet_prune.text.normalise import TextError


def ends(error, capsys):
    """Return exit code and stderr of a command that raises an error."""

    def main():
        raise error

    with pytest.raises(SystemExit) as caught:
        run(main)
    return caught.value.code, capsys.readouterr().err


def test_bad_input_is_one_line_and_exit_code_2(capsys):
    code, said = ends(UserError("no data:\n  name  a folder"), capsys)
    assert (code, said) == (2, "espnet_prune: error: no data: name a folder\n")


@pytest.mark.parametrize(
    "number, remedy",
    [
        (errno.ENOSPC, "free disk space"),
        (errno.EROFS, "choose a writable folder"),
        (errno.EACCES, "change its permissions"),
        (errno.ENAMETOOLONG, "choose a shorter name"),
        (errno.EIO, "check the disk"),
        (errno.ENODEV, "check this file and its disk"),
    ],
)
def test_a_fault_of_the_machine_names_file_and_remedy(number, remedy, capsys):
    error = OSError(number, os.strerror(number), "exp/train.log")
    code, said = ends(error, capsys)
    assert code == 2 and said.count("\n") == 1
    assert f"exp/train.log ({os.strerror(number)}): {remedy}" in said


def test_a_path_of_5000_characters_is_not_repeated():
    with pytest.raises(OSError, match="too long") as caught:
        open("x/" * 2500)  # noqa: SIM115
    said = str(UserError(explain(caught.value)))
    assert "choose a shorter name" in said and len(said) < 300


def test_a_message_is_one_line_that_a_terminal_shows_as_it_is():
    said = str(UserError("no \x1b[31mred\x07\ufeff" + "\n\n caf\xe9: " + "x" * 5000))
    assert said.startswith("no \\x1b[31mred\\x07\\ufeff caf\xe9: xxx")
    assert len(said) < 300 and said.endswith("x...")


@pytest.mark.parametrize(
    "error",
    [
        UserError("no data: name a folder"),
        AudioError("recording a.wav", "cut off", "is cut off", "copy it again"),
        TextError("control character", "line 3 has U+0007", "save it in UTF-8"),
    ],
)
def test_errors_cross_processes_as_they_are(error):
    found = pickle.loads(pickle.dumps(error))
    assert (type(found), str(found)) == (type(error), str(error))
    assert vars(found) == vars(error)


def test_an_error_that_a_process_sent_as_a_traceback_is_its_message(capsys):
    text = (
        "Caught AudioError in DataLoader worker process 0.\nOriginal Traceback (most "
        "recent call last):\n  File ...\nespnet_prune.speech.audio.AudioError: "
        "recording a.wav is missing: name a recording\n"
    )
    for error in (RuntimeError(text), UserError(text)):
        code, said = ends(error, capsys)
        assert code == 2
        assert said == (
            "espnet_prune: error: recording a.wav is missing: name a recording\n"
        )


@pytest.mark.parametrize("error", [RuntimeError("bug"), OSError("no number")])
def test_other_errors_keep_their_traceback(error):
    def main():
        raise error

    with pytest.raises(type(error)):
        run(main)


def test_an_interruption_is_one_line_even_if_a_library_hides_it(capsys):
    def main():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)
        except KeyboardInterrupt:
            raise ImportError("cannot import half a module") from None

    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(SystemExit) as caught:
            run(main)
    finally:
        signal.signal(signal.SIGINT, before)
    assert caught.value.code == 130
    assert capsys.readouterr().err == "espnet_prune: interrupted\n"


def test_a_reader_that_ends_is_no_error():
    """As in `espnet-prune report ... | head -1`."""
    code = (
        "from espnet_prune.errors import run\n"
        "run(lambda: [print('x' * 999, flush=True) for _ in range(999)])"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    child.stdout.readline()
    child.stdout.close()
    assert child.stderr.read() == b""
    assert child.wait() == 141
