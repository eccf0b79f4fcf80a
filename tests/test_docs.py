"""What README.md and docs/ say: commands run, snippets work, links lead somewhere."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import documents
import pytest
import soundfile
import yaml
from experiments import write_experiment
from tiny_experiment import PRUNED, TOKENS, pack_experiment, voice, write_recipe

from espnet_prune import PruneTTSTask
from espnet_prune.cli import say, score

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    str(path.relative_to(ROOT))
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md")))
]
TEXTS = ("good morning", "see you soon", "it rains", "come in, please", "that is all")
SPEAKERS = {"ann": 240.0, "bob": 110.0, "cyd": 170.0}  # pitch in Hz
LAYERS = 4
SETUP = """#!/usr/bin/env bash
# The environment of the tests stands in for the one that this would make.
case "${{1:-}}" in -h | --help) exec '{setup}' --help ;; esac
"""

# ------------------------------------------------------------ where the blocks are run


def is_there(path):
    return path.exists() or path.is_symlink()


def tracked_files():
    """List what a clone of the checkout would have, new files included."""
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return [name for name in names.rstrip("\0").split("\0") if is_there(ROOT / name)]


def write_test_set(folder):
    """Write a zero-shot test set; paths are relative to the folder above."""
    folder.mkdir()
    lines = {name: [] for name in ("text", "utt2spk", "wav.scp", "gt_wav.scp")}
    for speaker, pitch in SPEAKERS.items():
        reference = f"{folder.name}/{speaker}_reference.wav"
        soundfile.write(folder.parent / reference, voice(pitch=pitch), 16000)
        for number, text in enumerate(TEXTS):
            name = f"{speaker}_{number}"
            spoken = f"{folder.name}/{name}.wav"
            wave = voice(seconds=1.0, pitch=pitch * (1 + number / 50))
            soundfile.write(folder.parent / spoken, wave, 16000)
            values = (text, speaker, reference, spoken)
            for file, value in zip(lines.values(), values, strict=True):
                file.append(f"{name} {value}\n")
    for name, content in lines.items():
        (folder / name).write_text("".join(content))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Copy the checkout and add what the documents take for granted."""
    root = tmp_path_factory.mktemp("docs") / "checkout"
    for name in tracked_files():
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target, follow_symlinks=False)
    setup = root / "egs2" / "setup.sh"
    setup.write_text(SETUP.format(setup=ROOT / "egs2" / "setup.sh"))
    if (ROOT / "tools").exists():
        (root / "tools").symlink_to(ROOT / "tools")

    model = write_recipe(root, "tts_model", tts_conf=PRUNED)
    pack_experiment(root, model).rename(root / "MODEL.zip")
    write_recipe(root, "tts_other", seed=1)
    for name, experiment in (("MODEL", "tts_model"), ("OTHER", "tts_other")):
        (root / name).symlink_to(f"exp/{experiment}")
    learning = [
        [0.3 + 0.1 * epoch + 0.2 * n for n in range(LAYERS)] for epoch in (1, 2)
    ]
    write_experiment(root / "BASELINE", [(), ()], pruning="none")
    write_experiment(root / "PHASE1", learning)
    write_experiment(root / "PHASE2", [learning[-1]] * 2, phase=2)

    soundfile.write(root / "reference.wav", voice(pitch=130.0), 16000)
    soundfile.write(root / "reference2.wav", voice(pitch=210.0), 16000)
    write_test_set(root / "DATA")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        systems = []
        for name, spoken_by in (("baseline", "OTHER"), ("DP", "MODEL")):
            wavs = f"WAVS/{name}"
            say.main(["--model", spoken_by, "--data_dir", "DATA", "-o", wavs])
            systems += ["--system", f"{name}={wavs}"]
        measured = ["--metrics", "rtf", "kept_share"]
        where = ["--data_dir", "DATA", "--output_dir", "scores"]
        score.main([*systems, *where, *measured])
    return root


@pytest.fixture
def checkout(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "checkout", symlinks=True)


# ------------------------------------------------------------------------- the blocks


def build(settings, folder):
    """Build the model of a training configuration, or refuse it."""
    above = {"tts": "stylespeech", "token_type": "char", "token_list": TOKENS}
    # What normalises reads statistics, which stage 6 of a recipe makes.
    below = dict.fromkeys(("normalize", "pitch_normalize", "energy_normalize"))
    file = folder / "of_a_document.yaml"
    file.write_text(yaml.safe_dump(above | settings | below))
    parser = PruneTTSTask.get_parser()
    return PruneTTSTask.build_model(parser.parse_args(["--config", str(file)]))


def run(blocks, folder):
    """Run blocks of one document in a folder."""
    for block in blocks:
        if block.language == "yaml":
            settings = yaml.safe_load(block.code)
            if {"tts", "tts_conf"} & set(settings):
                build(settings, folder)
    scripts = [block for block in blocks if block.language != "yaml"]
    environment = dict(
        os.environ,
        PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        OMP_NUM_THREADS="1",
        CUDA_VISIBLE_DEVICES="",
        HF_HUB_OFFLINE="1",
        PIP_NO_INDEX="1",
        MPLBACKEND="agg",
    )
    ended = subprocess.run(
        [sys.executable, documents.__file__],
        input=json.dumps(scripts),
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout[-6000:]


def is_run(document, slow):
    """Whether a document has blocks that these tests run."""
    blocks = [b for b in documents.read_blocks(ROOT, document) if b.is_run]
    return any(block.slow for block in blocks) if slow else bool(blocks)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_block_is_run_or_says_why_not(document):
    known = documents.RUN + documents.SHOWN
    for block in documents.read_blocks(ROOT, document):
        assert block.language in known, f"{block.place}: name the language of the fence"


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if is_run(d, slow=False)])
def test_what_is_quick_works(document, checkout):
    blocks = documents.read_blocks(ROOT, document)
    run([block for block in blocks if block.is_run and not block.slow], checkout)


@pytest.mark.slow
@pytest.mark.parametrize("document", [d for d in DOCUMENTS if is_run(d, slow=True)])
def test_what_is_slow_works(document, checkout):
    run([b for b in documents.read_blocks(ROOT, document) if b.is_run], checkout)


# -------------------------------------------------------------------------- the links


def anchors(document):
    """Name the headings of a document as GitHub does."""
    text = documents.visible_text(ROOT, document)
    headings = re.findall(r"^#+ +(.+?) *$", text, flags=re.MULTILINE)
    words = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in words}


@pytest.mark.parametrize("document", [*DOCUMENTS, "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(document):
    text = documents.visible_text(ROOT, document)
    targets = re.findall(r"\]\(([^()\s]+)\)", text)
    targets += re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    for target in targets:
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / document).parent / path if path else ROOT / document
        assert file.exists(), f"{document}: there is no {target}"
        if anchor:
            assert anchor in anchors(file.resolve().relative_to(ROOT)), (
                f"{document}: {path or document} has no heading #{anchor}"
            )
