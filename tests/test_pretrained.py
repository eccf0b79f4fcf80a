"""Finding a model: folders, archives, tags, and the paths inside a config.yaml."""

import functools
import http.server
import importlib.resources
import io
import os
import shutil
import socket
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest
import soundfile
import torch
import yaml
from recipe_scripts import load_script
from tiny_experiment import STATS, pack_experiment, voice, write_recipe

from espnet_prune.cli import say
from espnet_prune.errors import UserError
from espnet_prune.speech.pretrained import (
    default_vocoder,
    find_model,
    paths_made_absolute,
    unpack_model,
)
from espnet_prune.speech.synthesis import Text2Speech


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "recipe"


def refused(*arguments):
    with pytest.raises(UserError) as error:
        find_model(*arguments)
    return str(error.value)


def test_experiment_folder(recipe):
    experiment = write_recipe(recipe)
    assert find_model(experiment) == {
        "train_config": str(experiment / "config.yaml"),
        "model_file": str(experiment / "train.loss.ave.pth"),
    }
    other = experiment / "7epoch.pth"
    other.write_bytes(b"")
    assert find_model(str(experiment), "7epoch.pth")["model_file"] == str(other)
    elsewhere = recipe / "mine.pth"
    elsewhere.write_bytes(b"")
    assert find_model(experiment, elsewhere)["model_file"] == str(elsewhere)


def test_folder_without_a_model(recipe):
    experiment = write_recipe(recipe)
    assert "has no 9epoch.pth" in refused(experiment, "9epoch.pth")
    (experiment / "train.loss.ave.pth").rename(experiment / "3epoch.pth")
    message = refused(experiment)
    assert "has no train.loss.ave.pth" in message and "found 3epoch.pth" in message
    assert "has no config.yaml" in refused(recipe)


def test_archive_is_unpacked_once_and_anew_when_packed_anew(recipe):
    packed = pack_experiment(recipe, write_recipe(recipe))
    files = find_model(packed)
    settings = yaml.safe_load(Path(files["train_config"]).read_text())
    assert os.path.isfile(settings["normalize_conf"]["stats_file"])
    os.utime(files["model_file"], (1, 1))
    assert find_model(str(packed)) == files
    assert os.stat(files["model_file"]).st_mtime == 1, "unpacked a second time"

    before = Path(files["model_file"]).read_bytes()
    pack_experiment(recipe, write_recipe(recipe, seed=1))
    assert find_model(packed) == files
    assert Path(files["model_file"]).read_bytes() != before


def test_interrupted_unpacking_is_not_taken_for_whole(recipe, monkeypatch):
    packed = pack_experiment(recipe, write_recipe(recipe))

    def killed(archive, folder):
        folder.mkdir(parents=True)
        (folder / "meta.yaml").write_text("{}")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("espnet_prune.speech.pretrained._unpack", killed)
        with pytest.raises(KeyboardInterrupt):
            unpack_model(packed)
    files = unpack_model(packed)
    assert os.path.getsize(files["model_file"]) > 1000
    os.remove(files["model_file"])  # someone tidied the cache
    assert os.path.isfile(unpack_model(packed)["model_file"])


def test_a_full_disk_leaves_a_cache_that_can_be_used(recipe, tmp_path, monkeypatch):
    packed = pack_experiment(recipe, write_recipe(recipe))

    def full(path, *arguments, **options):
        path.touch()
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.write_text", full)
        assert "cannot be unpacked as a model (no space left)" in refused(packed)
    assert not list((tmp_path / "cache").rglob("unpacked.yaml*"))
    files = find_model(packed)
    (whole,) = (tmp_path / "cache").rglob("unpacked.yaml")
    # as if the power had failed, or somebody had been there
    for content in ("", "[]", "state: x", "files: [", "\0"):
        whole.write_text(content)
        assert find_model(packed) == files


def test_a_cache_that_cannot_be_made_is_refused(recipe, tmp_path, monkeypatch):
    packed = pack_experiment(recipe, write_recipe(recipe))
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "cache"))
    assert "(Not a directory): set XDG_CACHE_HOME to a writable folder" in refused(
        packed
    )


def test_archives_that_hold_no_model(recipe, tmp_path):
    text = tmp_path / "model.zip"
    text.write_text("hello")
    assert "cannot be unpacked as a model" in refused(text)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("meta.yaml", "files: {}\nyaml_files: {}\n")
    assert "is not a packed TTS model" in refused(tmp_path / "other.zip")


@pytest.mark.parametrize("name", ["/none/tts", "missing.zip", "a/b/c", "tts_mine"])
def test_missing_paths_are_not_looked_up_on_the_network(name, monkeypatch):
    monkeypatch.setattr("espnet2.utils.pretrained.download_pretrained", None)
    assert f"there is no model {name}" in refused(name)


def test_tags(monkeypatch):
    files = {"train_config": "c.yaml", "model_file": "m.pth", "other": "x"}
    asked = []

    def download(tag):
        asked.append(tag)
        return dict(files)

    monkeypatch.setattr("espnet2.utils.pretrained.download_pretrained", download)
    found = find_model("someone/stylespeech")
    assert found == {"train_config": "c.yaml", "model_file": "m.pth"}
    assert asked == ["someone/stylespeech"]

    def offline(tag):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr("espnet2.utils.pretrained.download_pretrained", offline)
    message = refused("exp/tts_mistyped")
    assert "exp/tts_mistyped is not a folder or file here" in message
    assert "ConnectionError: no route" in message


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A package folder of its own, in which models can be put."""
    folder = tmp_path / "package"
    (folder / "models").mkdir(parents=True)
    files = importlib.resources.files

    def of_this_package(name):
        return folder if name == "espnet_prune" else files(name)

    monkeypatch.setattr("importlib.resources.files", of_this_package)
    return folder / "models"


def put_model(models, recipe, name="english_small", **changes):
    """Ship a tiny model with two voices, as the recipe `custom` does it."""
    recipes = Path(__file__).parents[1] / "egs2"
    script = recipes / "custom" / "tts1" / "local" / "ship.py"
    ship = load_script(script, "ship")
    settings = {"durations": "learned", "adversarial_weight": 0.5}
    experiment = write_recipe(recipe, tts_conf=settings, **changes)
    recordings, notes = {}, {}
    for speaker, pitch in (("zoe", 220.0), ("ann", 240.0)):
        recordings[speaker] = recipe / f"{speaker}.wav"
        soundfile.write(recordings[speaker], voice(pitch=pitch), 16000)
        notes[speaker] = f"a buzz of {pitch:.0f} Hz"
    ship.ship(experiment, "train.loss.ave.pth", models / name, recordings, notes)
    trained = experiment / "train.loss.ave.pth"
    assert (models / name / "model.safetensors").stat().st_size < (
        trained.stat().st_size * 0.7
    )
    return Text2Speech.from_pretrained(experiment)


def test_a_model_that_ships_with_the_package(shipped, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "socket", None)  # no network
    trained = put_model(shipped, recipe)
    put_model(shipped, recipe, "another")  # not the first of the package speaks
    shutil.rmtree(recipe)
    monkeypatch.chdir(tmp_path)
    for name in ("english_small", None, shipped / "english_small"):
        model = Text2Speech.from_pretrained(name)
        assert model.model_file.parent.name == "english_small"
        assert list(model.voices) == ["ann", "zoe"]
        said = model("hello there")
        wanted = trained("hello there", speech=voice(pitch=240.0))
        assert said["feat_gen"].dtype == torch.float32
        assert torch.equal(said["duration"], wanted["duration"])
        difference = said["feat_gen"] - wanted["feat_gen"]
        assert difference.abs().max() < 0.05
    assert "name one of the package (another, english_small), an exper" in refused(
        "english_large"
    )
    for file in (shipped / "english_small").glob("*.safetensors"):
        file.unlink()
    assert "english_small has no train.loss.ave.pth: " in refused("english_small")


def test_a_text_is_enough_to_speak(shipped, recipe, tmp_path, monkeypatch, capsys):
    put_model(shipped, recipe)
    monkeypatch.chdir(tmp_path)
    say.main(["hello there"])
    say.main(["hello there", "--voice", "ann"])
    say.main(["hello there", "--voice", "zoe"])
    printed = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert printed == ["speech_1.wav", "speech_2.wav", "speech_3.wav"]
    first, same, other = (Path(name).read_bytes() for name in printed)
    assert first == same != other
    with soundfile.SoundFile(printed[0]) as file:
        assert "Synthetic speech" in file.comment
    with pytest.raises(UserError, match=r"there is no voice tim: .*\(ann, zoe\)"):
        say.main(["hello there", "--voice", "tim"])
    (tmp_path / "texts").write_text("hello\n")
    with pytest.raises(UserError, match="add -o FOLDER"):
        say.main(["--text_file", "texts"])
    assert len(list(tmp_path.glob("*.wav"))) == 3


def test_the_voices_of_a_model_are_listed(shipped, recipe, capsys):
    put_model(shipped, recipe)
    say.main(["--list_voices"])
    say.main(["--list_voices", "--model", "english_small"])
    listed = "ann  a buzz of 240 Hz\nzoe  a buzz of 220 Hz\n"
    assert capsys.readouterr().out == 2 * listed
    with pytest.raises(UserError, match="has no voices of its own: name a recording"):
        say.main(["--list_voices", "--model", str(recipe / "exp" / "tts_tiny")])


def test_a_shipped_model_speaks_through_the_best_vocoder(shipped, recipe, monkeypatch):
    fits = {"fs": 22050, "fmin": 0, "fmax": 8000}
    put_model(shipped, recipe, feats_extract_conf=fits)
    put_model(shipped, recipe, "narrow")
    assert default_vocoder(None) == default_vocoder("english_small") == "hifigan"
    assert default_vocoder("narrow") == "griffin_lim"
    assert default_vocoder(recipe / "exp" / "tts_tiny") == "griffin_lim"
    # as if the package of HiFi-GAN were not installed
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert default_vocoder(None) == "griffin_lim"


def test_the_model_of_the_package_is_missing(shipped, tmp_path):
    message = "the model english_small is missing from this installation"
    for name in (None, "english_small"):
        assert message in refused(name)
    with pytest.raises(UserError, match=message):
        say.main(["hello", "-o", str(tmp_path / "out.wav")])
    with pytest.raises(UserError, match=message):
        Text2Speech.from_pretrained()
    assert not list(tmp_path.glob("*.wav"))


def test_an_address_of_an_archive_is_fetched(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    packed = pack_experiment(recipe, write_recipe(recipe))
    handler = functools.partial(QuietHandler, directory=str(packed.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        files = find_model(f"{address}/{packed.name}")
        assert os.path.getsize(files["model_file"]) > 1000
        message = refused(f"{address}/none.zip")
        assert "none.zip cannot be fetched (HTTPError: 404" in message
        (recipe / "bomb.zip").write_bytes(b"")
        zip_of_zeros(recipe / "bomb.zip", 70 * 2**20)
        assert "would unpack to 70 MB" in refused(f"{address}/bomb.zip")
        server.shutdown()
    message = refused(f"{address}/other.zip")
    assert "other.zip cannot be fetched (ConnectionError" in message


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serve files without a word."""

    def log_message(self, *arguments):
        """Say nothing."""


def zip_of_zeros(path, size):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weights.pth", bytes(size))


def test_archives_that_would_fill_the_disk_are_refused(recipe, tmp_path):
    for size, fault in ((65 * 2**20, "would unpack to 65 MB"), (2**20, "meta.yaml")):
        zip_of_zeros(tmp_path / "bomb.zip", size)
        assert fault in refused(tmp_path / "bomb.zip")
    assert not list((tmp_path / "cache").rglob("*.pth"))
    with tarfile.open(tmp_path / "bomb.tgz", "w:gz") as archive:
        info = tarfile.TarInfo("weights.pth")
        info.size = 80 * 2**20
        archive.addfile(info, io.BytesIO(bytes(info.size)))
    assert "would unpack to 80 MB" in refused(tmp_path / "bomb.tgz")


def test_archives_that_are_broken(recipe):
    packed = pack_experiment(recipe, write_recipe(recipe))
    whole = packed.read_bytes()
    half = len(whole) // 2
    bomb = "\n".join(
        ["a0: &a0 [x]"] + [f"a{n}: &a{n} [{f'*a{n - 1}, ' * 9}]" for n in range(1, 12)]
    )
    for damaged in (b"", whole[:half], b"junk" * 99):
        packed.write_bytes(damaged)
        assert "cannot be unpacked as a model" in refused(packed)
    flipped = bytearray(whole)
    flipped[half] ^= 1
    packed.write_bytes(flipped)
    assert "cannot be unpacked as a model (Bad CRC" in refused(packed)
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("meta.yaml", "files: {}\nyaml_files: {c: config.yaml}\n")
        archive.writestr("config.yaml", bomb)
    assert "its aliases repeat too much" in refused(packed)


def test_paths_of_a_config_hold_from_any_folder(recipe, tmp_path, monkeypatch):
    experiment = write_recipe(recipe)
    write_recipe(tmp_path / "other")  # same names, other statistics
    monkeypatch.chdir(tmp_path / "other")
    with paths_made_absolute(experiment / "config.yaml") as copy:
        settings = yaml.safe_load(copy.read_text())
    original = yaml.safe_load((experiment / "config.yaml").read_text())
    assert settings["normalize_conf"]["stats_file"] == str(recipe / STATS)
    settings["normalize_conf"] = original["normalize_conf"]
    assert settings == original
    assert not copy.exists()


def test_paths_are_found_above_a_linked_experiment(recipe, tmp_path):
    experiment = write_recipe(recipe)
    disk = tmp_path / "disk" / "tts_tiny"
    disk.parent.mkdir()
    experiment.rename(disk)
    experiment.symlink_to(disk)
    with paths_made_absolute(experiment / "config.yaml") as copy:
        settings = yaml.safe_load(copy.read_text())
    assert settings["normalize_conf"]["stats_file"] == str(recipe / STATS)


def test_what_is_no_configuration_is_refused(tmp_path):
    config = tmp_path / "config.yaml"
    for content in ("- a list", "a: [", "\0", "", "3"):
        config.write_text(content)
        with pytest.raises(UserError, match="is not a configuration of a training"):
            with paths_made_absolute(config):
                pass
