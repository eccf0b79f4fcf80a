"""egs2/custom/tts1: a folder of speech as it comes, checked and divided."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from recipe_scripts import load_script
from recipe_scripts import read_folder as read

from espnet_prune import UserError
from espnet_prune.data import checks
from espnet_prune.data.testset import write_like

RECIPE = Path(__file__).resolve().parents[1] / "egs2" / "custom" / "tts1"
SETS = ("train", "dev", "test_unseen", "test_seen", "real_unseen", "real_seen")
FS = 8000


@pytest.fixture(scope="module")
def prepare_module():
    return load_script(RECIPE / "local" / "prepare.py", "custom_prepare")


@pytest.fixture
def prepare(prepare_module, tmp_path, capsys):
    """Run the preparation; return what it printed and wrote."""

    def run(train_data, *options, data_dir=tmp_path / "data"):
        prepare_module.main(
            [
                *("--train_data", str(train_data), "--data_dir", str(data_dir)),
                *("--exp_dir", str(tmp_path / "exp"), "--token_type", "char"),
                *("--fs", str(FS)),  # files are used as they are
                *map(str, options),
            ]
        )
        return capsys.readouterr().out

    return run


def speech(seed, seconds=2.5, level=0.2):
    """Make noise that stands for speech, each seed another."""
    rng = np.random.default_rng(seed)
    return rng.uniform(-level, level, int(seconds * FS))


def write(path, samples, text=None, rate=FS, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, **options)
    if text is not None:
        path.with_suffix(".txt").write_text(text, encoding="utf-8")


def make_tree(folder, speakers=6, each=4, first=0):
    """Make SPEAKER/NAME.wav and .txt; speakers are called s00, s01, ..."""
    for s in range(first, first + speakers):
        for n in range(each):
            write(
                folder / f"s{s:02d}" / f"take{n}.wav",
                speech(100 * s + n, 2.0 + 0.5 * n),
                f"speaker {chr(97 + s % 26)} reads part {chr(97 + n)} of it",
            )
    return folder


@pytest.fixture
def tree(tmp_path):
    return make_tree(tmp_path / "corpus")


def read_findings(data_dir, name="left_out"):
    """Read a table of findings: {utterance: (corpus, reason, detail)}."""
    lines = (data_dir / f"{name}.tsv").read_text().splitlines()
    assert lines[0] == "corpus\tutterance\treason\tdetail"
    rows = [line.split("\t") for line in lines[1:]]
    return {name: (corpus, reason, detail) for corpus, name, reason, detail in rows}


# ------------------------------------------------------------------ what is written


def test_every_recording_has_one_use_and_no_speaker_leaks(prepare, tree, tmp_path):
    prepare(tree)
    sets = {name: read(tmp_path / "data" / name) for name in SETS}
    train, dev = sets["train"], sets["dev"]
    unseen = set(sets["test_unseen"]["utt2spk"].values())
    assert len(unseen) == 2
    known = set(train["utt2spk"].values())
    assert known == {f"s{s:02d}" for s in range(6)} - unseen
    assert set(dev["utt2spk"].values()) <= known
    assert set(sets["test_seen"]["utt2spk"].values()) <= known
    # 4 speakers x 4 recordings, each in train or dev
    trained = set(train["wav.scp"].values()) | set(dev["wav.scp"].values())
    assert len(trained) == 16 and not train["text"].keys() & dev["text"].keys()
    for name in ("test_unseen", "real_unseen"):
        for file in ("wav.scp", "gt_wav.scp"):
            assert not trained & set(sets[name].get(file, {}).values())
    for name in SETS:
        keys = [set(table) for file, table in sets[name].items() if file != "spk2utt"]
        assert all(key == keys[0] for key in keys)


def test_zero_shot_sets_say_new_sentences_with_one_reference_a_speaker(
    prepare, tree, tmp_path
):
    prepare(tree, "--num_texts", 3)
    texts = {p.read_text() for p in tree.rglob("*.txt")}
    for name in ("test_unseen", "test_seen"):
        test = read(tmp_path / "data" / name)
        speakers = set(test["utt2spk"].values())
        assert set(test["text"]) == {
            f"{speaker}-sent{n:03d}" for speaker in speakers for n in (1, 2, 3)
        }
        assert len(set(test["text"].values())) == 3
        assert not texts & set(test["text"].values())
        for speaker in speakers:
            references = {
                path
                for utterance, path in test["wav.scp"].items()
                if test["utt2spk"][utterance] == speaker
            }
            (reference,) = references
            assert Path(reference).parent.name == speaker
            assert soundfile.info(reference).duration >= 2.0


@pytest.mark.parametrize("fs", ["16000", "22050"])  # of the corpus, and another
def test_real_sets_pair_recordings_with_another_one_as_reference(
    prepare, tree, tmp_path, fs
):
    prepare(tree, "--fs", fs)
    for name, said in (("real_unseen", 6), ("real_seen", 6)):
        real = read(tmp_path / "data" / name)
        test = read(tmp_path / "data" / name.replace("real", "test"))
        assert len(real["text"]) == said  # 2 speakers x (4 - the reference)
        for utterance, target in real["gt_wav.scp"].items():
            reference = real["wav.scp"][utterance]
            speaker, own = utterance.split("-")
            for path in (target, reference):
                # SPEAKER/NAME.wav, or the copy SPEAKER-NAME.flac at the model's rate
                assert speaker in path and soundfile.info(path).samplerate == int(fs)
            assert Path(target).stem.endswith(own)
            assert not Path(reference).stem.endswith(own)
            text = (tree / speaker / own).with_suffix(".txt").read_text()
            assert text == real["text"][utterance]
            assert reference in test["wav.scp"].values()


def test_references_are_of_a_good_length_where_there_is_one(prepare, tmp_path):
    tree = make_tree(tmp_path / "corpus", each=3)
    for s in range(6):
        write(tree / f"s{s:02d}" / "long.wav", speech(s + 7000, 5), "of good length")
        write(tree / f"s{s:02d}" / "short.wav", speech(s + 8000, 1), "brief")
    prepare(tree)
    test = read(tmp_path / "data" / "test_unseen")
    assert {Path(path).stem for path in test["wav.scp"].values()} == {"long"}


def test_dev_takes_no_speaker_s_last_recording(prepare, tmp_path):
    tree = make_tree(tmp_path / "corpus", speakers=14, each=1)
    write(tree / "s20" / "one.wav", speech(1), "the first of two")
    write(tree / "s20" / "two.wav", speech(2), "the second of two")
    prepare(make_tree(tree, speakers=2, each=2, first=30))
    train, dev = (read(tmp_path / "data" / name) for name in ("train", "dev"))
    assert set(dev["utt2spk"].values()) <= set(train["utt2spk"].values())


def test_the_same_again_in_one_process_or_two(prepare, tree, tmp_path):
    def contents(*options):
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        prepare(tree, *options)
        files = sorted(p for p in (tmp_path / "data").rglob("*") if p.is_file())
        return {p: p.read_bytes() for p in files}

    first = contents()
    assert contents() == first
    assert contents("--nj", 2) == first
    assert contents("--split_seed", 1) != first


def test_evaluation_speakers_that_are_given(prepare, tree, tmp_path):
    given = make_tree(tmp_path / "strangers", speakers=3, first=50)
    for path in given.rglob("*.txt"):
        path.unlink()  # references need no text
    out = prepare(tree, "--eval_data", given, "--eval_speakers", 2, "--num_texts", 4)
    test = read(tmp_path / "data" / "test_unseen")
    assert len(set(test["utt2spk"].values())) == 2 and len(test["text"]) == 8
    assert all(str(given) in path for path in test["wav.scp"].values())
    train, dev = (read(tmp_path / "data" / name) for name in ("train", "dev"))
    assert len(train["text"]) + len(dev["text"]) == 24  # nobody is held out
    assert not (tmp_path / "data" / "real_unseen").exists()
    assert re.search(r"--eval_data .*strangers\n  usable +12 recordings, 3 spea", out)


def test_no_seen_speakers_if_none_are_wanted(prepare, tree, tmp_path):
    prepare(tree)
    prepare(tree, "--seen_speakers", 0)
    assert not (tmp_path / "data" / "test_seen").exists()
    assert (tmp_path / "data" / "test_unseen").exists()


def test_sorted_as_kaldi_wants_it_whatever_the_names(prepare, tmp_path):
    tree = tmp_path / "corpus"
    names = ("a", "a-b", "a.c", "a b c", "A", "ab", "9", "é")
    for s, speaker in enumerate(names):
        for n, name in enumerate(("x y", "-1", "é", f"{speaker}-part")):
            write(tree / speaker / f"{name}.wav", speech(10 * s + n), "some words")
    prepare(tree)
    for folder in (tmp_path / "data" / name for name in SETS):
        pairs = [
            line.split(" ") for line in (folder / "utt2spk").read_text().splitlines()
        ]
        for utterance, speaker in pairs:
            assert utterance.startswith(f"{speaker}-")
        # as `sort` and `sort -k2` in the C locale, which utils/fix_data_dir.sh compares
        encoded = [f"{u} {s}".encode() for u, s in pairs]
        assert encoded == sorted(encoded)
        by_speaker = sorted(pairs, key=lambda p: (p[1].encode(), p[0].encode()))
        assert pairs == by_speaker
    train = read(tmp_path / "data" / "train")
    for utterance, path in train["wav.scp"].items():
        assert Path(path).is_file(), utterance  # spaces of file names are kept


def test_channels_are_mixed_to_one(prepare, tree, tmp_path):
    stereo = np.stack([speech(900, 3), speech(901, 3)], axis=1)
    for s in range(6):
        samples = np.roll(stereo, s, axis=0)
        write(tree / f"s{s:02d}" / "two.flac", samples, "both ears", 16000)
    out = prepare(tree)
    assert "1 (24), 2 (6)" in out and "8000 Hz (24), 16000 Hz (6)" in out
    paths = set()
    for name in SETS:
        tables = read(tmp_path / "data" / name)
        paths |= set(tables["wav.scp"].values())
        paths |= set(tables.get("gt_wav.scp", {}).values())
    assert {soundfile.info(path).channels for path in paths} == {1}
    (mixed,) = (path for path in paths if path.endswith("audio/s00-two.flac"))
    samples, rate = soundfile.read(mixed)
    assert rate == FS
    expected = soxr.resample(stereo.mean(axis=1), 16000, FS)
    np.testing.assert_allclose(samples, expected, atol=1e-4)


def test_what_others_would_clip_or_take_for_empty_is_copied(prepare, tree, tmp_path):
    """Floats above full scale, and a program's pipe, whose header has the size 0."""
    loud = speech(900, 3, level=2.5)
    piped = tree / "s00" / "piped.wav"
    for s in range(6):
        write(
            tree / f"s{s:02d}" / "loud.wav", np.roll(loud, s), "loud", subtype="FLOAT"
        )
    write(piped, speech(901, 3), "piped")
    content = bytearray(piped.read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = bytes(4)
    piped.write_bytes(content)
    out = prepare(tree)
    assert "6  above full scale" in out and "usable           31 recordings" in out
    found = {}
    for name in ("train", "dev", "real_unseen"):
        tables = read(tmp_path / "data" / name)
        found |= tables.get("gt_wav.scp", tables["wav.scp"])
    for path in found.values():
        samples, rate = soundfile.read(path.strip())
        assert len(samples) and rate == FS
        if "loud" in path:
            assert path.strip().endswith("-loud.flac")
            assert 0.99 < np.abs(samples).max() <= 1
            assert (np.abs(samples) > 0.99).mean() < 0.02  # quieter, not clipped


def test_what_cannot_be_an_id_is_left_out_and_listed(prepare, tree, tmp_path):
    write(tree / "s01" / f"{'long ' * 45}.wav", speech(901), "a long name")
    write(tree / "s02" / "two\nlines.wav", speech(902), "an odd name")
    (tree / "s03" / "._take0.wav").write_bytes(b"\0\5\x16\7" + bytes(99))
    (tree / "s03" / "._take0.txt").write_bytes(b"\0\5\x16\7\xff")
    prepare(tree)
    found = read_findings(tmp_path / "data").values()
    assert [reason for _, reason, _ in found] == 2 * ["name that cannot be used"]


# ---------------------------------------------------------------------- two layouts


def make_kaldi(folder, tree, path_of):
    """Describe a tree as a Kaldi folder; ``path_of`` writes the paths."""
    folder.mkdir(parents=True)
    recordings = sorted(tree.rglob("*.wav"))
    rows = {f"{p.parent.name}-{p.stem}": p for p in recordings}
    for file, value in (
        ("wav.scp", path_of),
        ("utt2spk", lambda path: path.parent.name),
        ("text", lambda path: path.with_suffix(".txt").read_text()),
    ):
        lines = [f"{name} {value(path)}\n" for name, path in rows.items()]
        (folder / file).write_text("".join(lines))
    return folder


@pytest.mark.parametrize("relative_to", ["nothing", "folder", "parent", "caller"])
def test_kaldi_folder_is_the_same_as_the_tree(
    prepare, tree, tmp_path, monkeypatch, relative_to
):
    def path_of(path):
        if relative_to == "nothing":
            return path
        base = {
            "folder": tmp_path / "lists" / "all",
            "parent": tmp_path / "lists",
            "caller": caller,
        }[relative_to]
        return os.path.relpath(path, base)

    caller = tmp_path / "deep" / "est"
    caller.mkdir(parents=True)
    folder = make_kaldi(tmp_path / "lists" / "all", tree, path_of)
    monkeypatch.chdir(tmp_path)  # no base by accident
    prepare(folder, "--base_dir", caller)
    from_lists = {name: read(tmp_path / "data" / name) for name in SETS}
    prepare(tree)
    assert {name: read(tmp_path / "data" / name) for name in SETS} == from_lists


def test_folders_of_a_speaker_are_part_of_the_name(prepare, tmp_path):
    tree = make_tree(tmp_path / "corpus")
    for seed, speaker in enumerate(sorted(tree.iterdir()), 5000):
        write(speaker / "day 1" / "take0.wav", speech(seed), "another take")
    write(tree / "stray.wav", speech(6), "of nobody")
    (tree / "s01" / "round").symlink_to(tree / "s01")  # must not be walked for ever
    prepare(tree)
    texts = texts_of(tmp_path / "data")
    trained = {name.split("-")[0] for name in texts}
    assert len(trained) == 4
    for speaker in trained:
        assert texts[f"{speaker}-day_1-take0"] == "another take"
        assert f"{speaker}-take0" in texts
    assert read_findings(tmp_path / "data")["stray"][1] == (
        "not in the folder of a speaker"
    )


# --------------------------------------------------------------------------- faults


def missing(path):
    path.unlink()
    path.symlink_to("nowhere.wav")


def no_audio(path):
    path.write_text("this is not a recording")


def cut_off(path):
    flac = path.with_suffix(".flac")
    soundfile.write(flac, speech(4000, 4), FS)
    content = flac.read_bytes()
    flac.write_bytes(content[: len(content) // 2])
    path.unlink()


def with_samples(samples, **options):
    return lambda path: soundfile.write(path, samples, FS, **options)


def with_text(text):
    return lambda path: path.with_suffix(".txt").write_text(text)


FAULTS = {
    "missing file": missing,
    "unreadable audio": no_audio,
    "unreadable audio ": cut_off,
    "cut off": lambda path: path.write_bytes(path.read_bytes()[: FS * 4]),
    "no samples": with_samples(np.zeros(0)),
    "too short": with_samples(speech(1, 0.3)),
    "too long": with_samples(speech(1, 20.5)),
    "samples that are not finite": with_samples(
        np.where(np.arange(9000) == 7, np.nan, 0.1), subtype="FLOAT"
    ),
    "samples far above full scale": with_samples(
        3000 * speech(1), format="WAV", subtype="FLOAT"
    ),
    "silent": with_samples(speech(1, level=1e-3)),
    "clipped": with_samples(np.clip(8 * speech(1), -0.9, 0.9)),
    "same recording twice": lambda path: shutil.copy(path.with_name("take0.wav"), path),
    "no text": lambda path: path.with_suffix(".txt").unlink(),
    "empty text": with_text(" \n"),
    "text without tokens": with_text("... - !"),
    "text cannot be read": lambda path: path.with_suffix(".txt").write_bytes(b"\xff"),
    "too short for its text": with_text(300 * "word "),
}


@pytest.mark.parametrize("reason", FAULTS)
def test_a_fault_is_listed_and_left_out_and_the_rest_goes_on(
    prepare, tree, tmp_path, reason
):
    FAULTS[reason](tree / "s01" / "take3.wav")
    reason = reason.strip()
    out = prepare(tree)
    assert re.search(rf"left out +1, listed in .*left_out.tsv\n +1  {reason}\n", out)
    assert "usable           23 recordings, 6 speakers" in out
    ((name, (corpus, found, _)),) = read_findings(tmp_path / "data").items()
    assert corpus == "train_data" and found == reason
    assert "take3" in name
    used = [read(tmp_path / "data" / name) for name in SETS]
    assert not any(
        "s01/take3." in path
        for tables in used
        for file in ("wav.scp", "gt_wav.scp")
        for path in tables.get(file, {}).values()
    )


def test_many_faults_at_once_are_counted_by_reason(prepare, tree, tmp_path):
    for speaker, fault in zip(
        ("s00", "s01", "s02"), (no_audio, missing, no_audio), strict=True
    ):
        fault(tree / speaker / "take0.wav")
    out = prepare(tree, "--nj", 2)
    assert re.search(r"left out +3,.*\n +2  unreadable audio\n +1  missing file", out)
    assert len(read_findings(tmp_path / "data")) == 3


def spoil_line(file, old, new):
    def spoil(folder):
        content = (folder / file).read_bytes()
        assert old in content
        (folder / file).write_bytes(content.replace(old, new, 1))

    return spoil


@pytest.mark.parametrize(
    "spoil, name, reason",
    [
        (spoil_line("utt2spk", b"s02-take1 s02\n", b""), "s02-take1", "no speaker"),
        (spoil_line("text", b"s02-take1 ", b"other "), "s02-take1", "no text"),
        (spoil_line("text", b"s02-take1 ", b"other "), "other", "no recording"),
        (spoil_line("text", b"s02-take1 ", b"s02-take1 \xff"), "s02-take1", "no text"),
        (
            spoil_line("text", b"s02-take1 ", b"s02-take0 again\ns02-take1 "),
            "s02-take0",
            "duplicate id",
        ),
        (
            spoil_line("wav.scp", b"s02-take1 ", b"s02-take0 x.wav\ns02-take1 "),
            "s02-take0",
            "duplicate id",
        ),
    ],
)
def test_faults_of_kaldi_folders(prepare, tree, tmp_path, spoil, name, reason):
    folder = make_kaldi(tmp_path / "lists", tree, str)
    spoil(folder)
    prepare(folder)
    assert read_findings(tmp_path / "data")[name][1] == reason


def test_what_deserves_a_look_is_used_and_listed(prepare, tree, tmp_path):
    loud = speech(1)
    loud[:100] = 0.3
    write(tree / "s01" / "take0.wav", loud)
    write(tree / "s02" / "take0.wav", np.append(speech(2, 1), np.zeros(3 * FS)))
    with_text("much " * 30)(tree / "s03" / "take0.wav")
    out = prepare(tree, "--fs", 22050)
    found = read_findings(tmp_path / "data", "warnings")
    for name, reason in (
        ("s01-take0", "somewhat clipped"),
        ("s02-take0", "mostly silent"),
        ("s03-take0", "text may not fit"),
    ):
        # 8 kHz recordings for a model at 22.05 kHz are another finding of all
        lines = (tmp_path / "data" / "warnings.tsv").read_text().splitlines()
        assert any(f"\t{name}\t{reason}\t" in line for line in lines)
        assert f"1  {reason}" in out
    assert len(found) == 24 and "24  low sampling rate" in out
    assert "usable           24 recordings" in out


# --------------------------------------------------------------------------- refusals


def too_few_speakers(tmp_path):
    return [make_tree(tmp_path / "few", speakers=3)], "too few"


def too_many_wanted(tmp_path):
    tree = make_tree(tmp_path / "corpus")
    return [tree, "--eval_speakers", "7"], "--eval_speakers"


def speakers_of_both(tmp_path):
    tree, given = make_tree(tmp_path / "corpus"), make_tree(tmp_path / "given", 1, 2, 5)
    for number, path in enumerate(sorted(given.rglob("*.wav"))):
        write(path, speech(5000 + number))
    return [tree, "--eval_data", given], "s05"


def known_recordings(tmp_path):
    tree = make_tree(tmp_path / "corpus")
    shutil.copytree(tree / "s01", tmp_path / "given" / "stranger")
    return [tree, "--eval_data", tmp_path / "given"], "evaluation"


def too_little(tmp_path):
    return [make_tree(tmp_path / "corpus", 5, 2)], "only 5 usable recordings"


def no_long_recording(tmp_path):
    tree = make_tree(tmp_path / "corpus")
    for number, path in enumerate(sorted(tree.rglob("*.wav"))):
        write(path, speech(number, 1.5))
    return [tree], "2 s or more"


def no_folder(tmp_path):
    return [tmp_path / "nowhere"], "nowhere"


def no_recordings(tmp_path):
    (tmp_path / "corpus").mkdir()
    return [tmp_path / "corpus"], "SPEAKER/NAME.wav"


def two_names_alike(tmp_path):
    tree = make_tree(tmp_path / "corpus")
    write(tree / "s_1" / "a.wav", speech(1), "one")
    write(tree / "s-1" / "a.wav", speech(2), "two")
    return [tree], "s_1"


def pipes(tmp_path):
    tree = make_tree(tmp_path / "corpus")
    return [make_kaldi(tmp_path / "k", tree, lambda p: f"cat {p} |")], "command"


def segments(tmp_path):
    folder = make_kaldi(tmp_path / "k", make_tree(tmp_path / "corpus"), str)
    (folder / "segments").write_text("")
    return [folder], "segments"


def no_utt2spk(tmp_path):
    folder = make_kaldi(tmp_path / "k", make_tree(tmp_path / "corpus"), str)
    (folder / "utt2spk").unlink()
    return [folder], "utt2spk"


def no_sentences(tmp_path):
    return [make_tree(tmp_path / "corpus"), "--test_texts", "no.txt"], "no.txt"


def few_sentences(tmp_path):
    (tmp_path / "one.txt").write_text("only this sentence\n")
    tree = make_tree(tmp_path / "corpus")
    return [tree, "--test_texts", tmp_path / "one.txt"], "1 of 1 sentences"


def another_language(tmp_path):
    return [make_tree(tmp_path / "corpus"), "--lang", "de"], "--test_texts"


def no_such_g2p(tmp_path):
    tree = make_tree(tmp_path / "corpus")
    return [tree, "--token_type", "phn", "--g2p", "klingon"], "klingon"


@pytest.mark.parametrize(
    "make",
    [
        too_few_speakers,
        too_many_wanted,
        speakers_of_both,
        known_recordings,
        too_little,
        no_long_recording,
        no_folder,
        no_recordings,
        two_names_alike,
        pipes,
        segments,
        no_utt2spk,
        no_sentences,
        few_sentences,
        another_language,
        no_such_g2p,
    ],
)
def test_refusals_say_what_to_do_and_write_no_set(prepare, tmp_path, make):
    arguments, fault = make(tmp_path)
    with pytest.raises(UserError, match=re.escape(fault)):
        prepare(*arguments)
    assert not any((tmp_path / "data" / name).exists() for name in SETS)


def test_a_refusal_is_one_line_and_exit_code_2(tmp_path):
    ended = subprocess.run(
        [sys.executable, str(RECIPE / "local" / "prepare.py"), "--train_data", "no"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=str(RECIPE.parents[2])),
    )
    assert ended.returncode == 2
    assert ended.stderr == (
        "espnet_prune: error: there is no folder no; name the folder of the corpus\n"
    )
    assert not list(tmp_path.iterdir())


def test_models_of_other_data_are_not_trained_on(prepare, tree, tmp_path):
    prepare(tree)
    model = tmp_path / "exp" / "tts_mine"
    model.mkdir(parents=True)
    (model / "checkpoint.pth").touch()
    # another test set does not change the training data
    prepare(tree, "--num_texts", 5)
    before = read(tmp_path / "data" / "train")
    with pytest.raises(UserError, match="tts_mine was trained on other data"):
        prepare(tree, "--split_seed", 1)
    assert read(tmp_path / "data" / "train") == before


# ------------------------------------------------------------------------ sentences


def test_our_sentences():
    lines = (RECIPE / "local" / "sentences.txt").read_text().splitlines()
    assert len(lines) >= 20 and len(set(lines)) == len(lines)
    for line in lines:
        assert 5 <= len(line.split()) <= 15
        assert re.fullmatch(r"[A-Z][A-Za-z,' ]+[.?]", line)


def test_a_recorded_sentence_is_not_asked_for(prepare, tree, tmp_path):
    recorded = "we heard it say: The old dog slept by the warm stove all morning!"
    with_text(recorded)(tree / "s01" / "take1.wav")
    out = prepare(tree, "--num_texts", 2)
    assert "sent001: sentence is in the recordings" in out
    names = read(tmp_path / "data" / "test_unseen")["text"]
    assert {name.split("-")[1] for name in names} == {"sent002", "sent003"}


@pytest.mark.parametrize(
    "recorded, sentence, written",
    [
        ("lower case only", "Well, don't - stop!", "well dont stop"),
        ("it's got one", "Well, don\u2019t stop!", "well don't stop"),
        ("UPPER CASE", "Well, stop.", "WELL STOP"),
        ("Both, and more.", "Well, stop.", "Well, stop."),
        ("one half", "A well-known man", "a well known man"),
    ],
)
def test_sentences_are_written_as_the_recordings_are(recorded, sentence, written):
    assert write_like(sentence, set(recorded), False) == written


def test_phonemes_keep_the_apostrophe_that_they_are_made_from():
    assert write_like("I'll go.", set("abc"), True) == "i'll go"


def test_tokens_that_training_lacks_are_said(prepare, tree, tmp_path):
    (tmp_path / "texts.txt").write_text("a zed is odd\nkept so far\n")
    out = prepare(tree, "--test_texts", tmp_path / "texts.txt", "--num_texts", 0)
    assert "sent001: tokens that training lacks: z\n" in out
    assert "sent002" not in out


def test_phonemes_by_default(prepare, tree):
    out = prepare(tree, "--token_type", "phn")
    assert re.search(r"tokens +\d+ kinds, median \d+ per text, [\d.]+ per second", out)


# --------------------------------------------------------------------------- run.sh


@pytest.fixture
def recipe(tmp_path):
    """A copy of the recipe whose set-up and pipeline only show what they are given."""
    folder = tmp_path / "egs2" / "custom" / "tts1"
    folder.mkdir(parents=True)
    shutil.copy(RECIPE / "run.sh", folder)
    (folder / "conf").symlink_to(RECIPE / "conf")
    template = folder.parents[1] / "TEMPLATE"
    template.symlink_to(RECIPE.parents[1] / "TEMPLATE")
    for path, script in (
        (folder.parents[1] / "setup.sh", "exit 0"),
        (folder / "prune_tts.sh", 'echo "${custom_data_opts}"; printf "%q " "$@"'),
    ):
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(0o755)
    return folder


def run_sh(recipe, *arguments, cwd):
    ended = subprocess.run(
        [str(recipe / "run.sh"), *arguments], capture_output=True, text=True, cwd=cwd
    )
    if ended.returncode:
        return ended
    *data, pipeline = ended.stdout.splitlines()
    return [
        dict(zip(words[::2], words[1::2], strict=True))
        for words in (data, shlex.split(pipeline))
    ]


def test_run_sh_takes_paths_from_where_it_is_called(recipe, tmp_path):
    caller = tmp_path / "some where"
    (caller / "my data").mkdir(parents=True)
    (caller / "mine.yaml").touch()
    data, pipeline = run_sh(
        recipe,
        *("--train_data", "my data", "--eval_data", "/abs", "--test_texts", "t.txt"),
        *("--train_config", "mine.yaml", "--inference_config", "conf/other.yaml"),
        *("--fs", "16000", "--seen_speakers", "0", "--stop_stage", "1"),
        cwd=caller,
    )
    assert data["--train_data"] == f"{caller}/my data"
    assert data["--eval_data"] == "/abs"
    assert data["--test_texts"] == f"{caller}/t.txt"
    assert data["--base_dir"] == str(caller)
    assert data["--fs"] == pipeline["--fs"] == "16000"
    assert pipeline["--train_config"] == f"{caller}/mine.yaml"
    assert pipeline["--inference_config"] == "conf/other.yaml"
    assert pipeline["--test_sets"] == "test_unseen"
    assert pipeline["--stop_stage"] == "1"
    assert "--train_data" not in pipeline


PRESETS = {
    "small": ["conf/train_small.yaml"],
    "full": ["conf/train.yaml", "conf/learned.yaml", "conf/amp.yaml"],
}


@pytest.mark.parametrize("preset, ngpu", [("small", "0"), ("full", "1")])
def test_run_sh_has_two_presets(recipe, tmp_path, preset, ngpu):
    _, pipeline = run_sh(recipe, "--preset", preset, cwd=tmp_path)
    assert pipeline["--ngpu"] == ngpu
    files = [pipeline["--train_config"], *pipeline["--train_overlays"].split()]
    assert files == PRESETS[preset]
    assert all((RECIPE / file).is_file() for file in files)
    assert pipeline["--test_sets"] == "test_unseen test_seen"


@pytest.mark.parametrize(
    "arguments, fault",
    [
        (["data"], "unexpected argument data"),
        (["--train_data"], "has no value"),
        (["--preset", "large"], "choose one of small full"),
        (["--system", "best"], "choose one of baseline dp_r0.40 "),
        (["--durations", "guessed"], "choose one of learned aligned"),
        (["--fs", "24k"], "--fs is '24k': give a whole number"),
        (["--nj", "0"], "--nj is 0: choose 1 or more"),
        (["--num_texts", "-3"], "--num_texts is '-3': give a whole number"),
        (["--max_wav_duration", "nan"], "--max_wav_duration is 'nan': give seconds"),
        (["--train_data", "a\nb"], "has a new line: rename it"),
        (
            ["--durations", "aligned", "--token_type", "char"],
            "choose phn, or --durations learned",
        ),
    ],
)
def test_run_sh_refuses_in_one_line(recipe, tmp_path, arguments, fault):
    ended = run_sh(recipe, *arguments, cwd=tmp_path)
    assert ended.returncode == 2
    assert fault in ended.stderr and ended.stderr.count("\n") == 1


def test_run_sh_takes_no_folder_for_an_empty_name(recipe, tmp_path):
    data, _ = run_sh(recipe, "--train_data", "", cwd=tmp_path)
    assert "--train_data" not in data


def test_run_sh_picks_a_system_and_aligned_durations(recipe, tmp_path):
    _, pipeline = run_sh(
        recipe,
        *("--system", "vp", "--durations", "aligned", "--train_overlays", "mine.yaml"),
        cwd=tmp_path,
    )
    assert pipeline["--train_overlays"].split() == [
        "conf/systems/vp.yaml",
        "conf/aligned.yaml",
        "mine.yaml",
    ]
    assert pipeline["--teacher_dumpdir"] == "dump/durations"
    # statistics of durations that are learned have pitch by frame
    assert pipeline["--tts_stats_dir"] == "exp/tts_stats_aligned"
    _, pipeline = run_sh(recipe, "--seen_speakers", "1", cwd=tmp_path)
    assert "--teacher_dumpdir" not in pipeline
    assert not pipeline["--train_overlays"].split()


def test_run_sh_help_names_every_option_of_data_preparation(prepare_module):
    shown = subprocess.run(
        [str(RECIPE / "run.sh"), "--help"], capture_output=True, text=True, check=True
    ).stdout
    own = vars(prepare_module.get_parser().parse_args([])).keys()
    own -= {"base_dir", "data_dir", "exp_dir"}
    pipeline = (RECIPE / "run.sh").read_text().split("./prune_tts.sh \\")[1]
    for name in own:
        assert f"--{name} " in shown or f"--{name} " in pipeline, name


def test_recordings_at_another_rate_get_one_copy(prepare_module, tmp_path):
    times = np.arange(16000) / 16000
    samples = 0.5 * np.sin(2 * np.pi * 440 * times)
    paths = {rate: tmp_path / f"at_{rate}.wav" for rate in (16000, 22050)}
    for rate, path in paths.items():
        soundfile.write(path, samples, rate)

    def checked(rate):
        one = checks.Utterance(f"at_{rate}", "s", paths[rate], "text")
        return checks.Checked(one, rate=rate)

    other, fitting = checked(16000), checked(22050)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "of_another_corpus.flac").touch()
    copy, same = prepare_module.converted([other, fitting], tmp_path / "a", 1, 22050)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["at_16000.flac"]
    assert same == fitting
    speech, rate = soundfile.read(copy.utterance.path)
    assert rate == 22050 and len(speech) == 22050
    spectrum = np.abs(np.fft.rfft(speech))
    assert spectrum.argmax() == 440  # Hz: one second


@pytest.fixture
def data_sh(tmp_path):
    """Run local/data.sh in a folder where commands only show what they are given."""
    (tmp_path / "local").mkdir()
    (tmp_path / "utils").mkdir()
    (tmp_path / "bin").mkdir()
    shutil.copy(RECIPE / "local" / "data.sh", tmp_path / "local")
    (tmp_path / "path.sh").touch()
    for path in (tmp_path / "bin" / "python3", tmp_path / "utils" / "fix_data_dir.sh"):
        path.write_text('#!/bin/sh\nprintf "%s|" "$(basename "$0")" "$@"; echo\n')
        path.chmod(0o755)

    def run(*arguments, **variables):
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        return subprocess.run(
            ["bash", "local/data.sh", *arguments],
            cwd=tmp_path,
            env=dict(os.environ, PATH=path, **variables),
            capture_output=True,
            text=True,
        )

    return run


def test_data_sh_aligns_if_asked_to(data_sh):
    options = "\n".join(["--g2p", "g", "--cleaner", "none", "--nj", "3"])
    assert data_sh(custom_align_opts=options).stdout.splitlines()[1:] == [
        "python3|-m|espnet_prune|align|train|dev|--g2p|g|--cleaner|none|--nj|3|",
        "fix_data_dir.sh|data/train|",
        "fix_data_dir.sh|data/dev|",
    ]


def test_options_reach_data_sh_as_they_are_and_run_nothing(recipe, data_sh, tmp_path):
    """No part of a name is a command, whatever it looks like."""
    folder = tmp_path / """my 'data' "x\\y" $(touch made); `touch made` *"""
    folder.mkdir()
    ended = subprocess.run(
        [str(recipe / "run.sh"), "--train_data", folder.name],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    options = "\n".join(ended.stdout.splitlines()[:-1])
    shown = data_sh("--nj", "3", custom_data_opts=options).stdout
    assert shown.startswith("python3|local/prepare.py|--data_dir|data|--base_dir|")
    assert f"|--train_data|{folder}|" in shown and shown.endswith("|--nj|3|\n")
    assert not list(tmp_path.rglob("made"))


# ---------------------------------------------------------------------- texts as found


def texts_of(data_dir):
    """Read what is said in the recordings of training and dev."""
    return {
        name: said
        for part in ("train", "dev")
        for name, said in read(data_dir / part)["text"].items()
    }


def test_texts_are_written_in_one_form(prepare, tree, tmp_path):
    odd = "\ufeffcafe\u0301\u00a0so\u2028far\u200b \x0cit\x85goes\r\n"
    for path in tree.rglob("*.txt"):
        path.write_bytes(f"{path.stem} {odd}".encode())
    prepare(tree)
    texts = set(texts_of(tmp_path / "data").values())
    assert texts <= {f"take{n} caf\u00e9 so far it goes" for n in range(4)}
    assert not read_findings(tmp_path / "data")


def test_a_damaged_text_is_named(prepare, tree, tmp_path):
    (tree / "s01" / "take3.txt").write_text("we don\x92t know", encoding="utf-8")
    (tree / "s02" / "take3.txt").write_text("caf\ufffd", encoding="utf-8")
    prepare(tree)
    found = read_findings(tmp_path / "data")
    _, reason, detail = found["s01-take3"]
    assert reason == "control character in the text" and "U+0092" in detail
    assert found["s02-take3"][1] == "lost character in the text"
    assert len(found) == 2


def test_a_corpus_in_capitals_is_read_in_lower_case(prepare, tree, tmp_path):
    for path in tree.rglob("*.txt"):
        path.write_text(f"IT LED US HOME, {path.read_text().upper()}")
    out = prepare(tree, "--token_type", "phn")
    assert "warning: the texts are in capitals" in out
    texts = texts_of(tmp_path / "data")
    texts |= read(tmp_path / "data" / "test_unseen")["text"]
    assert all(text == text.lower() for text in texts.values())
    assert (tmp_path / "data" / "train" / "cleaner").read_text() == "lower_case\n"
    # the next corpus is another one
    for path in tree.rglob("*.txt"):
        path.write_text(f"The USA said IT in {path.stem}")
    assert "the texts are in capitals" not in prepare(tree, "--token_type", "phn")
    texts = texts_of(tmp_path / "data").values()
    assert all("USA said IT" in said for said in texts)
    assert not (tmp_path / "data" / "train" / "cleaner").exists()


def test_letters_of_another_script_are_listed(prepare, tree, tmp_path):
    texts = sorted(tree.rglob("*.txt"))
    for number, path in enumerate(texts):
        russian = "\u043f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440"
        path.write_text("\u4f60\u597d\u4e16\u754c" if number % 2 else russian)
    out = prepare(tree, "--token_type", "phn")
    assert f"{len(texts)}  text of another script" in out
    found = (tmp_path / "data" / "warnings.tsv").read_text()
    assert found.count("CYRILLIC letters") == found.count("CJK letters") == 12


# -------------------------------------------------------- more layouts, and causes


def move_to_metadata(speaker, third=True):
    """Make the folder of a speaker what LJSpeech is."""
    rows = []
    (speaker / "wavs").mkdir()
    for wav in sorted(speaker.glob("*.wav")):
        said = wav.with_suffix(".txt").read_text()
        rows.append(f"{wav.stem}|No. 1|{said}" if third else f"{wav.stem}|{said}")
        wav.with_suffix(".txt").unlink()
        wav.rename(speaker / "wavs" / wav.name)
    (speaker / "metadata.csv").write_text("\n".join(rows) + "\n")


def test_metadata_csv_is_the_same_as_texts(prepare, tree, tmp_path):
    prepare(tree)
    wanted = {name: read(tmp_path / "data" / name)["text"] for name in SETS}
    for number, speaker in enumerate(sorted(tree.iterdir())):
        move_to_metadata(speaker, bool(number % 2))
    prepare(tree)
    assert {name: read(tmp_path / "data" / name)["text"] for name in SETS} == wanted
    assert not read_findings(tmp_path / "data")
    write(tree / "s01" / "wavs" / "extra.wav", speech(99))
    with (tree / "s01" / "metadata.csv").open("a") as table:
        table.write("gone|never recorded\n")
    prepare(tree)
    found = read_findings(tmp_path / "data")
    assert {name: reason for name, (_, reason, _) in found.items()} == {
        "extra": "no text",
        "gone": "no recording",
    }


def test_ljspeech_is_one_speaker(prepare, tmp_path):
    mine = make_tree(tmp_path / "corpus", speakers=1, each=12) / "s00"
    move_to_metadata(mine)
    with pytest.raises(UserError, match=r"metadata.csv names no speakers, .*wanted"):
        prepare(mine)
    prepare(mine, "--eval_data", make_tree(tmp_path / "given", 2, 2, 5))
    assert set(read(tmp_path / "data" / "train")["utt2spk"].values()) == {"s00"}


def test_a_metadata_csv_about_something_else_changes_nothing(prepare, tree, tmp_path):
    (tree / "metadata.csv").write_text("speaker,age\ns00,30\nlicence|CC\n")
    prepare(tree)
    (found,) = read_findings(tmp_path / "data").values()
    assert found[1] == "lists no recording"
    assert len(texts_of(tmp_path / "data")) == 16


def test_normalised_texts_of_libritts(prepare, tree, tmp_path):
    prepare(tree)
    wanted = texts_of(tmp_path / "data")
    for path in sorted(tree.rglob("*.txt")):
        path.with_suffix(".original.txt").write_text("No. 1")
        path.rename(path.with_suffix(".normalized.txt"))
    prepare(tree)
    assert texts_of(tmp_path / "data") == wanted
    assert not read_findings(tmp_path / "data")


def test_every_recording_its_own_speaker_is_said(prepare, tree, tmp_path):
    folder = make_kaldi(tmp_path / "lists", tree, str)
    names = [line.split()[0] for line in (folder / "utt2spk").read_text().splitlines()]
    (folder / "utt2spk").write_text("".join(f"{name} {name}\n" for name in names))
    assert "each recording has its own speaker" in prepare(folder)
    with pytest.raises(UserError, match=r"each of the 24 recordings .* own; .*wanted"):
        prepare(folder, "--eval_speakers", 30)


def test_the_cause_is_named_when_most_was_left_out(prepare, tree):
    for path in list(tree.rglob("*.txt"))[3:]:
        path.unlink()
    with pytest.raises(
        UserError, match=r"21 recordings .* were left out, 21 because of: no text .*few"
    ):
        prepare(tree)
