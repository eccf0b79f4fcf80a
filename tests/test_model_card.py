"""The verb card: the card, and the model that it loads, as a stranger would."""

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import markdown
import pytest
import soundfile
import yaml
from tiny_experiment import pack_experiment, voice, write_recipe

from espnet_prune import UserError, __version__
from espnet_prune.cli.card import main
from espnet_prune.evaluation import documents
from espnet_prune.evaluation.documents import Document

# Runs in a fresh process: the registering of the model is what the card is about.
STRANGER = """
import json, sys
import pandas
import espnet_model_zoo.downloader as zoo

tag, archive, snapshot = json.loads(sys.argv[1])
table = pandas.DataFrame(
    {"name": ["someone/else", tag], "url": ["https://a.invalid/x.zip", archive]}
)
zoo.pd.read_csv = lambda *_, **__: table
asked = []
def download(name, **options):
    asked.append(name)
    return snapshot
zoo.snapshot_download = download

code = open("card.py", encoding="utf-8").read()
espnets = (
    "from espnet2.bin.tts_inference import Text2Speech\\n"
    f"Text2Speech.from_pretrained({tag!r})\\n"
)
try:
    exec(espnets, {})
except ValueError as error:
    print("REFUSED", error)
exec(code, {})
exec(espnets, {})
print("ASKED", asked)
table.drop(1, inplace=True)  # no row for it: the zoo goes to Hugging Face
exec(code, {})
print("ASKED", asked)
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    recipe = tmp_path / "egs2" / "tiny" / "tts1"
    data = recipe / "dump" / "raw" / "train"
    data.mkdir(parents=True)
    (data / "text").write_text("u1 a\nu2 b\nu3 c\n")
    (data / "utt2spk").write_text("u1 s1\nu2 s1\nu3 s2\n")
    shapes = recipe / "exp" / "stats" / "speech_shape"
    shapes.parent.mkdir(parents=True)
    shapes.write_text(f"u1 {16000 * 3600}\nu2 {16000 * 1800}\nu3 {16000 * 1800}\n")
    return recipe


def write_model(recipe, **changes):
    return write_recipe(
        recipe,
        train_data_path_and_name_and_type=[
            ["dump/raw/train/text", "text", "text"],
            ["dump/raw/train/wav.scp", "speech", "sound"],
        ],
        train_shape_file=["exp/stats/text_shape", "exp/stats/speech_shape"],
        version="202611",
        **changes,
    )


def code_of(card):
    (code,) = re.findall(r"```python\n(.*?)\n```", card, re.DOTALL)
    return code


def test_card_is_packed_and_its_code_runs_by_the_tag_of_the_zoo(recipe, tmp_path):
    pruning = {"pruning": "differentiable", "pruning_conf": {"phase": 2}}
    experiment = write_model(recipe, tts_conf={**pruning, "plugin_version": "0.1.0"})
    archive = pack_experiment(recipe, experiment)
    main([str(experiment), "--archive", str(archive), "--tag", "me/tiny"])
    with zipfile.ZipFile(archive) as packed:
        assert packed.testzip() is None
        card = packed.read("README.md").decode()
        snapshot = tmp_path / "hub" / "snapshot"  # what the upload stage pushes
        packed.extractall(snapshot)
    assert card == (experiment / "README.md").read_text()

    work = tmp_path / "work"
    work.mkdir()
    (work / "card.py").write_text(code_of(card))
    soundfile.write(work / "reference.wav", voice(2.0, fs=44100), 44100)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            STRANGER,
            json.dumps(["me/tiny", str(archive), str(snapshot)]),
        ],
        capture_output=True,
        text=True,
        cwd=work,
        env={"HOME": str(work), "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    refused, *asked = done.stdout.splitlines()
    # without the plugin ESPnet knows no such model; the card's first line mends that
    assert "REFUSED --tts must be one of" in refused
    # a tag of the zoo's table first, one that only Hugging Face knows then
    assert asked == ["ASKED []", "ASKED ['me/tiny']"]
    wave, fs = soundfile.read(work / "out.wav")
    assert fs == 16000 and len(wave) > 1000 and wave.any()


def test_card_says_what_a_user_has_to_know(recipe, capsys):
    pruning = {"pruning": "differentiable", "pruning_conf": {"sparsity_ratio": 0.4}}
    experiment = write_model(
        recipe, tts_conf={**pruning, "plugin_version": "0.0.9"}, cleaner="tacotron"
    )
    scores = experiment / "scores" / "test_unseen"
    scores.mkdir(parents=True)
    blocks = [{"heading": "women"}, {"table": [["system"], ["a"]]}]
    document = Document("Scores on VCTK", blocks)
    documents.write(scores, documents.SCORES, document, [{"system": "a"}])
    report = experiment / "report"
    report.mkdir()
    layer = {
        "phase": 1,
        "epoch": 3,
        "layer": 1,
        "threshold": 1.23,
        "mean_soft_mask": 0.4,
    }
    content = {"layers": [dict(layer, kept_share=0.5, kept_mass=None)]}
    content["experiments"] = [{"folder": "/home/me/exp"}]
    (report / "thresholds.json").write_text(json.dumps(content))
    options = ["--vocoder", "hifigan", "--license", "cc-by-4.0", "--text", 'Say "é"']
    main([str(experiment), *options, "--corpus", "LibriTTS", "--language", "de"])
    card = (experiment / "README.md").read_text()
    assert capsys.readouterr().out.strip() == str(experiment / "README.md")
    _, front, body = card.split("---\n", 2)
    facts = yaml.safe_load(front)
    assert facts["license"] == "cc-by-4.0" and facts["language"] == "de"
    assert facts["library_name"] == "espnet"
    first = body.splitlines()[0]
    assert first.startswith("`import espnet_prune` comes first")
    assert "--tts must be one of" in first
    code = code_of(card)
    assert code.startswith("import espnet_prune")
    assert 'from_pretrained(\n    "tts_tiny", vocoder="hifigan"\n)' in code
    compile(code, "card", "exec")
    # no index has the package: it is installed from its source
    assert "pip install '.[hifigan,g2p_en]'" in card and ">=" not in card
    assert "It needs espnet_prune 0.0.9 or newer" in card
    assert "in the voice of a reference recording" in card and "at 16000 Hz" in card
    assert "LibriTTS (3 utterances, 2 speakers, 2 hours; set train)" in card
    assert "learned thresholds, R = 0.4, phase 1" in card and "ESPnet 202611" in card
    assert "### Scores on VCTK\n\n#### women\n\n|" in card
    (line,) = [x for x in card.splitlines() if "1.23" in x]
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells == ["1", "3", "1", "1.23", "0.400", "50.0 %", "-"]
    assert "### Thresholds\n\n|" in card and "/home/me" not in card
    assert "Licence of the weights: cc-by-4.0." in card
    packed = yaml.safe_load(re.search(r"```yaml\n(.*?)```", card, re.DOTALL)[1])
    assert packed == yaml.safe_load((experiment / "config.yaml").read_text())


def test_what_nobody_said_is_to_be_filled_in(recipe):
    experiment = write_model(recipe, tts_conf={"pruning": "vanilla"})
    (recipe / "dump" / "raw" / "train" / "text").unlink()
    options = ["--vocoder", "/home/me/my_hifigan"]
    main([str(experiment), *options, "--output", str(recipe / "new" / "card.md")])
    card = (recipe / "new" / "card.md").read_text()
    assert "license: other" in card and "language" not in card.split("---")[1]
    assert "Licence of the weights: to be filled in." in card
    assert "## Training data\n\nto be filled in\n" in card
    assert "Not scored." in card and "fixed thresholds" in card
    assert f"version {__version__} or newer:\n\n```sh\npip install .\n```" in card
    url = "git+https://example.org/espnet_prune"
    main([str(experiment), "--plugin_url", url, "--output", str(recipe / "card.md")])
    card_with_url = (recipe / "card.md").read_text()
    assert f"pip install 'espnet_prune @ {url}'" in card_with_url
    assert "vocoder=" not in code_of(card) and "/home/me" not in card
    assert "a vocoder, my_hifigan, that is not in the archive" in card
    assert not (experiment / "README.md").exists()


@pytest.mark.parametrize(
    "conf, arguments",
    [
        ({"use_gst": True}, 'speech="reference.wav"'),
        ({"spks": 3, "langs": 2}, "sids=torch.tensor([1]), lids=torch.tensor([1])"),
        ({"spk_embed_dim": 8}, 'spembs=torch.load("speaker_embedding.pt")'),
    ],
)
def test_example_of_other_models_gives_what_they_take(tmp_path, conf, arguments):
    config = {
        "tts": "pruned_fastspeech2",
        "tts_conf": conf,
        "train_data_path_and_name_and_type": [],
        "train_shape_file": [],
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    main([str(tmp_path), "--text", "Hi"])
    card = (tmp_path / "README.md").read_text()
    assert ("reference recording" in card) == ("use_gst" in conf)
    code = code_of(card)
    assert f'text2speech("Hi", {arguments})' in code
    assert ("import torch" in code) == ("torch" in arguments)
    compile(code, "card", "exec")


def test_packing_again_replaces_the_card(recipe):
    experiment = write_model(recipe)
    archive = pack_experiment(recipe, experiment)
    with zipfile.ZipFile(archive) as packed:
        before = {entry.filename: entry.CRC for entry in packed.infolist()}
    for tag in ("me/one", "me/two"):
        main([str(experiment), "--archive", str(archive), "--tag", tag])
    with zipfile.ZipFile(archive) as packed:
        after = {entry.filename: entry.CRC for entry in packed.infolist()}
        names = packed.namelist()
        assert '"me/two"' in packed.read("README.md").decode()
    assert sorted(names) == sorted([*before, "README.md"])
    assert before.items() <= after.items()


def test_what_cannot_be_described_is_refused(recipe, tmp_path):
    experiment = write_model(recipe)
    text = tmp_path / "x.zip"
    text.write_text("hello")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.yaml").write_text("tts: tacotron2\n")
    for arguments, fault in (
        ([str(tmp_path)], "contains no config.yaml"),
        ([str(other)], "tts: tacotron2, not of stylespeech or"),
        ([str(experiment), "--archive", str(text)], "x.zip is not a zip archive"),
        ([str(experiment), "--archive", str(recipe / "n.zip")], "n.zip is not a zip"),
        ([str(experiment), "--scores", str(tmp_path)], "contains no tables"),
        ([str(experiment), "--plugin_url", "x' ; touch y"], "is not an address that"),
        ([str(experiment), "--plugin_url", "git+https://x/y\nz"], "is not an address"),
    ):
        with pytest.raises(UserError, match=fault):
            main(arguments)
    assert not (experiment / "README.md").exists()
    assert text.read_text() == "hello"


def test_nothing_that_a_configuration_says_becomes_part_of_a_command(tmp_path):
    def write(**settings):
        config = dict(tts="stylespeech", **settings)
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))

    for version in ('0.1.0"; touch F; "', "0.1.0\ntouch F", "$(touch F)", ["0.1.0"]):
        write(tts_conf={"plugin_version": version})
        with pytest.raises(UserError, match="plugin_version .* is not a version; put"):
            main([str(tmp_path)])
        assert not (tmp_path / "README.md").exists()
    write(odd="a\n```\n# Free\n````\n<script>", version="x\n# 1")
    main([str(tmp_path), "--text", 'Hi"); import os; ("', "--tag", "me/<b>x"])
    card = (tmp_path / "README.md").read_text()
    html = markdown.markdown(card.split("---\n", 2)[2], extensions=["fenced_code"])
    titles = re.findall(r"<h1>(.*?)</h1>", html)
    assert [t.replace("&gt;", ">") for t in titles] == [
        "me/&lt;b>x"
    ] and "<script>" not in html
    (said,) = [line for line in code_of(card).splitlines() if "import os" in line]
    assert said.startswith('wav = text2speech("Hi\\"); import os; (\\""')


def test_results_of_an_older_version_are_not_left_out_in_silence(recipe):
    experiment = write_model(recipe)
    (experiment / "scores" / "test").mkdir(parents=True)
    (experiment / "scores" / "test" / "scores.md").write_text("# Scores\n")
    with pytest.raises(UserError, match="test contains no tables .* run these again"):
        main([str(experiment)])
