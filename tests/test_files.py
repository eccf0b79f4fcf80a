"""files.py: whole files whoever writes them, locked folders, results that are kept."""

import multiprocessing
import os
import signal
import socket
import time

import pytest

from espnet_prune import files
from espnet_prune.errors import UserError
from espnet_prune.files import (
    Journal,
    can_name_a_file,
    lock_folder,
    replace_when_written,
    write_text,
)

FORK = multiprocessing.get_context("fork")


def in_processes(number, function, *arguments):
    workers = [
        FORK.Process(target=function, args=(n, *arguments)) for n in range(number)
    ]
    for worker in workers:
        worker.start()
    return workers


# ------------------------------------------------------------------- whole or absent


def write_slowly(letter, path, end):
    while not end.is_set():
        with replace_when_written(path) as partial, partial.open("w") as file:
            for _ in range(20):
                file.write("abcd"[letter] * 1000)
                file.flush()
                time.sleep(0.0005)


def test_a_text_in_another_encoding_is_refused(tmp_path):
    path = tmp_path / "card.md"
    with pytest.raises(UserError, match=r"contain 'corpus gr\\udcfc.*not UTF-8"):
        write_text(path, "corpus gr\udcfc\udcdfe")
    assert not list(tmp_path.iterdir())


def test_of_several_writers_the_content_is_always_that_of_one(tmp_path):
    path, end = tmp_path / "result", FORK.Event()
    workers = in_processes(4, write_slowly, path, end)
    seen = set()
    try:
        while len(seen) < 4:
            assert all(worker.is_alive() for worker in workers)
            if path.exists():
                content = path.read_text()
                assert content == content[:1] * 20_000
                seen.add(content[0])
    finally:
        end.set()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
    assert os.listdir(tmp_path) == ["result"]


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    write_text(tmp_path / "result", "old")
    with pytest.raises(RuntimeError), replace_when_written(tmp_path / "result") as new:
        new.write_text("half of")
        raise RuntimeError
    assert (tmp_path / "result").read_text() == "old"
    assert os.listdir(tmp_path) == ["result"]


def test_what_killed_writers_left_is_removed_in_time(tmp_path):
    for name, age in (
        (".a.0.partial", 2 * files.ABANDONED_SECONDS),
        (".b.1.partial", 9),
    ):
        (tmp_path / name).touch()
        then = time.time() - age
        os.utime(tmp_path / name, (then, then))
    write_text(tmp_path / "c", "new")
    assert sorted(os.listdir(tmp_path)) == [".b.1.partial", "c"]


def test_files_are_as_readable_as_any_other(tmp_path):
    write_text(tmp_path / "one", "")
    (tmp_path / "other").touch()
    assert (tmp_path / "one").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_names_of_the_greatest_length(tmp_path):
    write_text(tmp_path / ("é" * 127), "text")
    with pytest.raises(UserError, match="cannot write .*: free disk space, or choose"):
        write_text(tmp_path / ("e" * 300), "text")
    assert os.listdir(tmp_path) == ["é" * 127]


def test_a_full_disk_is_one_line(tmp_path):
    with pytest.raises(UserError, match="cannot write .*No space left"):
        with replace_when_written(tmp_path / "result") as partial:
            partial.write_text("half of")
            with open("/dev/full", "w") as full:
                full.write("it")
    assert not os.listdir(tmp_path)


def test_a_folder_that_is_missing_is_made(tmp_path):
    write_text(tmp_path / "new" / "folder" / "result", "text")
    assert (tmp_path / "new" / "folder" / "result").read_text() == "text"


def test_a_file_in_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write .*Not a directory"):
        write_text(tmp_path / "file" / "folder" / "result", "text")


@pytest.mark.parametrize(
    "name, wanted",
    [
        ("p225_001", True),
        ("é" * 100, True),
        ("é" * 101, False),
        ("a/b", False),
        ("a\0b", False),
        (".hidden", False),
        ("", False),
    ],
)
def test_names_that_a_file_can_have(name, wanted):
    assert can_name_a_file(name) == wanted


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_device_or_folder_is_never_replaced(tmp_path, make):
    """As root, somebody would replace /dev/null."""
    path = tmp_path / "null"
    make(path)
    with pytest.raises(UserError, match="null is not a file: name another"):
        write_text(path, "x")
    assert not path.is_file() and list(tmp_path.iterdir()) == [path]


# ----------------------------------------------------------------------------- locks


def hold(_, folder, held, end):
    with lock_folder(folder, "training"):
        held.set()
        end.wait()


def test_a_folder_in_use_names_its_owner_and_the_remedy(tmp_path):
    held, end = FORK.Event(), FORK.Event()
    folder = tmp_path / "exp" / "tts_a"
    (worker,) = in_processes(1, hold, folder, held, end)
    assert held.wait(60)
    owner = rf"training \(process {worker.pid} on {socket.gethostname()}, since .*\)"
    with pytest.raises(UserError, match=f"tts_a is in use by {owner}: wait") as caught:
        with lock_folder(folder, "training"):
            pass
    assert "end it, or choose another folder" in str(caught.value)
    end.set()
    worker.join()
    with lock_folder(folder, "training"):
        pass


def test_the_lock_of_a_process_that_was_killed_is_free(tmp_path):
    held, end = FORK.Event(), FORK.Event()
    (worker,) = in_processes(1, hold, tmp_path, held, end)
    assert held.wait(60)
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    with lock_folder(tmp_path, "training"):
        pass


def test_a_lock_is_free_after_an_error(tmp_path):
    for _ in range(2):
        with pytest.raises(RuntimeError), lock_folder(tmp_path, "training"):
            raise RuntimeError


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write to the folder .*file/exp"):
        with lock_folder(tmp_path / "file" / "exp", "training"):
            pass


# --------------------------------------------------------------------------- journals


def test_a_journal_goes_on_where_it_was_cut_off(tmp_path):
    path = tmp_path / "new" / "journal"
    with Journal(path, "corpus 1") as journal:
        for number in range(3):
            journal.add(f"u{number}", [number, "two\u2028lines"])
    path.write_bytes(path.read_bytes()[:-9])
    with Journal(path, "corpus 1") as journal:
        assert journal.known == {f"u{n}": [n, "two\u2028lines"] for n in range(2)}
        journal.add("u2", "again")
    assert Journal(path, "corpus 1").known["u2"] == "again"
    assert Journal(path, "corpus 2").known == {}


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[1]\n2\n", b"null\n{}\n"])
def test_what_is_no_journal_is_replaced(tmp_path, content):
    (tmp_path / "journal").write_bytes(content)
    with Journal(tmp_path / "journal") as journal:
        assert journal.known == {}
        journal.add("u", 1)
    assert Journal(tmp_path / "journal").known == {"u": 1}


def test_a_folder_that_cannot_be_locked_is_not_left_behind(tmp_path, monkeypatch):
    def full(path, text):
        raise UserError(f"cannot write {path} (No space left on device): free it")

    monkeypatch.setattr(files, "write_text", full)
    with pytest.raises(UserError, match="No space left"):
        with lock_folder(tmp_path / "out", "report"):
            pass
    assert not list(tmp_path.iterdir())
