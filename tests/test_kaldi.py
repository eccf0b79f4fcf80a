"""data/kaldi.py: folders as people have them, and as ESPnet's scripts want them."""

import os

import pytest

from espnet_prune.data.kaldi import Finding, read_columns, write_folder, write_table
from espnet_prune.errors import UserError
from espnet_prune.files import LONGEST_NAME


def test_lines_in_any_order_with_what_editors_leave(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(
        b"\xef\xbb\xbfb  Hello there \r\n\r\n  \na\ttwo\xe2\x80\xa8lines\nc\nd end"
    )
    assert read_columns(path) == {
        "b": "Hello there",
        "a": "two\u2028lines",
        "c": "",
        "d": "end",
    }


FAULTS = {
    "duplicate id": b"a one\na two\n",
    "not UTF-8": b"a one\nb \xff\n",
    "id with a null character": b"a one\nb\0c two\n",
    f"id of more than {LONGEST_NAME} bytes": b"a one\n" + 300 * b"b" + b" two\n",
}


@pytest.mark.parametrize("reason", FAULTS)
def test_a_line_that_cannot_be_used_is_named(tmp_path, reason):
    path = tmp_path / "text"
    path.write_bytes(FAULTS[reason])
    with pytest.raises(
        UserError, match=rf"text, line 2 \({reason}: .*write lines of `ID"
    ):
        read_columns(path)
    faults: list[Finding] = []
    assert read_columns(path, faults) == {"a": "one"}
    assert [(fault.reason, fault.detail) for fault in faults] == [
        (reason, f"line 2 of {path}")
    ]


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_file_is_refused(tmp_path, content):
    (tmp_path / "text").write_bytes(content)
    with pytest.raises(UserError, match="text is empty"):
        read_columns(tmp_path / "text")


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is no none: run the stage"):
        read_columns(tmp_path / "none")
    with pytest.raises(UserError, match="cannot read .*Is a directory"):
        read_columns(tmp_path)


def row(utterance, speaker, **files):
    return {"utterance": utterance, "utt2spk": speaker, "text": "so", **files}


def test_a_folder_is_sorted_as_the_c_locale_sorts(tmp_path):
    names = ("b-é", "a-2", "a-10", "a-B", "a-a", "é-1")
    write_folder(tmp_path, [row(name, name[0]) for name in names])
    lines = (tmp_path / "text").read_bytes().splitlines()
    assert lines == sorted(lines) and len(lines) == 6
    assert (tmp_path / "spk2utt").read_text("utf-8").splitlines() == [
        "a a-10 a-2 a-B a-a",
        "b b-é",
        "é é-1",
    ]


def test_files_of_the_set_before_do_not_stay(tmp_path):
    folder = tmp_path / "train"
    write_folder(folder, [row("a-1", "a", token_ends="0.1 0.2", **{"gt_wav.scp": "x"})])
    (folder / "about.txt").touch()  # not ours
    rows = [row("a-1", "a"), row("a-2", "a", **{"gt_wav.scp": "x y.wav"})]
    write_folder(folder, rows)
    assert sorted(os.listdir(folder)) == [
        *("about.txt", "gt_wav.scp", "spk2utt", "text", "utt2spk")
    ]
    assert read_columns(folder / "gt_wav.scp") == {"a-2": "x y.wav"}
    write_folder(folder, [])
    assert not folder.exists()


@pytest.mark.parametrize(
    "name, value, fault",
    [
        ("a b", "text", "id with a space"),
        ("", "text", "id with a space"),
        ("a", "two\nlines", "value with a line break"),
        ("a", "two\rlines", "value with a line break"),
        ("a\0", "text", "null character"),
        ("a", "\udcff.wav", "not UTF-8"),
        ("a" * 201, "text", "more than 200 bytes"),
    ],
)
def test_what_would_be_read_otherwise_is_not_written(tmp_path, name, value, fault):
    with pytest.raises(UserError, match=f"{fault}.*: rename it"):
        write_table(tmp_path / "text", {"0": "good", name: value})
    assert not os.listdir(tmp_path)
