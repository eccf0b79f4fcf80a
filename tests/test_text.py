"""The espeak-ng of the wheel, as phonemizer and ESPnet use it."""

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import espeakng_loader
import pytest
from espnet2.text.phoneme_tokenizer import PhonemeTokenizer
from torch.utils.data import DataLoader

from espnet_prune.text import espeak as text
from espnet_prune.text.espeak import LONGEST_DATA_PATH, use_bundled_espeak

VARIABLES = (
    "PHONEMIZER_ESPEAK_LIBRARY",
    "PHONEMIZER_ESPEAK_DATA_PATH",
    "ESPEAK_DATA_PATH",
)


@pytest.fixture
def nothing_named(monkeypatch):
    for name in VARIABLES:
        # Set first, so that what a test leaves behind is taken away again.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture
def tokenizer(nothing_named):
    assert use_bundled_espeak()
    return PhonemeTokenizer("espeak_ng_english_us_vits")


def test_espnet_speaks_english_phonemes(tokenizer):
    assert tokenizer.text2tokens("eleven, go!") == (
        ["ᵻ", "l", "ˈ", "ɛ", "v", "ə", "n", ",", "<space>", "ɡ", "ˈ", "o", "ʊ", "!"]
    )


def test_library_and_data_are_the_wheel_s(tokenizer):
    wheel = Path(espeakng_loader.__file__).parent
    assert Path(os.environ["PHONEMIZER_ESPEAK_LIBRARY"]).parent == wheel
    assert tokenizer.g2p.phonemizer._espeak.data_path == wheel / "espeak-ng-data"


def test_the_tokenizer_reaches_worker_processes(tokenizer):
    expected = tokenizer.text2tokens("yes")
    # Spawned workers get it pickled, forked ones as it is.
    assert pickle.loads(pickle.dumps(tokenizer)).text2tokens("yes") == expected

    def collate(batch):
        return [tokenizer.text2tokens(line) for line in batch]

    loader = DataLoader(["yes"], collate_fn=collate, num_workers=1)
    assert list(loader) == [[expected]]


@pytest.mark.parametrize("named", VARIABLES)
def test_an_espeak_that_the_user_named_stays(nothing_named, monkeypatch, named):
    monkeypatch.setenv(named, "/chosen")
    assert not use_bundled_espeak()
    assert {name: os.environ[name] for name in VARIABLES if name in os.environ} == {
        named: "/chosen"
    }


def test_harmless_without_the_wheel(nothing_named, monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    assert not use_bundled_espeak()
    assert not os.environ.keys() & set(VARIABLES)


def test_importing_the_package_is_enough():
    code = "import espnet_prune, phonemizer, os; print(os.environ['ESPEAK_DATA_PATH'])"
    environment = {k: v for k, v in os.environ.items() if k not in VARIABLES}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert "espeak-ng-data" in run.stdout, run.stderr


def test_an_environment_in_a_deep_folder(tmp_path):
    # espeak-ng would end the process at once with data at so long a path.
    deep = tmp_path / ("deep" * 40)
    deep.mkdir()
    wheel = Path(espeakng_loader.__file__).parent
    shutil.copytree(wheel, deep / wheel.name)
    assert len(str(deep / wheel.name / "espeak-ng-data")) > LONGEST_DATA_PATH + 10
    code = (
        "import runpy, phonemizer;"
        f" assert runpy.run_path({text.__file__!r})['use_bundled_espeak']();"
        " print(phonemizer.phonemize('yes', backend='espeak', language='en-us'))"
    )
    environment = {k: v for k, v in os.environ.items() if k not in VARIABLES}
    environment["PYTHONPATH"] = str(deep)
    # The link to the data goes here.
    environment["TMPDIR"] = str(tmp_path)
    for _ in range(2):
        run = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert run.stdout.split() == ["jɛs"], run.stderr
    (link,) = tmp_path.glob("espeak-ng-data-*")
    assert link.resolve() == (deep / wheel.name / "espeak-ng-data").resolve()
