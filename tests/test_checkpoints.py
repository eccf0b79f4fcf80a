"""Scorers that load folders of weights, on tiny models with random weights."""

import json

import numpy as np
import pytest
import soundfile
import torch
from tiny_experiment import voice

from espnet_prune.cli import score
from espnet_prune.errors import UserError
from espnet_prune.evaluation.backends import WavLM, WhisperCheckpoint
from espnet_prune.evaluation.metrics import METRICS

transformers = pytest.importorskip("transformers")

SPECIAL = [
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|en|>",
    "<|translate|>",
    "<|transcribe|>",
    "<|startoflm|>",
    "<|startofprev|>",
    "<|nospeech|>",
    "<|notimestamps|>",
]


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    """Write a multilingual Whisper of one layer whose tokens are letters."""
    folder = tmp_path_factory.mktemp("whisper")
    letters = [*"abcdefghijklmnopqrstuvwxyz", "\u0120"]  # the last one is a space
    vocabulary = {token: number for number, token in enumerate(letters + SPECIAL)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.WhisperTokenizer(
        str(folder / "vocab.json"),
        str(folder / "merges.txt"),
        unk_token="<|endoftext|>",
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=SPECIAL[1:],
    )
    end, start = vocabulary["<|endoftext|>"], vocabulary["<|startoftranscript|>"]
    torch.manual_seed(0)
    model = transformers.WhisperForConditionalGeneration(
        transformers.WhisperConfig(
            vocab_size=len(vocabulary),
            d_model=16,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=16,
            decoder_ffn_dim=16,
            max_target_positions=32,
            pad_token_id=end,
            bos_token_id=end,
            eos_token_id=end,
            decoder_start_token_id=start,
            suppress_tokens=None,
            begin_suppress_tokens=None,
        )
    )
    model.generation_config = transformers.GenerationConfig(
        decoder_start_token_id=start,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        max_length=16,
        is_multilingual=True,
        lang_to_id={"<|en|>": vocabulary["<|en|>"]},
        task_to_id={
            "transcribe": vocabulary["<|transcribe|>"],
            "translate": vocabulary["<|translate|>"],
        },
        no_timestamps_token_id=vocabulary["<|notimestamps|>"],
        return_timestamps=False,
    )
    model.save_pretrained(folder)
    transformers.WhisperProcessor(
        transformers.WhisperFeatureExtractor(), tokenizer
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def wavlm(tmp_path_factory):
    """Write a WavLM of one layer that gives x-vectors of six numbers."""
    folder = tmp_path_factory.mktemp("wavlm")
    torch.manual_seed(0)
    transformers.WavLMForXVector(
        transformers.WavLMConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            conv_dim=(8,) * 7,
            num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=2,
            tdnn_dim=(8, 8, 8, 8, 8),
            xvector_output_dim=6,
        )
    ).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return folder


def test_whisper_reads_a_folder_of_weights(whisper, monkeypatch):
    monkeypatch.setenv("PRUNE_WHISPER", str(whisper))
    backend = WhisperCheckpoint()
    heard = backend.transcribe(voice())
    assert isinstance(heard, str) and heard == backend.transcribe(voice())
    assert set(heard) <= set("abcdefghijklmnopqrstuvwxyz ")
    # it is the model itself that speaks English and transcribes
    model, extractor = backend.model.model, backend.model.feature_extractor
    features = extractor(voice(), sampling_rate=16000, return_tensors="pt")
    expected = model.generate(
        features.input_features, num_beams=5, language="en", task="transcribe"
    )
    text = backend.model.tokenizer.decode(expected[0], skip_special_tokens=True)
    assert heard == text.strip()


def test_wavlm_reads_a_folder_of_weights(wavlm, monkeypatch):
    monkeypatch.setenv("PRUNE_WAVLM_SV", str(wavlm))
    backend = WavLM()
    wave = voice()
    found = backend.embed(wave)
    assert found.shape == (6,) and np.linalg.norm(found) == pytest.approx(1)
    model = transformers.WavLMForXVector.from_pretrained(wavlm).eval()
    with torch.no_grad():
        expected = model(torch.from_numpy(wave)[None]).embeddings[0].numpy()
    cosine = found @ expected / np.linalg.norm(expected)
    assert cosine == pytest.approx(1, abs=1e-4)
    assert not np.allclose(backend.embed(voice(pitch=300.0)), found, atol=1e-4)


def test_version_tells_one_folder_of_weights_from_another(wavlm, monkeypatch, tmp_path):
    monkeypatch.delenv("PRUNE_WAVLM_SV", raising=False)
    assert "microsoft/wavlm-base-plus-sv" in WavLM().version()
    monkeypatch.setenv("PRUNE_WAVLM_SV", str(wavlm))
    first = WavLM().version()
    assert wavlm.name in first and "transformers" in first
    other = tmp_path / wavlm.name
    other.mkdir()
    for file in wavlm.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    monkeypatch.setenv("PRUNE_WAVLM_SV", str(other))
    assert WavLM().version() == first
    weights = other / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert WavLM().version() != first


def test_score_takes_folders_of_weights(whisper, wavlm, tmp_path, monkeypatch):
    for variable in ("PRUNE_WHISPER", "PRUNE_WAVLM_SV"):
        monkeypatch.setenv(variable, "")  # restored after the test
    for name in ("wer_whisper_large_v3", "secs_wavlm_sv"):
        vars(METRICS[name].backend).pop("model", None)
    monkeypatch.chdir(tmp_path)
    data, wavs = tmp_path / "data", tmp_path / "wavs"
    data.mkdir(), wavs.mkdir()
    for speaker, pitch in (("ann", 220.0), ("bob", 120.0)):
        soundfile.write(data / f"{speaker}.wav", voice(pitch=pitch), 16000)
        soundfile.write(wavs / f"{speaker}_1.wav", voice(1.0, pitch=pitch), 16000)
    for file, value in (("text", "good day"), ("utt2spk", None), ("wav.scp", None)):
        lines = [
            f"{who}_1 {value or (who if file == 'utt2spk' else data / f'{who}.wav')}\n"
            for who in ("ann", "bob")
        ]
        (data / file).write_text("".join(lines))
    command = ["--data_dir", str(data), "--system", f"one={wavs}", "--nj", "1"]
    command += ["--output_dir", "scores", "--metrics"]
    command += ["wer_whisper_large_v3", "secs_wavlm_sv", "secs_other_wavlm_sv"]
    score.main([*command, "--whisper", str(whisper), "--wavlm_sv", str(wavlm)])
    lines = (tmp_path / "scores" / "one.jsonl").read_text().splitlines()
    assert len(lines) == 2
    for line in map(json.loads, lines):
        error = line["scores"]["wer_whisper_large_v3"]
        assert error["words"] == 2 and error["value"] == error["edits"] / 2
        assert -1 <= line["scores"]["secs_wavlm_sv"]["value"] <= 1
    for name in ("wer_whisper_large_v3", "secs_wavlm_sv"):
        vars(METRICS[name].backend).pop("model", None)
    with pytest.raises(UserError, match="--wavlm_sv data has no config.json"):
        score.main([*command, "--wavlm_sv", "data"])
