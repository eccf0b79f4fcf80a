"""Finding a model: folders, archives, tags, and the paths inside a config.yaml."""

import os
import zipfile

import pytest
import yaml
from tiny_experiment import STATS, pack_experiment, write_recipe

from espnet_prune.errors import UserError
from espnet_prune.speech.pretrained import find_model, paths_made_absolute, unpack_model


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "recipe"


def refused(*arguments):
    with pytest.raises(UserError) as error:
        find_model(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_experiment_folder(recipe):
    experiment = write_recipe(recipe)
    assert find_model(experiment) == dict(
        train_config=str(experiment / "config.yaml"),
        model_file=str(experiment / "train.loss.ave.pth"),
    )
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
    settings = yaml.safe_load(open(files["train_config"]))
    assert os.path.isfile(settings["normalize_conf"]["stats_file"])
    os.utime(files["model_file"], (1, 1))
    assert find_model(str(packed)) == files
    assert os.stat(files["model_file"]).st_mtime == 1, "unpacked a second time"

    before = open(files["model_file"], "rb").read()
    pack_experiment(recipe, write_recipe(recipe, seed=1))
    assert find_model(packed) == files
    assert open(files["model_file"], "rb").read() != before


def test_interrupted_unpacking_is_not_taken_for_whole(recipe, monkeypatch):
    packed = pack_experiment(recipe, write_recipe(recipe))

    def killed(archive, folder, use_cache):
        folder.mkdir(parents=True)
        (folder / "meta.yaml").write_text("{}")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("espnet_prune.speech.pretrained.unpack", killed)
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
    whole.write_text("")  # as if the power had failed
    assert find_model(packed) == files


def test_a_cache_that_cannot_be_made_is_refused(recipe, tmp_path, monkeypatch):
    packed = pack_experiment(recipe, write_recipe(recipe))
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "cache"))
    assert "(Not a directory): set XDG_CACHE_HOME to a folder" in refused(packed)


def test_archives_that_hold_no_model(recipe, tmp_path):
    text = tmp_path / "model.zip"
    text.write_text("hello")
    assert "cannot be unpacked as a model" in refused(text)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("meta.yaml", "files: {}\nyaml_files: {}\n")
    assert "is no packed TTS model" in refused(tmp_path / "other.zip")


@pytest.mark.parametrize("name", ["/none/tts", "missing.zip", "a/b/c", "tts_mine"])
def test_missing_paths_are_not_looked_up_on_the_network(name, monkeypatch):
    monkeypatch.setattr("espnet_prune.speech.pretrained.download_pretrained", None)
    assert f"there is no model {name}" in refused(name)


def test_tags(monkeypatch):
    files = dict(train_config="c.yaml", model_file="m.pth", other="x")
    asked = []

    def download(tag):
        asked.append(tag)
        return dict(files)

    monkeypatch.setattr("espnet_prune.speech.pretrained.download_pretrained", download)
    found = find_model("someone/stylespeech")
    assert found == dict(train_config="c.yaml", model_file="m.pth")
    assert asked == ["someone/stylespeech"]

    def offline(tag):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr("espnet_prune.speech.pretrained.download_pretrained", offline)
    message = refused("exp/tts_mistyped")
    assert "exp/tts_mistyped is no folder or file here" in message
    assert "ConnectionError: no route" in message


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


def test_config_that_is_none(tmp_path):
    config = tmp_path / "config.yaml"
    for content in ("- a list", "a: [", "\0"):
        config.write_text(content)
        with pytest.raises(UserError, match="is no configuration of a training"):
            with paths_made_absolute(config):
                pass
