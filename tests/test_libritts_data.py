"""egs2/libritts/tts1: from the corpora as they are published to data/."""

import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from libritts import (
    ESPNET,
    FS,
    READERS,
    an4_recordings,
    copy_recipe,
    environment,
    make_corpus,
    make_labels,
    needs_recordings,
    noise,
    utterances,
)
from recipe_scripts import load_script
from recipe_scripts import read_folder as read
from test_labels import as_textgrid

from espnet_prune import UserError
from espnet_prune.cli import durations as make_durations
from espnet_prune.data.labels import Interval, read_labels
from espnet_prune.data.testset import draw_lasting_references
from espnet_prune.text import arpabet

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "egs2" / "libritts" / "tts1"
TRAIN, DEV = "train-clean-460_phn", "dev-clean_phn"


@pytest.fixture(scope="module")
def prepare_module():
    return load_script(RECIPE / "local" / "prepare.py", "libritts_prepare")


@pytest.fixture
def tree(tmp_path):
    """LibriTTS and LibriTTSLabel, of noise."""
    corpus = make_corpus(tmp_path)
    return corpus, make_labels(tmp_path / "LibriTTSLabel", corpus)


@pytest.fixture
def prepare(prepare_module, tree, tmp_path, capsys):
    """Run the preparation and return what it printed."""

    def run(*options, data_dir=tmp_path / "data"):
        corpus, labels = tree
        prepare_module.main(
            [
                *("--corpus", str(corpus), "--labels", str(labels)),
                *("--data_dir", str(data_dir), *map(str, options)),
            ]
        )
        return capsys.readouterr().out

    return run


def left_out(data_dir):
    lines = (data_dir / "left_out.tsv").read_text().splitlines()
    assert lines[0] == "part\tutterance\treason\tdetail"
    return {row.split("\t")[1]: row.split("\t")[2] for row in lines[1:]}


def lab(tree, part, number=0):
    """Path of the labels of an utterance."""
    _, reader, chapter, stem = list(utterances(part))[number]
    return tree[1] / "lab" / "phone" / part / reader / chapter / f"{stem}.lab"


# ------------------------------------------------------------------ what is written


def test_training_text_is_what_the_labels_say(prepare, tree, tmp_path):
    out = prepare()
    train, dev = (read(tmp_path / "data" / name) for name in (TRAIN, DEV))
    assert len(train["text"]) == 10 and len(dev["text"]) == 3
    assert "train-clean-100: 5 recordings, 2 readers" in out
    for part in ("train-clean-100", "train-clean-360"):
        for _, reader, chapter, stem in utterances(part):
            name = f"{reader}-{stem.removeprefix(f'{reader}_')}"
            path = tree[1] / "lab" / "phone" / part / reader / chapter / f"{stem}.lab"
            intervals = read_labels(path)
            tokens = train["text"][name].split()
            ends = [float(end) for end in train["token_ends"][name].split()]
            assert tokens[0] == tokens[-1] == "sp" and arpabet.is_phones(tokens)
            assert tokens[1:-1] == [i.label for i in intervals[1:-2]]
            assert ends[:-2] == [i.end for i in intervals[:-2]]
            assert ends[-2:] == [intervals[-1].end] * 2  # of the last pause and <eos>
            assert train["utt2spk"][name] == reader
            assert Path(train["wav.scp"][name]).stem == stem


def test_zero_shot_sets_never_say_their_reference(prepare, tmp_path):
    prepare("--num_texts", 3)
    unseen = read(tmp_path / "data" / "test_unseen")
    trained = read(tmp_path / "data" / TRAIN)
    assert set(unseen["utt2spk"].values()) == set(READERS["test-clean"])
    assert not set(unseen["utt2spk"].values()) & set(trained["utt2spk"].values())
    assert len(unseen["text"]) == 4
    for name, reference in unseen["wav.scp"].items():
        target = Path(unseen["gt_wav.scp"][name])
        assert Path(reference) != target and Path(reference).parts[-3] in name
        assert soundfile.info(reference).duration >= 2.0
        said = target.with_suffix(".normalized.txt").read_text()
        assert unseen["text"][name] == said  # English, for scoring
    seen = read(tmp_path / "data" / "test_seen")
    assert set(seen["utt2spk"].values()) <= set(trained["utt2spk"].values())
    assert sorted(seen["text"].values()) == sorted(unseen["text"].values())
    for name, reference in seen["wav.scp"].items():
        assert Path(reference).parts[-3] == seen["utt2spk"][name]
        assert reference in trained["wav.scp"].values()


def test_missing_labels_change_no_other_voice(prepare_module):
    """Models of given and of learned durations say test_seen in the same voices."""
    one = prepare_module.Utterance("", "", "", seconds=5.0)
    found = [
        one._replace(name=f"{reader}-{n}", speaker=reader)
        for reader in ("103", "1034")
        for n in range(6)
    ]
    drawn = draw_lasting_references(found, 0)
    assert drawn != draw_lasting_references(found, 1)
    for gone in set(found) - set(drawn.values()):
        left = [one for one in found if one != gone]
        assert draw_lasting_references(left, 0) == drawn


def test_all_tokens_are_listed_whatever_the_data(prepare, tmp_path):
    prepare()
    line = (tmp_path / "data" / "arpabet" / "text").read_text()
    assert line.split()[1:] == list(arpabet.TOKENS)
    tokens = {
        t
        for text in read(tmp_path / "data" / TRAIN)["text"].values()
        for t in text.split()
    }
    assert tokens <= set(arpabet.TOKENS)


def test_sorted_as_kaldi_wants_it(prepare, tmp_path):
    prepare()
    for name in (TRAIN, DEV, "test-clean", "test_unseen", "test_seen"):
        for path in (tmp_path / "data" / name).glob("[!i]*"):  # not identity.json
            lines = path.read_bytes().splitlines()
            assert lines == sorted(lines), path
        pairs = (tmp_path / "data" / name / "utt2spk").read_text().splitlines()
        by_speaker = sorted(pairs, key=lambda pair: pair.split()[::-1])
        assert pairs == by_speaker  # utils/fix_data_dir.sh ends on others


def test_the_same_again_in_one_process_or_two(prepare, tmp_path):
    prepare("--nj", 1)
    prepare("--nj", 2, data_dir=tmp_path / "again")
    for name in (TRAIN, DEV, "test-clean", "test_unseen", "test_seen"):
        assert read(tmp_path / "data" / name) == read(tmp_path / "again" / name)


def test_learned_durations_need_no_labels(prepare, tree, tmp_path):
    shutil.rmtree(tree[1])
    prepare("--durations", "learned")
    train = read(tmp_path / "data" / "train-clean-460")
    assert train.keys() == {"text", "utt2spk", "spk2utt", "wav.scp"}
    assert "Mr. Quilter is the apostle of the middle classes." in train["text"].values()
    assert not (tmp_path / "data" / TRAIN).exists()
    assert (tmp_path / "data" / "test_unseen").exists()


def test_labels_beside_the_recordings_and_textgrids(prepare, tree, tmp_path):
    """ESPnet's recipe unpacks them beside the recordings."""
    pytest.importorskip("praatio")
    prepare()
    wanted = read(tmp_path / "data" / TRAIN)
    corpus, labels = tree
    for part, reader, chapter, stem in utterances():
        source = labels / "lab" / "phone" / part / reader / chapter / f"{stem}.lab"
        target = corpus / part / reader / chapter / source.name
        if part == "train-clean-100":
            phones = read_labels(source)
            words = [Interval(0.0, phones[-1].end, "all")]
            grid = as_textgrid({"words": words, "phones": phones})
            target.with_suffix(".TextGrid").write_text(grid)
        else:
            source.rename(target)
    shutil.rmtree(labels)
    prepare(data_dir=tmp_path / "again")
    assert read(tmp_path / "again" / TRAIN) == wanted


# --------------------------------------------------------------------------- faults


def without_end(path):
    path.write_text("".join(path.read_text().splitlines(True)[:-8]))


def with_gap(path):
    lines = path.read_text().splitlines(True)
    path.write_text("".join(lines[:3] + lines[4:]))


LABEL_FAULTS = {
    "no labels": Path.unlink,
    "labels that cannot be used": with_gap,
    "labels that cannot be used ": lambda path: path.write_text("0 1 sil"),
    "labels that do not fit the recording": without_end,
    "labels with unknown phones": lambda path: path.write_text(
        path.read_text().replace("AH0", "AX")
    ),
    "labels without a vowel": lambda path: path.write_text(
        re.sub("[A-Z]+[012]", "M", path.read_text())
    ),
}


@pytest.mark.parametrize("reason", LABEL_FAULTS)
def test_labels_that_do_not_fit_are_listed_and_left_out(
    prepare, tree, tmp_path, reason
):
    path = lab(tree, "train-clean-360", 1)
    LABEL_FAULTS[reason](path)
    reason = reason.strip()
    out = prepare()
    name = path.stem.replace("_", "-", 1)
    assert left_out(tmp_path / "data") == {name: reason}
    assert re.search(rf"train-clean-360: 4 .*\n  left out: 1, .*\n +1  {reason}", out)
    train = read(tmp_path / "data" / TRAIN)
    assert len(train["text"]) == 9
    assert all(name not in table for table in train.values())


RECORDING_FAULTS = {
    "no text": lambda wav: wav.with_suffix(".normalized.txt").unlink(),
    "empty text": lambda wav: wav.with_suffix(".normalized.txt").write_text(" "),
    "unreadable audio": lambda wav: wav.write_text("RIFF"),
    "no samples": lambda wav: soundfile.write(wav, np.zeros(0), FS),
    "text without a word": lambda wav: wav.with_suffix(".normalized.txt").write_text(
        "..."
    ),
    "too short for its text": lambda wav: soundfile.write(wav, noise(0.3), FS),
}


@pytest.mark.parametrize("reason", RECORDING_FAULTS)
def test_recordings_that_cannot_be_used(prepare, tree, tmp_path, reason):
    part, reader, chapter, stem = next(iter(utterances("dev-clean")))
    RECORDING_FAULTS[reason](tree[0] / part / reader / chapter / f"{stem}.wav")
    out = prepare("--durations", "learned")
    assert list(left_out(tmp_path / "data").values()) == [reason]
    assert f" 1  {reason}\n" in out
    assert len(read(tmp_path / "data" / "dev-clean")["text"]) == 2


@pytest.mark.parametrize(
    "spoil, fault",
    [
        (lambda corpus, labels: shutil.rmtree(corpus / "dev-clean"), "lacks dev-clean"),
        (lambda corpus, labels: shutil.rmtree(corpus), "lacks train-clean-100, "),
        (lambda corpus, labels: shutil.rmtree(labels), "no label of train-clean-100"),
        (
            lambda corpus, labels: shutil.rmtree(
                labels / "lab" / "phone" / "dev-clean"
            ),
            "no label of dev-clean",
        ),
    ],
)
def test_what_is_missing_altogether_ends_in_one_line(
    prepare, tree, tmp_path, spoil, fault
):
    spoil(*tree)
    with pytest.raises(UserError, match=fault) as caught:
        prepare()
    assert "db.sh" in str(caught.value)
    assert not (tmp_path / "data").exists()


def test_labels_of_words_end_in_one_line_and_a_list(prepare, tree, tmp_path):
    """The clone has lab/word beside lab/phone; the list is there to be looked at."""
    for path in tree[1].rglob("*.lab"):
        path.write_text(re.sub("[A-Z]+[012]?", "matthew", path.read_text()))
    with pytest.raises(UserError, match="no recording of train-clean-100") as caught:
        prepare()
    assert "labels with unknown phones" in str(caught.value)
    assert "matthew" in str(caught.value) and "db.sh" in str(caught.value)
    assert len(left_out(tmp_path / "data")) == 5
    assert not (tmp_path / "data" / TRAIN).exists()


@pytest.mark.parametrize("above", [False, True])
def test_a_partial_corpus_is_told_from_none(prepare, tree, tmp_path, above):
    """The folder LibriTTS or the one above it may be named."""
    corpus, _ = tree
    shutil.rmtree(corpus / "train-clean-100")
    with pytest.raises(UserError) as caught:
        prepare("--corpus", tmp_path if above else corpus)
    assert f"{corpus} lacks train-clean-100 of" in str(caught.value)


# ----------------------------------------------------------------------- interruptions


def test_an_interrupted_check_goes_on_where_it_was(
    prepare, prepare_module, tmp_path, monkeypatch
):
    """Killed in the middle of a line: what was found good is not read again."""
    prepare()
    wanted = read(tmp_path / "data" / TRAIN)
    done = tmp_path / "data" / "local" / "train-clean-360_phn.jsonl"
    lines = done.read_text().splitlines(True)
    done.write_text("".join(lines[:3]) + lines[3][:40])
    checked = []
    check = prepare_module.Checker.__call__
    monkeypatch.setattr(
        prepare_module.Checker,
        "__call__",
        lambda self, wav: checked.append(wav) or check(self, wav),
    )
    prepare("--nj", 1)  # to be seen
    assert len(checked) == 3  # of the 5 of this part, and of no other part
    assert read(tmp_path / "data" / TRAIN) == wanted
    checked.clear()
    prepare()
    assert not checked


def test_labels_that_were_mended_are_read_again(prepare, tree, tmp_path):
    path = lab(tree, "train-clean-100")
    text = path.read_text()
    path.unlink()
    prepare()
    path.write_text(text)
    out = prepare()
    assert "left out" not in out and not left_out(tmp_path / "data")
    assert len(read(tmp_path / "data" / TRAIN)["text"]) == 10


def test_files_that_have_changed_are_read_again(prepare, tree, tmp_path):
    prepare()
    before = read(tmp_path / "data" / TRAIN)["text"]
    path = lab(tree, "train-clean-100")
    path.write_text(path.read_text().replace("\tT\n", "\tD\n").replace("EH1", "AA1"))
    prepare()
    after = read(tmp_path / "data" / TRAIN)["text"]
    changed = [name for name in before if before[name] != after[name]]
    assert [name.split("-")[-1] for name in changed] == [path.stem.split("_", 1)[1]]
    next(tree[0].glob("train-clean-100/*/*/*.wav")).write_bytes(b"no recording")
    prepare()
    assert list(left_out(tmp_path / "data").values()) == ["unreadable audio"]


def test_names_that_cannot_be_ids_are_left_out(prepare, tree, tmp_path):
    (wav, *_) = sorted(tree[0].glob("train-clean-100/*/*/*.wav"))
    for name in ("103_a b", "103_\udcff", "103_" + "x" * 215):
        for suffix in (".wav", ".normalized.txt"):
            shutil.copy(wav.with_suffix(suffix), wav.with_name(name + suffix))
    prepare("--durations", "learned")
    reasons = sorted(left_out(tmp_path / "data").values())
    assert reasons == [
        *("id of more than 200 bytes", "id that is not UTF-8", "id with a space")
    ]
    assert len(read(tmp_path / "data" / "train-clean-460")["text"]) == 10


def test_texts_of_another_script_are_left_out(prepare, tree, tmp_path):
    (text, *_) = sorted(tree[0].glob("train-clean-100/*/*/*.normalized.txt"))
    text.write_text("\u041f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440")
    prepare("--durations", "learned")
    assert list(left_out(tmp_path / "data").values()) == ["text of another script"]


@pytest.mark.parametrize("part", ["train-clean-100", "dev-clean"])
def test_a_reader_of_two_parts_is_refused(prepare, tree, tmp_path, part):
    shutil.copytree(tree[0] / "test-clean" / "1089", tree[0] / part / "1089")
    with pytest.raises(UserError, match=f"reader 1089 is in {part} and in test-clean"):
        prepare("--durations", "learned")
    assert not (tmp_path / "data" / "test_unseen").exists()


@pytest.mark.parametrize("number", [0, -1])
def test_a_test_set_needs_sentences(prepare, tmp_path, number):
    with pytest.raises(UserError, match="--num_texts is .*: choose a whole number"):
        prepare("--num_texts", number)
    assert not (tmp_path / "data").exists()


def test_a_link_to_itself_is_one_line(prepare_module, tree, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    loop, (corpus, labels) = str(tmp_path / "loop"), map(str, tree)
    for given in (
        ("--corpus", loop, "--labels", labels),
        ("--corpus", corpus, "--labels", loop),
    ):
        with pytest.raises(UserError, match="loop"):
            prepare_module.main([*given, "--data_dir", str(tmp_path / "data")])


def test_recordings_that_are_gone_leave_the_sets(prepare, tree, tmp_path):
    prepare()
    gone = next(tree[0].glob("train-clean-100/*/*/*.wav"))
    gone.unlink()
    prepare()
    train = read(tmp_path / "data" / TRAIN)
    assert len(train["text"]) == 9 and str(gone) not in train["wav.scp"].values()


def test_another_copy_of_the_labels_is_read_anew(prepare, tree, tmp_path):
    prepare()
    corpus, labels = tree
    for path in labels.rglob("*.lab"):
        target = corpus / path.relative_to(labels / "lab" / "phone")
        target.write_text(path.read_text().replace("\tT\n", "\tD\n"))
    shutil.rmtree(labels)
    prepare()
    texts = " ".join(read(tmp_path / "data" / TRAIN)["text"].values()).split()
    assert "T" not in texts and "D" in texts


# --------------------------------------------------------------------------- durations


def dump(folder, data, fs):
    """Write what stages 2 to 4 leave: utt2num_samples of recordings at fs."""
    tables = read(data)
    folder.mkdir(parents=True)
    shutil.copy(data / "text", folder)
    lines = ""
    for name, wav in tables["wav.scp"].items():
        samples = soundfile.info(wav).frames * fs // FS
        lines += f"{name} {samples}\n"
    (folder / "utt2num_samples").write_text(lines)


@pytest.mark.parametrize("fs, n_shift", [(16000, 256), (22050, 256), (24000, 300)])
def test_durations_add_up_to_the_frames_at_any_rate(
    prepare, tmp_path, fs, n_shift, capsys
):
    prepare()
    for name in (TRAIN, DEV):
        dump(tmp_path / "raw" / name, tmp_path / "data" / name, fs)
    make_durations.main(
        [
            *(TRAIN, DEV, "--fs", str(fs), "--n_shift", str(n_shift)),
            *("--data_dir", str(tmp_path / "data")),
            *("--dump_dir", str(tmp_path / "raw"), "--output_dir", str(tmp_path / "t")),
        ]
    )
    assert f"{tmp_path}/t/{TRAIN}/durations: 10 utterances" in capsys.readouterr().out
    for name in (TRAIN, DEV):
        raw = read(tmp_path / "raw" / name)
        durations = read(tmp_path / "t" / name)["durations"]
        ends = read(tmp_path / "data" / name)["token_ends"]
        assert durations.keys() == raw["text"].keys()
        for utterance, line in durations.items():
            frames = list(map(int, line.split()))
            assert len(frames) == len(raw["text"][utterance].split()) + 1
            assert sum(frames) == 1 + int(raw["utt2num_samples"][utterance]) // n_shift
            seconds = np.diff([float(e) for e in ends[utterance].split()], prepend=0)
            assert np.abs(frames - seconds * fs / n_shift).max() < 2


# ------------------------------------------------------------------------------ data.sh


@pytest.fixture
def recipe(tmp_path):
    """Folder of a copy of the recipe, and a function that runs its data.sh."""
    folder = copy_recipe(tmp_path / "checkout")

    def run(*options, **variables):
        return subprocess.run(
            ["bash", "local/data.sh", *map(str, options)],
            cwd=folder,
            env=environment(**variables),
            capture_output=True,
            text=True,
        )

    return folder, run


@needs_recordings
def test_data_sh_with_existing_copies(recipe, tmp_path):
    """Real recordings; the labels as they are in the clone, an archive in pieces."""
    folder, run = recipe
    corpus = make_corpus(tmp_path / "corpora", an4_recordings())
    labels = make_labels(tmp_path / "clone", corpus)
    with tarfile.open(labels / "all.tar.gz", "w:gz") as archive:
        archive.add(labels / "lab", "lab")
    shutil.rmtree(labels / "lab")
    content = (labels / "all.tar.gz").read_bytes()
    for piece, start in zip(("aa", "ab"), (0, 3000), strict=True):
        part = content[start : 3000 if start == 0 else None]
        (labels / f"lab.tar.gz-{piece}").write_bytes(part)
    (labels / "all.tar.gz").unlink()
    ended = run(LIBRITTS=tmp_path / "corpora", LIBRITTS_LABEL=labels)
    assert ended.returncode == 0, ended.stderr
    assert "train-clean-360: 5 recordings, 2 readers" in ended.stdout
    assert "left out" not in ended.stdout
    assert "train-clean-360: 100%" in ended.stderr  # progress
    train = read(folder / "data" / TRAIN)
    assert len(train["text"]) == 10
    check = subprocess.run(
        ["utils/validate_data_dir.sh", "--no-feats", f"data/{TRAIN}"],
        cwd=folder,
        env=dict(os.environ, LC_ALL="C", PATH=f"{folder}/utils:{os.environ['PATH']}"),
        capture_output=True,
        text=True,
    )
    assert check.returncode == 0, check.stdout + check.stderr


@needs_recordings
def test_data_sh_with_half_of_the_labels_ends_in_one_line(recipe, tree):
    """A piece of the archive is missing; nothing of it is taken for whole."""
    folder, run = recipe
    corpus, labels = tree
    with tarfile.open(labels / "lab.tar.gz", "w:gz") as archive:
        archive.add(labels / "lab", "lab")
    shutil.rmtree(labels / "lab")
    content = (labels / "lab.tar.gz").read_bytes()
    (labels / "lab.tar.gz").unlink()
    (labels / "lab.tar.gz-aa").write_bytes(content[:1500])
    for _ in range(2):
        ended = run(LIBRITTS=corpus, LIBRITTS_LABEL=labels)
        assert ended.returncode == 2 and ended.stderr.count("\n") == 1
        assert (
            "lab.tar.gz-aa and the other pieces; get the labels again" in ended.stderr
        )
        assert not (folder / "data" / TRAIN).exists()
    # the whole archive, then another one
    for old, new in (("", ""), ("EH1", "AA1")):
        for path in labels.glob("lab.tar.gz*"):
            path.unlink()
        make_labels(labels, corpus)
        for path in labels.rglob("*.lab"):
            path.write_text(path.read_text().replace(old, new))
        with tarfile.open(labels / "lab.tar.gz-aa", "w:gz") as archive:
            archive.add(labels / "lab", "lab")
        shutil.rmtree(labels / "lab")
        assert run(LIBRITTS=corpus, LIBRITTS_LABEL=labels).returncode == 0
        texts = " ".join(read(folder / "data" / TRAIN)["text"].values()).split()
        assert ("EH1" in texts) == (old == "")


@pytest.mark.slow
@needs_recordings
def test_data_sh_downloads_what_is_needed_and_goes_on(recipe, tmp_path, monkeypatch):
    """A stand-in for wget copies archives; the second one fails once."""
    folder, run = recipe
    corpus = make_corpus(tmp_path / "published")
    labels = make_labels(tmp_path / "clone", corpus)
    (tmp_path / "site").mkdir()
    for part in READERS:
        with tarfile.open(tmp_path / "site" / f"{part}.tar.gz", "w:gz") as archive:
            archive.add(corpus / part, f"LibriTTS/{part}")
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    (bin_dir / "wget").write_text(f"""#!/usr/bin/env bash
while [ $# -gt 1 ]; do [ "$1" != -P ] || folder=$2; shift; done
echo "${{1##*/}}" >> {tmp_path}/asked
[ "${{1##*/}}" != train-clean-360.tar.gz ] || [ -e {tmp_path}/up ] || exit 4
cp {tmp_path}/site/"${{1##*/}}" "$folder"
""")
    (bin_dir / "wget").chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_dir}:{os.environ['PATH']}")
    ended = run(LIBRITTS_LABEL=labels)
    assert ended.returncode == 2
    assert "cannot download" in ended.stderr and "run again" in ended.stderr
    (tmp_path / "up").touch()
    (tmp_path / "asked").unlink()
    ended = run(LIBRITTS_LABEL=labels)
    assert ended.returncode == 0, ended.stderr
    asked = (tmp_path / "asked").read_text()
    assert "train-clean-100" not in asked  # it was whole already
    assert "other" not in asked
    train = read(folder / "data" / TRAIN)
    assert len(train["text"]) == 10
    assert all("/downloads/LibriTTS/" in path for path in train["wav.scp"].values())


def test_data_sh_says_how_to_get_the_labels_before_any_download(recipe):
    folder, run = recipe
    if not ESPNET.is_dir():
        pytest.skip("needs ESPnet's recipes: ESPNET_ROOT")
    ended = run()
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    assert "git clone" in ended.stderr and "--durations learned" in ended.stderr
    assert not (folder / "downloads").exists()


# ------------------------------------------------------------------------------- run.sh


@pytest.mark.parametrize(
    "options, fault",
    [
        (["--system", "dp"], "baseline dp_r0.40"),
        (["--fs", "16"], "16000 22050 24000"),
        (["--durations", "some"], "one of given learned"),
        (["--stage"], "no value"),
        (["stage"], "unexpected argument"),
    ],
)
def test_bad_options_end_in_one_line(options, fault):
    ended = subprocess.run(
        [str(RECIPE / "run.sh"), *options], capture_output=True, text=True
    )
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("run.sh: error: ") and fault in ended.stderr


def test_help_lists_every_system_and_rate():
    shown = subprocess.run(
        [str(RECIPE / "run.sh"), "--help"], capture_output=True, text=True, check=True
    ).stdout
    for folder in ("systems", "features"):
        for path in (RECIPE / "conf" / folder).iterdir():
            assert re.search(rf"\b{re.escape(path.stem)}\b", shown), path
