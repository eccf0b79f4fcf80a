"""egs2/vctk/tts1: who says what, in which voice, from corpora as they are published."""

import hashlib
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from real_speech import (
    an4,
    write_audio,
    write_librispeech,
    write_libritts,
    write_vctk,
)

from espnet_prune.errors import UserError

RECIPE = Path(__file__).resolve().parents[1] / "egs2" / "vctk" / "tts1"
YOURTTS = [
    "p225",
    "p234",
    "p238",
    "p245",
    "p248",
    "p261",
    "p294",
    "p302",
    "p326",
    "p335",
    "p347",
]
ROWS = [
    ("p225", "p225_012", "p225_038", "Yes."),
    ("p234", "p234_012", "p234_038", "Start."),
    ("p300", "p300_012", "p300_038", "Go."),
]


def load(name):
    """Import a script of the recipe, which finds its neighbours beside it."""
    sys.path.insert(0, str(RECIPE / "local"))
    try:
        # other recipes have a prepare.py as well
        sys.modules.pop(name, None)
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(RECIPE / "local"))
        sys.modules.pop(name, None)


prepare_module, make_list = load("prepare"), load("make_list")
sys.modules.pop("corpora", None)


@pytest.fixture
def prepare(tmp_path, capsys):
    """Run the preparation; return what it printed."""

    def run(corpus_dir, *options, data_dir=tmp_path / "data"):
        arguments = ["--corpus_dir", corpus_dir, "--data_dir", data_dir, *options]
        prepare_module.main([str(argument) for argument in arguments])
        return capsys.readouterr().out

    return run


@pytest.fixture(scope="module")
def vctk(tmp_path_factory):
    return write_vctk(tmp_path_factory.mktemp("vctk") / "VCTK-Corpus-0.92")


def write_list(path, rows=ROWS, columns=("speaker", "reference", "target", "text")):
    lines = ["\t".join(columns), *("\t".join(row) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def mine(tmp_path):
    """A user's list of the three speakers."""
    return write_list(tmp_path / "mine.tsv")


def read(folder):
    """Read the files of a Kaldi folder: {file: {utterance: value}}."""
    names = ("text", "wav.scp", "utt2spk", "gt_wav.scp", "spk2utt")
    return {
        name: dict(
            line.split(maxsplit=1) for line in (folder / name).read_text().splitlines()
        )
        for name in names
        if (folder / name).exists()
    }


def findings(path):
    lines = path.read_text().splitlines()
    assert lines[0] == "utterance\treason\tdetail"
    return [line.split("\t") for line in lines[1:]]


# ---------------------------------------------------------------------- the pinned list


def pinned_rows():
    lines = (RECIPE / "local" / "vctk_108.tsv").read_text().splitlines()
    names = lines[0].split("\t")
    return [dict(zip(names, line.split("\t"), strict=True)) for line in lines[1:]]


def test_the_pinned_list_is_zero_shot():
    rows = pinned_rows()
    assert len({row["speaker"] for row in rows}) == len(rows) == 108
    assert not {"p315", "s5"} & {row["speaker"] for row in rows}
    for row in rows:
        said = [row[column] for column in ("reference", "spare", "target")]
        assert len(set(said)) == 3
        assert all(re.fullmatch(rf"{row['speaker']}_\d{{3}}", name) for name in said)
        assert re.fullmatch(r"[A-Z][A-Za-z',.? -]+[.?]", row["text"])
    subset = (RECIPE / "local" / "yourtts_11.txt").read_text().split()
    assert subset == YOURTTS
    assert set(YOURTTS) <= {row["speaker"] for row in rows}


def test_making_the_list_again_gives_the_same_bytes(tmp_path):
    make_list.main(["--output", str(tmp_path / "vctk_108.tsv")])
    for name in ("vctk_108.tsv", "vctk_108.tsv.sha256"):
        again = (tmp_path / name).read_bytes()
        assert again == (RECIPE / "local" / name).read_bytes()
    digest = hashlib.sha256((tmp_path / "vctk_108.tsv").read_bytes()).hexdigest()
    assert (tmp_path / "vctk_108.tsv.sha256").read_text().split()[0] == digest
    make_list.main(["--output", str(tmp_path / "other.tsv"), "--seed", "1"])
    assert (tmp_path / "other.tsv").read_text() != (
        tmp_path / "vctk_108.tsv"
    ).read_text()


def test_all_108_speakers_of_a_whole_corpus(prepare, tmp_path):
    """The tree has every recording of the list, all of them the same real one."""
    root = tmp_path / "VCTK-Corpus-0.92"
    original = tmp_path / "one.flac"
    write_audio(original, an4()["cen8-fbbh-b"].wave, 48000)
    for row in pinned_rows():
        for name in (row["reference"], row["target"]):
            audio = root / "wav48_silence_trimmed" / row["speaker"]
            audio.mkdir(parents=True, exist_ok=True)
            os.link(original, audio / f"{name}_mic1.flac")
        text = root / "txt" / row["speaker"] / f"{row['target']}.txt"
        text.parent.mkdir(parents=True)
        text.write_text(f"{row['text']}\n")
    shown = prepare(tmp_path)  # the folder that it was unpacked in
    sets = read(tmp_path / "data")
    assert len(sets["text"]) == len(sets["wav.scp"]) == len(sets["gt_wav.scp"]) == 108
    assert len(set(sets["utt2spk"].values())) == 108
    assert sets["text"]["p225_038"] == "Diving is no part of football."
    digest = (RECIPE / "local" / "vctk_108.tsv.sha256").read_text()[:16]
    about = (tmp_path / "data" / "about.txt").read_text()
    assert about in shown
    assert about == (
        f"VCTK 0.92, list vctk_108.tsv, sha256 {digest}: 108 utterances, 108 speakers\n"
    )
    assert not findings(tmp_path / "data" / "remarks.tsv")
    prepare(tmp_path, "--num_speakers", 5)
    assert len(read(tmp_path / "data")["text"]) == 5


def test_a_pinned_list_that_was_changed_is_refused(
    prepare, vctk, tmp_path, monkeypatch
):
    for name in ("vctk_108.tsv", "vctk_108.tsv.sha256"):
        shutil.copy(RECIPE / "local" / name, tmp_path)
    pinned = tmp_path / "vctk_108.tsv"
    pinned.write_text(pinned.read_text().replace("football", "rugby"))
    monkeypatch.setattr(prepare_module, "PINNED", pinned)
    with pytest.raises(UserError, match="is not the fixed list any more"):
        prepare(vctk)
    (tmp_path / "vctk_108.tsv.sha256").unlink()
    with pytest.raises(UserError, match="cannot read .*sha256, which comes with"):
        prepare(vctk)
    assert not (tmp_path / "data").exists()


# ------------------------------------------------------------------------ both layouts


@pytest.mark.parametrize("release", ["0.92", "older"])
def test_both_layouts_of_vctk(prepare, mine, tmp_path, release):
    folder = "VCTK-Corpus-0.92" if release == "0.92" else "VCTK-Corpus"
    write_vctk(tmp_path / folder, release)
    shown = prepare(tmp_path, "--list", mine)
    sets = read(tmp_path / "data")
    assert sets["text"] == {target: text for _, _, target, text in ROWS}
    assert sets["utt2spk"] == {target: speaker for speaker, _, target, _ in ROWS}
    assert sets["spk2utt"] == {speaker: target for speaker, _, target, _ in ROWS}
    for target, path in sets["wav.scp"].items():
        assert soundfile.info(path).samplerate == 48000
        assert soundfile.info(path).duration >= 2
        assert re.match(rf"{target[:4]}_012[_.]", Path(path).name)
        assert Path(path).parent == Path(sets["gt_wav.scp"][target]).parent
        assert path != sets["gt_wav.scp"][target]
    assert "left out: p315, there are no texts of this speaker" in shown
    assert ("left out: s5, " in shown) == (release == "0.92")
    left_out = findings(tmp_path / "data" / "left_out.tsv")
    assert [row[0] for row in left_out] == ["p315", "s5"][: 1 + (release == "0.92")]
    lines = (tmp_path / "data" / "text").read_text().splitlines()
    assert lines == sorted(lines)


# ---------------------------------------------------------------- faulty recordings


def test_a_missing_or_short_reference_stops_the_preparation(prepare, vctk, tmp_path):
    rows = [ROWS[0], ("p234", "p234_099", "p234_038", "Start.")]
    rows += [("p300", "p300_038", "p300_012", "Eleven.")]
    path = write_list(tmp_path / "mine.tsv", rows)
    with pytest.raises(UserError, match="2 of 3 utterances have no reference") as error:
        prepare(vctk, "--list", path)
    assert "p234_099_mic1.flac is missing" in str(error.value)
    assert not (tmp_path / "data" / "text").exists()
    left_out = findings(tmp_path / "data" / "left_out.tsv")[2:]
    assert [row[0] for row in left_out] == ["p234_038", "p300_012"]
    assert "lasts 0.7 s, wanted at least 2 s" in left_out[1][2]
    shown = prepare(vctk, "--list", path, "--skip_faulty", "true")
    assert set(read(tmp_path / "data")["text"]) == {"p225_038"}
    assert "2 of the list are left out" in shown


def test_who_is_in_the_list_is_not_called_left_out(prepare, vctk, tmp_path):
    """The texts are the list's: nobody needs those of the corpus."""
    rows = [("p315", "p315_012", "", "I have no texts."), *ROWS]
    shown = prepare(vctk, "--list", write_list(tmp_path / "mine.tsv", rows))
    assert "p315-sent001" in read(tmp_path / "data")["text"]
    assert "left out: p315" not in shown and "left out: s5" in shown
    assert [row[0] for row in findings(tmp_path / "data" / "left_out.tsv")] == ["s5"]


def test_a_spare_reference_takes_the_place_and_is_named(prepare, vctk, tmp_path):
    columns = ("speaker", "reference", "spare", "target", "text")
    rows = [("p225", "p225_007", "p225_012", "p225_038", "Yes.")]
    prepare(vctk, "--list", write_list(tmp_path / "mine.tsv", rows, columns))
    path = read(tmp_path / "data")["wav.scp"]["p225_038"]
    assert path.endswith("p225_012_mic1.flac")
    (remark,) = findings(tmp_path / "data" / "remarks.tsv")
    assert remark[1] == "spare reference"
    assert remark[2].startswith("p225_012, for") and "is missing" in remark[2]


def test_the_target_is_never_its_own_reference(prepare, vctk, tmp_path):
    rows = [("p225", "p225_012", "p225_012", "March."), *ROWS[1:]]
    with pytest.raises(UserError, match="is the target itself"):
        prepare(vctk, "--list", write_list(tmp_path / "mine.tsv", rows))


def test_a_link_to_the_target_is_no_other_recording(prepare, vctk, tmp_path):
    target = next(vctk.rglob("p225_012_mic1.flac"))
    (tmp_path / "link.flac").symlink_to(target)
    rows = [("p225", "link.flac", "p225_012", "March.")]
    with pytest.raises(UserError, match="is the target itself"):
        prepare(vctk, "--list", write_list(tmp_path / "mine.tsv", rows))


def test_texts_of_a_list_have_one_form(prepare, vctk, tmp_path):
    rows = [("p225", "p225_012", "p225_038", "A cafe\u0301\u2028\u200bnow.")]
    prepare(vctk, "--list", write_list(tmp_path / "mine.tsv", rows))
    assert read(tmp_path / "data")["text"] == {"p225_038": "A caf\u00e9 now."}


def test_names_that_no_corpus_has(prepare, vctk, tmp_path):
    write_librispeech(tmp_path / "LibriSpeech")
    libri = ("--corpus", "librispeech")
    for name in ("foo", "1089-1-" + "x" * 300):
        path = write_list(tmp_path / "mine.tsv", [("1089", name, name, "Hi.")])
        for corpus, options in ((vctk, ()), (tmp_path, libri)):
            with pytest.raises(UserError, match="1 of 1 utterances have no reference"):
                prepare(corpus, "--list", path, *options)


def test_names_that_do_not_fit_the_corpus_are_not_drawn(prepare, tmp_path):
    write_librispeech(tmp_path)
    options = ("--corpus", "librispeech", "--texts_per_speaker", 1)
    prepare(tmp_path, *options)
    first = (tmp_path / "data" / "list.tsv").read_text()
    (chapter,) = (tmp_path / "test-other" / "1089").iterdir()
    source = chapter / "1089-134686-0000.flac"
    for name in ("foo.flac", "1089-134686-0000 (1).flac", "1089-134686-\udcff.flac"):
        shutil.copy(source, chapter / name)
    (tmp_path / "test-other" / "\u00b2").mkdir()  # a digit that is no number
    prepare(tmp_path, *options)
    assert (tmp_path / "data" / "list.tsv").read_text() == first


def test_texts_that_cannot_be_read_stop_a_draw(prepare, tmp_path):
    """Otherwise other texts and speakers would be drawn without a word."""
    write_librispeech(tmp_path)
    options = ("--corpus", "librispeech", "--texts_per_speaker", 1)
    texts = next(tmp_path.rglob("1089-*.trans.txt"))
    good = texts.read_bytes()
    for content, fault in (
        (good + b"\xe9\n", "has the byte 0xe9"),
        (good.replace(b" ", b" \a", 1), "control character U.0007"),
    ):
        texts.write_bytes(content)
        with pytest.raises(UserError, match=fault):
            prepare(tmp_path, *options)
        prepare_module.open_corpus.__globals__["_read_transcripts"].cache_clear()
    texts.write_bytes(good)
    manifest = tmp_path / "test-other.json"
    for content, fault in (
        (b"", "is empty"),
        (b"\xe9\n", "has the byte 0xe9"),
        (b"[" * 99999, "line 1 of"),
    ):
        manifest.write_bytes(content)
        with pytest.raises(UserError, match=fault):
            prepare(tmp_path, *options)
    manifest.unlink()
    manifest.symlink_to("missing.json")
    with pytest.raises(UserError, match="cannot read .*test-other.json"):
        prepare(tmp_path, *options)
    assert not (tmp_path / "data").exists()


def test_a_set_that_cannot_be_written_leaves_none(prepare, mine, tmp_path):
    folder = write_vctk(tmp_path / "line\nbreak")
    with pytest.raises(UserError, match="value with a line break"):
        prepare(folder, "--list", mine)
    assert not (tmp_path / "data" / "text").exists()


def test_what_is_worth_a_look(prepare, vctk, tmp_path):
    rows = [("p225", "p225_012", "p225_038", "No."), ROWS[1]]
    rows += [("p300", "p300_012", "p300_039", "Nobody recorded this.")]
    prepare(vctk, "--list", write_list(tmp_path / "mine.tsv", rows))
    remarks = findings(tmp_path / "data" / "remarks.tsv")
    assert [row[:2] for row in remarks] == [
        ["p225_038", "another text in the corpus"],
        ["p300_039", "no recording of the target"],
    ]
    sets = read(tmp_path / "data")
    assert sets["text"]["p225_038"] == "No."  # the list is what is compared
    assert set(sets["gt_wav.scp"]) == {"p225_038", "p234_038"}


# ------------------------------------------------------------- lists and texts of users


def test_recordings_of_a_users_own(prepare, vctk, tmp_path):
    write_audio(tmp_path / "me" / "hello.wav", an4()["cen8-mmxg-b"].wave)
    rows = [("me", "me/hello.wav", "First text"), ("me", "me/hello.wav", "Second")]
    path = write_list(tmp_path / "own.tsv", rows, ("speaker", "reference", "text"))
    prepare(vctk, "--list", path)
    sets = read(tmp_path / "data")
    assert sets["text"] == {"me-sent001": "First text", "me-sent002": "Second"}
    assert set(sets["wav.scp"].values()) == {str(tmp_path / "me" / "hello.wav")}
    assert "gt_wav.scp" not in sets


def test_sentences_of_a_users_own_are_said_by_everybody(prepare, vctk, mine, tmp_path):
    prepare(vctk, "--list", mine)
    (tmp_path / "texts.txt").write_text("Well then.\n\nGood bye\n")
    shown = prepare(vctk, "--list", mine, "--test_texts", tmp_path / "texts.txt")
    sets = read(tmp_path / "data")
    assert sets["text"] == {
        f"{speaker}-sent{number}": text
        for speaker in ("p225", "p234", "p300")
        for number, text in (("001", "Well then."), ("002", "Good bye"))
    }
    assert sets["wav.scp"]["p234-sent002"].endswith("p234_012_mic1.flac")
    assert "gt_wav.scp" not in sets  # that of the run before is gone
    assert "texts of texts.txt" in shown


COLUMNS = "speaker\treference\ttext\n"


@pytest.mark.parametrize(
    "content, fault",
    [
        ("", "lacks speaker"),
        ("speaker\ttext\n", "lacks reference"),
        ("speaker\treference\ttext\tage\n", "has the unknown age"),
        ("speaker\treference\ttext\ttext\n", "has text twice"),
        (COLUMNS, "has no utterance"),
        (f"{COLUMNS}p225\tp225_012\n", "line 2 of .* has 2 of 3 columns and no text"),
        (f"{COLUMNS}p225\tp225_012\t \n", "and no text"),
        (f"{COLUMNS}a/b\tp225_012\tHi.\n", "speaker 'a/b'"),
        (f"{COLUMNS}..\tp225_012\tHi.\n", "speaker '..'"),
        (f"{COLUMNS}p225\tp225_012\tH\ai.\n", "line 2 .* control character U.0007"),
        (f"{COLUMNS}p225\tp225_012\t\u200b\n", "line 2 of .* and no text"),
        (f"{COLUMNS}p225\tp225\0_012\tHi.\n", "line 2 .* control character U.0000"),
        (
            "speaker\treference\ttext\ttarget\n" + 2 * "p225\tp225_012\tHi\tp225_038\n",
            "the target p225_038 twice",
        ),
    ],
)
def test_lists_that_cannot_be_read(prepare, vctk, tmp_path, content, fault):
    (tmp_path / "mine.tsv").write_text(content)
    with pytest.raises(UserError, match=fault):
        prepare(vctk, "--list", tmp_path / "mine.tsv")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "options, fault",
    [
        (["--list", "none.tsv"], "cannot read none.tsv"),
        (["--test_texts", "none.txt"], "cannot read none.txt"),
        (["--num_speakers", "4"], "choose 0 .all. to 3"),
        (["--part", "test"], "VCTK has no parts"),
        (["--texts_per_speaker", "0"], "choose a whole number above 0"),
        (["--corpus", "librispeech"], "has no test-other"),
        (["--corpus", "libritts", "--part", "dev"], "has no dev"),
        (["--corpus_dir", "none"], "no folder none"),
        (["--corpus_dir", "."], "neither wav48_silence_trimmed nor wav48"),
    ],
)
def test_bad_options(prepare, vctk, mine, tmp_path, options, fault, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=fault):
        prepare(vctk, *(["--list", mine] if "--list" not in options else []), *options)
    assert not (tmp_path / "data").exists()


# -------------------------------------------------------------------- the Libri corpora


def test_librispeech_is_drawn_with_a_seed(prepare, tmp_path):
    write_librispeech(tmp_path / "LibriSpeech")
    options = ("--corpus", "librispeech", "--texts_per_speaker", 1)
    shown = prepare(tmp_path, *options)
    assert "LibriSpeech test-other, list drawn with seed 0" in shown
    sets = read(tmp_path / "data")
    words = {recording.words for recording in an4().values()}
    assert len(sets["text"]) == 2 and set(sets["text"].values()) <= words
    for name, speaker in sets["utt2spk"].items():
        assert Path(sets["gt_wav.scp"][name]).stem == name
        assert name.startswith(f"{speaker}-")
        assert soundfile.info(sets["wav.scp"][name]).duration >= 2
        assert sets["wav.scp"][name] != sets["gt_wav.scp"][name]
    first = (tmp_path / "data" / "list.tsv").read_text()
    prepare(tmp_path / "LibriSpeech" / "test-other", *options)
    assert (tmp_path / "data" / "list.tsv").read_text() == first
    drawn = set()
    for seed in range(6):
        prepare(tmp_path, *options, "--seed", seed)
        drawn.add((tmp_path / "data" / "list.tsv").read_text())
    assert len(drawn) > 1
    prepare(tmp_path, *options, "--num_speakers", 1)  # others do not matter
    assert set((tmp_path / "data" / "list.tsv").read_text().splitlines()) <= set(
        first.splitlines()
    )


def test_the_list_of_librispeech_pc_is_cross_sentence():
    path = RECIPE / "local" / "librispeech_pc.tsv"
    wanted = path.with_name(f"{path.name}.sha256").read_text().split()[0]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == wanted
    lines = [line.split("\t") for line in path.read_text().splitlines()]
    assert lines[0] == ["speaker", "reference", "target"]
    rows = lines[1:]
    assert len(rows) == len({target for _, _, target in rows}) == 1127
    for speaker, reference, target in rows:
        assert re.fullmatch(r"\d+-\d+-\d{4}", reference)
        assert reference.split("-")[0] == target.split("-")[0] == speaker
        assert reference != target


@pytest.fixture
def short_list(monkeypatch, tmp_path):
    """The recipe with a list of librispeech_pc that fits the corpus of the tests."""
    local = tmp_path / "local"
    local.mkdir()
    rows = [("1089", "1089-134686-0000", "1089-134686-0001")]
    path = write_list(local / "librispeech_pc.tsv", rows, ROW_OF_IDS)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name(f"{path.name}.sha256").write_text(f"{digest}  {path.name}\n")
    monkeypatch.setattr(prepare_module, "HERE", local)
    return path


ROW_OF_IDS = ("speaker", "reference", "target")
PC = ("--corpus", "librispeech", "--list", "librispeech_pc")


def test_librispeech_pc_takes_its_texts_from_the_corpus(prepare, short_list, tmp_path):
    write_librispeech(tmp_path, "test-clean")
    shown = prepare(tmp_path, *PC)
    assert "LibriSpeech test-clean, list librispeech_pc.tsv" in shown
    found = read(tmp_path / "data")
    (name,) = found["text"]
    assert name == "1089-134686-0001"
    transcripts = tmp_path / "test-clean" / "1089" / "134686"
    spoken = (transcripts / "1089-134686.trans.txt").read_text().splitlines()[1]
    assert found["text"][name] == spoken.split(maxsplit=1)[1].lower()
    assert Path(found["wav.scp"][name]).stem == "1089-134686-0000"
    assert Path(found["gt_wav.scp"][name]).stem == name
    # with the manifest of LibriSpeech-PC beside it, with punctuation
    entry = {"audio_filepath": f"test-clean/1089/134686/{name}.flac", "text": "Go, Al!"}
    (tmp_path / "test-clean.json").write_text(json.dumps(entry) + "\n")
    shown = prepare(tmp_path, *PC)
    assert "with the texts of LibriSpeech-PC" in shown
    assert read(tmp_path / "data")["text"] == {name: "Go, Al!"}


def test_librispeech_pc_needs_its_corpus(prepare, short_list, vctk, tmp_path):
    with pytest.raises(UserError, match="for --corpus librispeech and --part test-cl"):
        prepare(vctk, "--list", "librispeech_pc")
    write_librispeech(tmp_path, "test-clean")
    with pytest.raises(UserError, match="for --corpus librispeech and --part test-cl"):
        prepare(tmp_path, *PC, "--part", "test-other")
    (tmp_path / "test-clean.json").write_text('{"audio": 1}\n')
    with pytest.raises(UserError, match="line 1 of .*test-clean.json"):
        prepare(tmp_path, *PC)
    (tmp_path / "test-clean.json").unlink()
    short_list.write_text(short_list.read_text() + "1\t1-1-1\t1-1-2\n")
    with pytest.raises(UserError, match="is not the fixed list any more"):
        prepare(tmp_path, *PC)


def test_a_target_without_any_text_is_refused(prepare, tmp_path):
    write_librispeech(tmp_path, "test-clean")
    rows = [("1089", "1089-134686-0000", "1089-134686-0077")]
    mine = write_list(tmp_path / "ids.tsv", rows, ROW_OF_IDS)
    with pytest.raises(UserError, match="no text for 1089-134686-0077"):
        options = ("--corpus", "librispeech", "--part", "test-clean", "--list", mine)
        prepare(tmp_path, *options)


def test_files_that_a_mac_leaves_change_no_draw(prepare, tmp_path):
    write_librispeech(tmp_path)
    options = ("--corpus", "librispeech", "--texts_per_speaker", 1)
    prepare(tmp_path, *options)
    first = (tmp_path / "data" / "list.tsv").read_text()
    for path in list(tmp_path.rglob("*.flac")):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7" + bytes(99))
    prepare(tmp_path, *options)
    assert (tmp_path / "data" / "list.tsv").read_text() == first


def test_speakers_with_too_little_are_named(prepare, tmp_path):
    write_librispeech(tmp_path)
    options = ("--corpus", "librispeech", "--texts_per_speaker", 2)
    prepare(tmp_path, *options)  # 367 says one thing that is too short to be asked for
    assert set(read(tmp_path / "data")["utt2spk"].values()) == {"1089"}
    (left_out,) = findings(tmp_path / "data" / "left_out.tsv")
    assert left_out == ["367", "too little to draw from", "3 recordings, 1 targets"]
    with pytest.raises(UserError, match="no speaker of LibriSpeech test-other"):
        prepare(tmp_path, "--corpus", "librispeech", "--texts_per_speaker", 9)


def test_seen_speakers_of_libritts(prepare, tmp_path):
    write_libritts(tmp_path)
    prepare(tmp_path, "--corpus", "libritts", "--texts_per_speaker", 1)
    sets = read(tmp_path / "data")
    assert len(sets["text"]) == 2
    for name, text in sets["text"].items():
        assert re.fullmatch(r"(1089|367)_\d+_\d{6}_000000", name)
        assert text == text.capitalize() and text.endswith(".")
        assert sets["gt_wav.scp"][name].endswith(f"{name}.wav")


# ------------------------------------------------------------------------------- run.sh


@pytest.fixture
def recipe(tmp_path):
    """A copy of the recipe whose set-up does nothing and whose Python shows calls."""
    folder = tmp_path / "egs2" / "vctk" / "tts1"
    (folder / "data" / "vctk").mkdir(parents=True)
    shutil.copytree(RECIPE / "local", folder / "local")
    shutil.copy(RECIPE / "run.sh", folder)
    (folder.parents[1] / "TEMPLATE").symlink_to(RECIPE.parents[1] / "TEMPLATE")
    (folder / "data" / "vctk" / "text").touch()
    (folder / "data" / "vctk" / "utt2spk").write_text("p225_038 p225\n")
    (folder.parents[1] / "setup.sh").write_text("#!/bin/bash\nexit 0\n")
    (folder.parents[1] / "setup.sh").chmod(0o755)
    (folder / "path.sh").write_text('python3() { printf "<%s>" "$@"; echo; }\n')
    return folder


def run_sh(recipe, *arguments, cwd):
    return subprocess.run(
        [str(recipe / "run.sh"), *arguments], capture_output=True, text=True, cwd=cwd
    )


def calls(ended, status=0):
    assert ended.returncode == status, ended.stderr
    return [
        line.strip("<>").split("><")
        for line in ended.stdout.splitlines()
        if line.startswith("<")
    ]


def test_run_sh_hands_on_its_options(recipe, tmp_path):
    caller = tmp_path / "some where"
    (caller / "my corpus").mkdir(parents=True)
    (caller / "tts_a").mkdir()
    (caller / "tts_a" / "config.yaml").touch()
    (caller / "b.zip").touch()
    for name in ("tts_a", "b", "tag", "mine"):
        (recipe / "exp" / "vctk" / name / "wav").mkdir(parents=True)
    ended = run_sh(
        recipe,
        *("--corpus_dir", "my corpus", "--model", "tts_a", "--model", "b.zip"),
        *("--model", "some/tag", "--model", "mine=some/other", "--device", "cuda"),
        *("--metrics", "rtf kept_share", "--nj", "3", "--skip-faulty", "true"),
        cwd=caller,
    )
    # tags are fetched before any model speaks
    tags, data, *said, scored = calls(ended)
    assert tags == ["-", "some/tag", "some/other"]
    assert data[1:7] == [
        *("--corpus", "vctk", "--corpus_dir", f"{caller}/my corpus"),
        *("--data_dir", "data/vctk"),
    ]
    assert data[7:] == ["--skip_faulty", "true"]
    models = [dict(zip(call[3::2], call[4::2], strict=True)) for call in said]
    assert [call["--model"] for call in models] == [
        f"{caller}/tts_a",
        f"{caller}/b.zip",
        "some/tag",
        "some/other",
    ]
    assert [call["-o"] for call in models] == [
        f"exp/vctk/{name}/wav" for name in ("tts_a", "b", "tag", "mine")
    ]
    assert all(call["--device"] == "cuda" for call in models)
    assert "Stage 3: skipped" in ended.stdout  # no gt_wav.scp
    systems = [scored[i + 1] for i, word in enumerate(scored) if word == "--system"]
    assert systems[0] == "tts_a=exp/vctk/tts_a/wav" and len(systems) == 4
    assert scored[scored.index("--metrics") + 1 :][:2] == ["rtf", "kept_share"]
    assert "the 11 of YourTTS and SC-CNN=local/yourtts_11.txt" in scored


def test_run_sh_names_its_folders_by_what_is_evaluated(recipe, tmp_path):
    (tmp_path / "my list.tsv").touch()
    (tmp_path / "texts.txt").touch()
    ended = run_sh(
        recipe,
        *("--corpus_dir", "x", "--list", "my list.tsv", "--test_texts", "texts.txt"),
        *("--corpus", "libritts", "--part", "dev-clean", "--stop_stage", "1"),
        cwd=tmp_path,
    )
    assert ended.returncode == 2  # for nothing was prepared
    assert "data/libritts_dev-clean_my list_texts is missing" in ended.stderr


@pytest.mark.parametrize("value", ["-n", "-e", "-E"])
def test_run_sh_keeps_values_that_look_like_options(recipe, tmp_path, value):
    options = ("--corpus_dir", "x", "--stop_stage", "1", "--list", value)
    (call,) = calls(run_sh(recipe, *options, cwd=tmp_path), status=2)
    assert call[call.index("--list") + 1] == value


def test_run_sh_knows_the_list_of_librispeech_pc(recipe, tmp_path):
    known = ("--corpus_dir", "x", "--list", "librispeech_pc", "--stop_stage", "1")
    ended = run_sh(recipe, *known, cwd=tmp_path)
    assert "data/librispeech_test-clean_pc is missing" in ended.stderr
    (call,) = calls(ended, status=2)
    options = dict(zip(call[1::2], call[2::2], strict=True))
    assert options["--corpus"] == "librispeech" and options["--part"] == "test-clean"
    assert options["--list"] == "librispeech_pc"


@pytest.mark.parametrize(
    "arguments, fault",
    [
        (["data"], "unexpected argument data"),
        (["--model"], "has no value"),
        (["--ngpu", "1"], "unknown option --ngpu"),
        (["--model", "a"], "--corpus_dir is missing"),
        (["--corpus_dir", "x"], "there is no --model"),
        (["--corpus_dir", "x", "--model", "a/b", "--model", "c/b"], "are called b"),
        (["--corpus", "timit"], "--corpus is 'timit': choose one of vctk"),
        (["--skip_faulty", "yes"], "choose one of true false"),
        (["--stage", "two"], "--stage is 'two': give a whole number"),
        (["--stage", "5"], "no stage is from --stage 5 to --stop_stage 4"),
        (["--stage", "3", "--stop_stage", "2"], "no stage is from"),
        (["--batch_size", "0"], "--batch_size is 0: choose 1 or more"),
        (["--seed", "-1"], "--seed is '-1'"),
        (["--corpus_dir", "x", "--model", "-n"], "there is no model -n"),
        (["--metrics", "rtf -h"], "give names of metrics, not options"),
        (["--metrics", "*"], "--metrics is '*': give words"),
        (
            ["--corpus_dir", "x", "--model", "a/b", "--vocoder", "my=voc"],
            "the name 'ground_truth_mel_my=voc' cannot be used",
        ),
    ],
)
def test_run_sh_refuses_in_one_line(recipe, tmp_path, arguments, fault):
    ended = run_sh(recipe, *arguments, cwd=tmp_path)
    assert ended.returncode == 2
    assert fault in ended.stderr and ended.stderr.count("\n") == 1
    assert not calls(ended, 2)


@pytest.mark.parametrize(
    "model, fault",
    [
        ("nowhere", "there is no model nowhere"),
        ("exp/tts_b/nowhere", "there is no model exp/tts_b/nowhere"),
        ("packed/none.zip", "there is no model packed/none.zip"),
        ("empty", "empty has no config.yaml"),
        ("scores=a/b", "the name scores cannot be used"),
        ("ground_truth=a/b", "the name ground_truth cannot be used"),
        (".", "the name . cannot be used"),
        ("a|b=a/b", "the name 'a|b' cannot be used"),
        ("a\nb=a/b", "cannot be used: rename it"),
        (f"{'x' * 101}=a/b", "cannot be used: rename it"),
    ],
)
def test_run_sh_knows_all_models_before_one_speaks(recipe, tmp_path, model, fault):
    (tmp_path / "empty").mkdir()
    models = ("--model", "owner/model", "--model", model)
    ended = run_sh(recipe, "--corpus_dir", "x", *models, cwd=tmp_path)
    assert ended.returncode == 2
    assert fault in ended.stderr and ended.stderr.count("\n") == 1
    assert not calls(ended, 2)


def test_run_sh_knows_the_models_of_the_package(recipe, tmp_path):
    shipped = recipe.parents[2] / "espnet_prune" / "models" / "small"
    shipped.mkdir(parents=True)
    (shipped / "config.yaml").touch()
    stage = ("--stage", "2", "--stop_stage", "2")
    (call,) = calls(run_sh(recipe, "--model", "small", *stage, cwd=tmp_path))
    assert call[call.index("--model") + 1] == "small"


def test_run_sh_help_names_every_option():
    text = (RECIPE / "run.sh").read_text()
    shown = subprocess.run(
        [str(RECIPE / "run.sh"), "--help"], capture_output=True, text=True, check=True
    ).stdout
    options = re.search(r"# Options of.*?\n\n", text, flags=re.DOTALL)[0]
    names = re.findall(r"^(\w+)=", options, flags=re.MULTILINE)
    names[names.index("models")] = "model"
    assert len(names) > 15
    for name in names:
        assert f"--{name} " in shown, name
    own = vars(
        prepare_module.get_parser().parse_args(["--corpus_dir=x", "--data_dir=x"])
    )
    assert own.keys() - {"data_dir"} <= set(names)
