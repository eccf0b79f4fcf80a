"""fastspeech2.py: ESPnet's FastSpeech2, itself where nothing is pruned, and pruned.

Decoders are ESPnet's transformer and its conformer with both kinds of relative
positions. The legacy kind counts positions from the end of the longest utterance of
the batch, so ESPnet's own model then gives other frames in a batch than alone.
"""

import math

import numpy as np
import pytest
import soundfile
import torch
import yaml
from espnet2.bin.tts_inference import Text2Speech as ESPnetText2Speech
from espnet2.tasks.tts import tts_choices
from espnet2.tts.fastspeech2 import FastSpeech2
from espnet2.utils.get_default_kwargs import get_default_kwargs
from helpers import IDIM, ODIM, one_utterance, tiny_batch
from omniio import kaldi
from tiny_experiment import pack_experiment, voice, write_recipe
from tiny_training import EPOCHS, checkpoint, options, thresholds, train, write_corpus

from espnet_prune import PrunedFastSpeech2, PruneTTSTask, Text2Speech, UserError
from espnet_prune.attention import record_attention
from espnet_prune.cli import check as check_packed
from espnet_prune.cli.plan import plan
from espnet_prune.evaluation.history import read_experiments, threshold_rows
from espnet_prune.evaluation.maps import record_panel

SMALL = {
    "adim": 8,
    "aheads": 2,
    "elayers": 1,
    "eunits": 8,
    "dlayers": 2,
    "dunits": 8,
    "postnet_layers": 1,
    "postnet_chans": 4,
    "duration_predictor_chans": 4,
    "pitch_predictor_chans": 4,
    "energy_predictor_chans": 4,
    "use_masking": True,
}
DECODERS = {
    "transformer": {"decoder_type": "transformer"},
    "conformer": {"decoder_type": "conformer", "conformer_rel_pos_type": "latest"},
    "legacy_conformer": {"decoder_type": "conformer", "encoder_type": "conformer"},
}
PRUNINGS = {
    "vanilla": {"pruning": "vanilla"},
    "soft": {"pruning": "differentiable", "pruning_conf": {"threshold_init": 1.0}},
    "hard": {
        "pruning": "differentiable",
        "pruning_conf": {"phase": 2, "threshold_init": 1.0},
    },
}
GST = {
    "use_gst": True,
    "gst_heads": 2,
    "gst_conv_layers": 2,
    "gst_conv_chans_list": [2, 2],
    "gst_gru_units": 4,
}
NO_DROPOUT = dict.fromkeys(
    (
        "postnet_dropout_rate",
        "transformer_enc_dropout_rate",
        "transformer_enc_positional_dropout_rate",
        "transformer_enc_attn_dropout_rate",
        "transformer_dec_dropout_rate",
        "transformer_dec_positional_dropout_rate",
        "transformer_dec_attn_dropout_rate",
        "duration_predictor_dropout_rate",
        "pitch_predictor_dropout",
        "pitch_embed_dropout",
        "energy_predictor_dropout",
        "energy_embed_dropout",
    ),
    0.0,
)


def build(cls=PrunedFastSpeech2, **conf):
    """A tiny model, the same weights for both classes."""
    torch.manual_seed(0)
    return cls(idim=IDIM, odim=ODIM, **{**SMALL, **conf})


def tokens_of(batch):
    """The texts of a batch, each alone."""
    return [one_utterance(batch, b)["text"][0] for b in range(len(batch["text"]))]


def frames_of(model, batch):
    """The mel of each utterance, by the durations, pitch and energy of the data."""
    model.eval()
    record = []
    hook = model.criterion.register_forward_pre_hook(
        lambda _, args, kwargs: record.append(kwargs["after_outs"]), with_kwargs=True
    )
    with torch.no_grad():
        model(**batch)
    hook.remove()
    return [mel[:n] for mel, n in zip(record[0], batch["feats_lengths"], strict=True)]


# ---- what is not pruned is ESPnet's ----


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    "pruning",
    [{"pruning": "none"}, {"pruning": "differentiable", "pruning_conf": {"phase": 2}}],
)
def test_at_threshold_0_it_is_fastspeech2(decoder, pruning):
    theirs = build(FastSpeech2, **DECODERS[decoder]).eval()
    ours = build(**DECODERS[decoder], **pruning, encoder_pruning="none").eval()
    batch = tiny_batch()
    loss, stats, _ = theirs(**batch)
    our_loss, our_stats, weight = ours(**batch)
    torch.testing.assert_close(our_loss, loss, atol=1e-6, rtol=1e-6)
    for name in stats:
        torch.testing.assert_close(our_stats[name], stats[name], atol=1e-6, rtol=1e-6)
    assert weight == 3
    for mine, other in zip(
        frames_of(ours, batch), frames_of(theirs, batch), strict=True
    ):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-6)
    said, expected = (m.batch_inference(tokens_of(batch)) for m in (ours, theirs))
    assert [len(feat) for feat in said["feat_gen"]] == [
        len(feat) for feat in expected["feat_gen"]
    ]
    for mine, other in zip(said["feat_gen"], expected["feat_gen"], strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("pruning", PRUNINGS)
def test_pruning_changes_what_the_decoder_does(decoder, pruning):
    batch = tiny_batch()
    dense, pruned = (
        build(**DECODERS[decoder]),
        build(**DECODERS[decoder], **PRUNINGS[pruning]),
    )
    for before, after in zip(
        frames_of(dense, batch), frames_of(pruned, batch), strict=True
    ):
        assert (before - after).abs().max() > 1e-4
    assert len(pruned.decoder_attentions) == SMALL["dlayers"]
    encoder = pruned.encoder.encoders[0].self_attn
    assert encoder.pruning == "none" and not hasattr(encoder, "theta")


@pytest.mark.parametrize("pruning", PRUNINGS)
def test_statistics_of_every_layer_are_reported(pruning):
    model = build(**PRUNINGS[pruning], encoder_pruning="vanilla")
    batch = tiny_batch()
    with record_attention(model.decoder) as record:
        loss, stats, _ = model(**batch)
    for prefix, layers in (("", (1, 2)), ("encoder_", (1,))):
        for layer in layers:
            assert stats[f"{prefix}threshold_{layer}"] == 1
            share = stats[f"{prefix}kept_share_{layer}"]
            assert 0 < share < stats[f"{prefix}kept_mass_{layer}"] < 1
    terms = [stats[n] for n in ("l1_loss", "duration_loss", "pitch_loss")]
    terms += [stats["energy_loss"], stats.get("sparsity_loss", 0)]
    torch.testing.assert_close(loss, sum(terms))
    assert ("sparsity_loss" in stats) == (pruning == "soft")
    assert ("soft_mean_2" in stats) == (pruning == "soft")
    if pruning == "soft":
        frames = batch["feats_lengths"].tolist()
        means = torch.stack(
            [
                torch.stack(
                    [
                        mask[:, :n, :n].mean((1, 2))
                        for mask, n in zip(maps.mask, frames, strict=True)
                    ]
                ).mean(dim=0)
                for maps in record
            ]
        )
        expected = (means - 0.45).square().mean()
        torch.testing.assert_close(stats["sparsity_loss"][0], expected)


# ---- lengths ----


@pytest.mark.parametrize("decoder", ["transformer", "conformer"])
@pytest.mark.parametrize("pruning", PRUNINGS)
def test_a_batch_gives_what_its_utterances_give_alone(decoder, pruning):
    model = build(**DECODERS[decoder], **PRUNINGS[pruning])
    batch = tiny_batch()
    together = frames_of(model, batch)
    for b in range(3):
        (alone,) = frames_of(model, one_utterance(batch, b))
        torch.testing.assert_close(alone, together[b], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("decoder", ["transformer", "conformer"])
def test_texts_said_together_sound_as_said_alone(decoder):
    model = build(**DECODERS[decoder], **PRUNINGS["hard"]).eval()
    with torch.no_grad():
        model.duration_predictor.linear.bias.fill_(math.log(4))
    texts = tokens_of(tiny_batch())
    together = model.batch_inference(texts, alpha=2.0)
    for text, feat in zip(texts, together["feat_gen"], strict=True):
        alone = model.inference(text, alpha=2.0)["feat_gen"]
        assert len(alone) > 2 * len(text)
        torch.testing.assert_close(feat, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("decoder", DECODERS)
def test_masks_follow_the_equation_in_every_layer(decoder):
    model = build(**DECODERS[decoder], **PRUNINGS["hard"]).eval()
    batch = tiny_batch()
    with record_attention(model.decoder) as record:
        model(**batch)
    assert len(record) == SMALL["dlayers"]
    for maps in record:
        for b, n in enumerate(batch["feats_lengths"]):
            dense, mask = maps.dense[b, :, :n, :n], maps.mask[b, :, :n, :n]
            torch.testing.assert_close(dense.sum(-1), torch.ones(2, n))
            assert torch.equal(mask, dense >= 1 / n)
            assert mask.any() and not mask.all()


def test_synthesis_masks_are_hard_in_phase_1_too():
    soft, hard = (build(**PRUNINGS[name]).eval() for name in ("soft", "hard"))
    text = tokens_of(tiny_batch())[0]
    expected = hard.inference(text)["feat_gen"]
    torch.testing.assert_close(soft.inference(text)["feat_gen"], expected)
    batch = one_utterance(tiny_batch(), 0)
    given = {n: batch[n][0] for n in ("text", "durations", "pitch", "energy")}
    forced = soft.inference(**given, use_teacher_forcing=True)["feat_gen"]
    expected = hard.inference(**given, use_teacher_forcing=True)["feat_gen"]
    assert len(forced) == batch["feats_lengths"][0]
    torch.testing.assert_close(forced, expected)


# ---- training ----


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("phase", [1, 2])
def test_a_step_moves_thresholds_in_phase_1_only(decoder, phase):
    conf = {"phase": phase, "threshold_init": 1.0}
    model = build(**DECODERS[decoder], pruning="differentiable", pruning_conf=conf)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model(**tiny_batch())[0].backward()
    optimiser.step()
    after = model.state_dict()
    thetas = [name for name in after if name.endswith(".theta")]
    assert len(thetas) == SMALL["dlayers"]
    for name in thetas:
        assert (after[name] != before[name]) == (phase == 1)
    name = "decoder.encoders.0.self_attn.linear_q.weight"
    assert not torch.equal(after[name], before[name])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def setting(decoder):
    return {"tts": "pruned_fastspeech2", "tiny": {**SMALL, **DECODERS[decoder]}}


@pytest.fixture(scope="module", params=["transformer", "legacy_conformer"])
def runs(request, corpus, tmp_path_factory):
    """Folders of both phases, trained by ESPnet's task."""
    folder = tmp_path_factory.mktemp("runs")
    conf = setting(request.param)
    train(corpus, folder / "phase1", **conf)
    train(corpus, folder / "phase2", phase=2, phase1_dir=folder / "phase1", **conf)
    return folder


def test_both_phases_train(runs):
    first, second = (checkpoint(runs / f"phase{n}") for n in (1, 2))
    learned = thresholds(first)
    assert len(learned) == 2 and all(abs(theta) > 1e-4 for theta in learned.values())
    assert thresholds(second) == learned
    name = "tts.feat_out.weight"
    assert not torch.equal(first["model"][name], second["model"][name])
    assert "sparsity_loss" in first["reporter"]["stats"][EPOCHS]["train"]
    assert "sparsity_loss" not in second["reporter"]["stats"][1]["train"]
    # after the switch the masks are hard
    model, _ = PruneTTSTask.build_model_from_file(
        runs / "phase2" / "config.yaml", runs / "phase2" / "valid.loss.ave.pth"
    )
    with record_attention(model.tts.decoder) as record:
        model.tts(**tiny_batch())
    assert [maps.mask.dtype for maps in record] == [torch.bool] * 2


def test_reports_know_the_model(runs):
    folders = [runs / "phase1", runs / "phase2"]
    rows = threshold_rows(read_experiments(folders))
    assert [(row["phase"], row["layer"]) for row in rows] == [
        (1, 1),
        (1, 2),
        (2, 1),
        (2, 2),
    ]
    assert all(0 < row["kept_share"] <= row["kept_mass"] <= 1 for row in rows)


def test_phase_2_is_of_the_same_model(corpus, runs, tmp_path):
    conf = setting("transformer")
    conf["tiny"]["dunits"] = 16
    with pytest.raises(UserError, match="with tts_conf.(dunits|decoder_type)"):
        train(corpus, tmp_path / "exp", 2, phase1_dir=runs / "phase1", **conf)
    with pytest.raises(UserError, match="pruned_fastspeech2, not with"):
        train(corpus, tmp_path / "exp", 2, phase1_dir=runs / "phase1", tiny={})
    # dropout is free to change, as of stylespeech
    before = yaml.safe_load((runs / "phase1" / "config.yaml").read_text())["tts_conf"]
    conf["tiny"] = {**before, **NO_DROPOUT}
    conf["tiny"].pop("pruning"), conf["tiny"].pop("pruning_conf")
    states = train(corpus, tmp_path / "exp", 2, 1, runs / "phase1", **conf)
    assert thresholds(states) == thresholds(checkpoint(runs / "phase1"))


def test_plan_has_two_phases(corpus, tmp_path):
    options(corpus, tmp_path / "exp", epochs=30, **setting("conformer"))
    assert plan(tmp_path / "exp.yaml", teacher_dumpdir="x") == {
        "pruning": "differentiable",
        "phase1_epochs": 4,
        "phase2_epochs": 26,
    }
    with pytest.raises(UserError, match="pruned_fastspeech2 needs durations"):
        plan(tmp_path / "exp.yaml")


# ---- settings ----


def test_name_is_registered_and_print_config_shows_every_setting():
    assert tts_choices.get_class("pruned_fastspeech2") is PrunedFastSpeech2
    shown = get_default_kwargs(PrunedFastSpeech2)
    assert get_default_kwargs(FastSpeech2).items() <= shown.items()
    assert shown["pruning"] == "none" and "fastspeech2_conf" not in shown


@pytest.mark.parametrize(
    "conf, message",
    [
        ({"adims": 8}, "pruned_fastspeech2 has no setting adims; did you mean adim"),
        ({"adim": 9}, "adim / aheads is 9 / 2"),
        ({"pruning": "dense"}, "pruning is 'dense': choose one of none"),
        ({"encoder_pruning": "dense"}, "encoder_pruning is 'dense'"),
        ({"pruning_conf": {"sparsity": 1}}, "did you mean sparsity_ratio"),
        ({"decoder_type": "lstm"}, "lstm is not supported"),
        ({"dlayers": "two"}, "dlayers.*is not an instance of int"),
        ({"dlayers": 0}, "no layer with self_attn"),
        ({"plugin_version": "999.0"}, "trained with espnet_prune 999.0"),
    ],
)
def test_bad_settings_end_in_one_line(conf, message):
    with pytest.raises(UserError, match=message):
        build(**conf)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"durations": torch.ones(3, 7, dtype=torch.long)}, "do not add up"),
        ({"durations": torch.ones(3, 5, dtype=torch.long)}, "5 numbers for a text"),
    ],
)
def test_durations_of_other_data_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        build()(**{**tiny_batch(), **change})


@pytest.mark.parametrize(
    "weight, alpha, message",
    [
        (math.nan, 1.0, "durations are NaN or infinite"),
        (math.inf, 1.0, "durations are NaN or infinite"),
        (200.0, 1.0, "durations are NaN or infinite"),  # exp(200) has no float32
        (15.0, 1.0, "would take .* frames"),
        (math.log(6), 1000.0, "would take .* frames at speed 0.001"),
    ],
)
def test_predicted_durations_that_are_no_lengths_are_refused(weight, alpha, message):
    model = build().eval()
    model.duration_predictor.linear.weight.data.zero_()
    model.duration_predictor.linear.bias.data.fill_(weight)
    text = tokens_of(tiny_batch())[0]
    with pytest.raises(UserError, match=message):
        model.inference(text, alpha=alpha)
    model.duration_predictor.linear.bias.data.fill_(math.log(6))
    assert model.inference(text)["duration"].unique().tolist() == [5]


# ---- voices and Text2Speech ----


def test_style_vector_stands_for_a_reference():
    model = build(**GST, **PRUNINGS["hard"]).eval()
    model.gst.stl.gst_embs.data *= 30  # voices that differ
    batch = tiny_batch()
    texts, feats = tokens_of(batch), batch["feats"]
    styles = model.encode_style(feats, batch["feats_lengths"])
    assert styles.shape == (3, 8)
    assert (styles[0] - styles[1]).abs().max() > 1e-3
    by_style = model.batch_inference(texts, style_vector=styles)["feat_gen"]
    by_mels = model.batch_inference(
        texts, feats=feats, feats_lengths=batch["feats_lengths"]
    )["feat_gen"]
    for b, (text, length) in enumerate(zip(texts, batch["feats_lengths"], strict=True)):
        alone = model.inference(text, feats=feats[b, :length])["feat_gen"]
        again = model.inference(text, style_vector=styles[b])["feat_gen"]
        for other in (by_style[b], by_mels[b], again):
            torch.testing.assert_close(other, alone, atol=1e-5, rtol=1e-5)


def experiment_of(folder, **conf):
    """Folder of an untrained model whose tokens take five frames each."""
    experiment = write_recipe(
        folder,
        tts="pruned_fastspeech2",
        tts_conf={**SMALL, **PRUNINGS["hard"], **conf},
    )
    weights = experiment / "train.loss.ave.pth"
    state = torch.load(weights)
    state["tts.duration_predictor.linear.weight"].zero_()
    state["tts.duration_predictor.linear.bias"].fill_(math.log(6))
    torch.save(state, weights)
    return experiment


def test_a_voice_is_cloned_by_the_same_call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # ESPnet reads statistics from the recipe's folder
    experiment = experiment_of(tmp_path, **GST)
    text2speech = Text2Speech.from_pretrained(experiment)
    reference = voice()
    said = text2speech("hello there", speech=reference)
    assert said["duration"].tolist() == [5] * 12
    assert said["feat_gen"].shape == (60, 80) and torch.isfinite(said["wav"]).all()
    theirs = ESPnetText2Speech(
        experiment / "config.yaml", experiment / "train.loss.ave.pth"
    )
    expected = theirs("hello there", speech=torch.tensor(reference))
    torch.testing.assert_close(
        said["feat_gen"], expected["feat_gen"], atol=1e-4, rtol=1e-4
    )
    style = text2speech.style_vector(reference)
    again = text2speech("hello there", style_vector=style)
    torch.testing.assert_close(said["feat_gen"], again["feat_gen"])


def test_models_without_references_speak_as_in_espnet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    experiment = experiment_of(tmp_path, spks=3, spk_embed_dim=4)
    text2speech = Text2Speech.from_pretrained(experiment)
    given = {"sids": torch.tensor([2]), "spembs": torch.ones(4)}
    said = text2speech("hello there", **given, speed=0.5)
    assert said["feat_gen"].shape == (120, 80) and torch.isfinite(said["wav"]).all()
    theirs = ESPnetText2Speech(
        experiment / "config.yaml", experiment / "train.loss.ave.pth"
    )
    theirs.vocoder = None
    expected = theirs("hello there", **given, decode_conf={"alpha": 2.0})
    torch.testing.assert_close(said["feat_gen"], expected["feat_gen"])
    other = text2speech("hello there", **{**given, "sids": torch.tensor([1])})
    assert not torch.allclose(other["feat_gen"], said["feat_gen"][:60], atol=1e-4)
    # a long text is said in parts, as by stylespeech
    long = text2speech("hello there. " * 30, **given)
    assert len(long["duration"]) > 380
    for wrong, message in (
        ({"sids": given["sids"]}, "needs spembs"),
        (dict(given, speech=voice()), "takes no reference"),
        (dict(given, style_vector=torch.ones(8)), "takes no reference"),
    ):
        with pytest.raises(UserError, match=message):
            text2speech("hello", **wrong)
    with pytest.raises(UserError, match="one text per call"):
        text2speech.batch(["hello"], [voice()])
    with pytest.raises(UserError, match="takes no reference"):
        text2speech.style_vector(voice())


@pytest.mark.parametrize("voices", [GST, {"spks": 3, "langs": 2, "spk_embed_dim": 4}])
def test_attention_and_packing_find_the_voice(tmp_path, monkeypatch, capsys, voices):
    monkeypatch.chdir(tmp_path)
    experiment = experiment_of(tmp_path, **voices)
    soundfile.write("ref.wav", voice(), 16000)
    kaldi.save_ark("embed.ark", {"a": np.ones(4, "float32")}, scp="embed.scp")
    for name, content in (
        ("text", "hello"),
        ("wav.scp", tmp_path / "ref.wav"),
        ("utt2sid", 2),
        ("utt2lid", 1),
    ):
        (tmp_path / name).write_text(f"a {content}\n")
    record = (experiment, "train.loss.ave.pth", tmp_path, "a")
    panel = record_panel(*record, spembs="embed.scp")
    assert panel.title.endswith("phase 2, hard mask")
    assert panel.thresholds == [1.0, 1.0]
    assert [layer.dense.shape for layer in panel.layers] == [(1, 2, 30, 30)] * 2

    text2speech = Text2Speech.from_pretrained(experiment)
    speech, _ = soundfile.read("ref.wav", dtype="float32")
    given = {
        "sids": np.array([2]),
        "lids": np.array([1]),
        "spembs": np.ones(4, "float32"),
    }
    given = {"speech": speech} if voices is GST else given
    wav = text2speech("hello", **given)["wav"].numpy()
    soundfile.write("a.wav", wav, 16000, "PCM_16")
    packed = pack_experiment(tmp_path, experiment)
    options = ["--data_dir", ".", "--said", ".", "--spembs", "embed.scp"]
    check_packed.main([str(packed), *options])
    assert "produces a bit for bit" in capsys.readouterr().out

    (tmp_path / "utt2sid").unlink()
    if voices is not GST:
        with pytest.raises(
            UserError, match="contains no utt2sid, which this model needs"
        ):
            record_panel(*record, spembs="embed.scp")
        (tmp_path / "utt2sid").write_text("a 2\n")
        with pytest.raises(UserError, match="no speaker embedding.*--spembs"):
            record_panel(*record)
