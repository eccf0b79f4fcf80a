"""The wheel: what it holds, and that it works without the checkout."""

import json
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import soundfile
import yaml
from tiny_experiment import voice

ROOT = Path(__file__).resolve().parents[1]
WHERE = """
import importlib.metadata, json, sys
import espnet_prune
print(json.dumps([
    espnet_prune.__file__,
    importlib.metadata.version("espnet_prune"),
    [path for path in sys.path if path],
]))
"""

pytestmark = pytest.mark.slow


def call(*command, cwd):
    """Run a command and return what it printed."""
    ended = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, cwd=cwd
    )
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    return ended.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the source archive, and from it the wheel."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder]
    call(*build, ROOT, cwd=folder)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Install the wheel in an environment that has its requirements; name its bin.

    The packages of the tests' environment serve as requirements. Their folder is added
    to the path as it is, which leaves out the checkout: that is there by a file of the
    folder which only the tests' environment itself reads.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python3"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(call(python, "-c", code, cwd=folder).strip())
    theirs = Path(sysconfig.get_path("purelib"))
    (site / "dependencies.pth").write_text(f"{theirs}\n")
    # ESPnet imports distutils, which setuptools provides in this way.
    shutil.copy(theirs / "distutils-precedence.pth", site)
    pip = [python, "-m", "pip", "install", "--no-deps", "--ignore-installed"]
    call(*pip, "--no-index", wheel, cwd=folder)
    return folder / "bin"


def test_wheel_holds_what_the_checkout_has(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    for path in sorted((ROOT / "conf").glob("**/*.yaml")):
        name = f"espnet_prune/conf/{path.relative_to(ROOT / 'conf')}"
        assert held[name] == path.read_bytes()
    sentences = held["espnet_prune/data/sentences.txt"].decode().splitlines()
    assert len(sentences) >= 20
    assert any(name.endswith(".html") for name in held)
    assert "espnet_prune/py.typed" in held
    assert not [name for name in held if name.startswith(("tests/", "egs2/", "conf/"))]


def test_installed_package_is_not_the_checkout(installed, tmp_path):
    file, version, paths = json.loads(
        call(installed / "python3", "-c", WHERE, cwd=tmp_path)
    )
    assert Path(file).is_relative_to(installed.parent)
    assert str(ROOT) not in paths
    assert f'__version__ = "{version}"' in Path(file).read_text()


def test_commands_work_in_an_empty_folder(installed, tmp_path):
    verbs = call(installed / "espnet-prune", "--help", cwd=tmp_path)
    assert "report" in verbs and "listen" in verbs
    shown = call(installed / "espnet-prune", "report", "--help", cwd=tmp_path)
    assert shown.startswith("usage: espnet-prune report")
    shown = call(
        installed / "python3", "-m", "espnet_prune", "say", "--help", cwd=tmp_path
    )
    assert shown.startswith("usage: espnet-prune say")
    assert not list(tmp_path.iterdir())


def test_configurations_of_the_wheel_are_usable(installed, tmp_path):
    code = "import espnet_prune as e; print(*e.__path__)"
    conf = Path(call(installed / "python3", "-c", code, cwd=tmp_path).strip()) / "conf"
    command = [installed / "espnet-prune", "merge", conf / "train.yaml"]
    command += [conf / "systems" / "vp.yaml", "--output_dir", "merged"]
    merged = tmp_path / call(*command, cwd=tmp_path).strip()
    written = yaml.safe_load(merged.read_text())
    assert written["tts"] == "stylespeech"
    assert written["tts_conf"]["pruning"] == "vanilla"


def test_a_listening_test_is_made_without_the_checkout(installed, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    names = [f"{speaker}_{n}" for speaker in ("ann", "bob") for n in range(8)]
    for system, pitch in (("a", 120.0), ("b", 140.0)):
        (tmp_path / system).mkdir()
        for name in names:
            soundfile.write(
                tmp_path / system / f"{name}.wav", voice(1.0, pitch=pitch), 16000
            )
    soundfile.write(tmp_path / "reference.wav", voice(), 16000)
    for file, value in (
        ("text", "how are you"),
        ("wav.scp", tmp_path / "reference.wav"),
        ("utt2spk", "ann"),
    ):
        lines = [f"{name} {value}\n" for name in names]
        (data / file).write_text("".join(lines))
    command = [installed / "espnet-prune", "listen", "make", "--system", "a=a"]
    command += ["--system", "b=b", "--data_dir", "data", "--output_dir", "listening"]
    call(*command, cwd=tmp_path)
    (page,) = (tmp_path / "listening").glob("*.html")
    assert "how are you" in page.read_text()
