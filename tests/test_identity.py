"""identity.py: only the same training may continue a training or use its weights."""

import json
import logging
import multiprocessing
import os
import resource
import shutil
import signal

import numpy as np
import pytest
import soundfile
import torch
import yaml
from tiny_training import (
    FRAMES,
    LR,
    TEXTS,
    TOKENS,
    checkpoint,
    options,
    same,
    train,
    write_corpus,
)

from espnet_prune import PruneTTSTask, UserError
from espnet_prune.errors import sent_message
from espnet_prune.files import lock_folder
from espnet_prune.speech.pretrained import paths_made_absolute
from espnet_prune.training.identity import (
    RECORD,
    read_identity,
    require_fresh_models,
    write_identity,
)
from espnet_prune.training.task import CheckedPreprocessor


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = write_corpus(tmp_path_factory.mktemp("corpus"))
    write_statistics(folder / "stats.npz", 0.0)
    return folder


def write_statistics(path, mean):
    n_mels = 6
    np.savez(
        path,
        count=100,
        sum=np.full(n_mels, 100 * mean),
        sum_square=np.full(n_mels, 100 * (mean**2 + 1)),
    )


def normalised(corpus):
    return {
        "normalize": "global_mvn",
        "normalize_conf": {"stats_file": str(corpus / "stats.npz")},
    }


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    """Experiment folder of one epoch of phase 1."""
    folder = tmp_path_factory.mktemp("trained") / "phase1"
    train(corpus, folder, epochs=1, **normalised(corpus))
    return folder


@pytest.fixture
def own(corpus, trained, tmp_path):
    """Copies of corpus and experiment, to change."""
    shutil.copytree(corpus, tmp_path / "corpus")
    scp = tmp_path / "corpus" / "wav.scp"
    scp.write_text(scp.read_text().replace(str(corpus), str(tmp_path / "corpus")))
    shutil.copytree(trained, tmp_path / "phase1", symlinks=True)
    return tmp_path


def go_on(folder, epochs=1, output="phase1", **changes):
    """Continue the training in a folder of ``own``."""
    corpus = folder / "corpus"
    changes = {**normalised(corpus), **changes}
    return train(corpus, folder / output, epochs=epochs, **changes)


def refuses(folder, message, **changes):
    before = checkpoint(folder / "phase1")
    with pytest.raises(UserError, match=message):
        go_on(folder, 2, **changes)
    assert same(before, checkpoint(folder / "phase1"))


# ---- the same folder ----


def test_the_same_training_goes_on(own):
    assert go_on(own, 2)["reporter"]["epoch"] == 2


def test_a_record_survives_a_rewritten_configuration(own):
    before = read_identity(own / "phase1")
    config = yaml.safe_load((own / "phase1" / "config.yaml").read_text())
    config["feats_extract_conf"]["fs"] = 16000
    (own / "phase1" / "config.yaml").write_text(yaml.safe_dump(config))
    go_on(own, 1)
    assert read_identity(own / "phase1") == before


FEATURES = dict(**FRAMES, n_mels=6, fmin=0, fmax=4000)
OTHER = [*TOKENS[:3], "B", "A", *TOKENS[5:]]
FEWER = TOKENS[:-2] + TOKENS[-1:]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"feats_extract_conf": {**FEATURES, "hop_length": 64}}, "hop_length 128, not"),
        ({"feats_extract_conf": {**FEATURES, "fmax": 3000}}, "fmax 4000, not"),
        ({"normalize": None, "normalize_conf": {}}, "normalize global_mvn, not"),
        ({"energy_extract_conf": {**FRAMES, "n_fft": 512}}, "n_fft 256, not"),
        ({"token_list": OTHER}, "token 3 is 'A'"),
        ({"token_list": FEWER}, "token 10 is 'H' of 12 tokens"),
        ({"cleaner": "tacotron"}, "cleaner null, not with cleaner tacotron"),
        ({"tts_conf": {"adim": 16}}, "tts_conf.adim 8, not with tts_conf.adim 16"),
        ({"optim": "sgd", "optim_conf": {"lr": LR}}, "optim adam, whose state"),
        ({"scheduler": "noamlr", "scheduler_conf": {}}, "scheduler warmuplr, whose"),
    ],
)
def test_another_training_is_refused(own, changes, message):
    refuses(own, message, **changes)


def test_other_texts_are_refused(own):
    text = own / "corpus" / "text"
    text.write_text(text.read_text().replace("CAFE", "FACE"))
    refuses(own, "other data, its texts differ")


def test_other_recordings_of_the_same_length_are_refused(own):
    for name in TEXTS:
        path = own / "corpus" / f"{name}.wav"
        samples, rate = soundfile.read(path)
        soundfile.write(path, samples[::-1], rate)
    refuses(own, "other data, its recordings differ")


def test_other_durations_are_refused(own):
    path = own / "corpus" / "durations"
    path.write_text(path.read_text().replace("a ", "a 1 ", 1))
    refuses(own, "its durations or lengths differ")


def test_other_statistics_are_refused(own):
    write_statistics(own / "corpus" / "stats.npz", 1.0)
    refuses(own, "statistics of normalize have other values")
    # and synthesis would be at another level
    with pytest.raises(UserError, match="other statistics than when .*phase1 was tr"):
        config = own / "phase1" / "config.yaml"
        settings = yaml.safe_load(config.read_text())
        settings["normalize_conf"]["stats_file"] = str(own / "corpus" / "stats.npz")
        config.write_text(yaml.safe_dump(settings))
        with paths_made_absolute(config):
            pass
    with pytest.raises(UserError, match="other statistics"):
        PruneTTSTask.build_model_from_file(config, own / "phase1" / "latest.pth")


def test_statistics_with_nan_are_refused(own):
    write_statistics(own / "corpus" / "stats.npz", np.nan)
    refuses(own, "stats.npz have sum that is NaN")


def test_files_that_moved_or_were_made_again_are_the_same(own, tmp_path):
    """Only content counts, so a copy of a recipe can go on."""
    shutil.copytree(own / "corpus", tmp_path / "moved")
    write_statistics(tmp_path / "moved" / "stats.npz", 0.0)
    before = read_identity(own / "phase1")
    train(
        tmp_path / "moved", own / "phase1", epochs=1, **normalised(tmp_path / "moved")
    )
    assert read_identity(own / "phase1") == before


def test_what_is_ignored_or_changes_is_said(own, caplog):
    with caplog.at_level(logging.WARNING):
        go_on(
            own,
            1,
            optim_conf={"lr": 1.0},
            tts_conf={"encoder_dropout_rate": 0.2},
        )
    said = "\n".join(record.getMessage() for record in caplog.records)
    assert f"optim_conf.lr 1.0 is ignored: the training in {own}/phase1" in said
    assert f"continues with {LR}" in said
    assert "encoder_dropout_rate is 0.2 from now on" in said
    # the record still has what the checkpoint has
    assert read_identity(own / "phase1")["optimiser"]["optim_conf.lr"] == LR


def test_older_experiments_without_a_record_still_work(own):
    (own / "phase1" / RECORD).unlink()
    refuses(own, "optim adam, whose state", optim="sgd")
    assert go_on(own, 2)["reporter"]["epoch"] == 2
    assert read_identity(own / "phase1")["tokens"] == TOKENS


def test_a_new_training_replaces_the_record(own):
    """Without a checkpoint nothing is continued."""
    (own / "phase1" / "checkpoint.pth").unlink()
    go_on(own, 1, token_list=OTHER)
    assert read_identity(own / "phase1")["tokens"] == OTHER


# ---- phase 2 and initial weights ----


def phase2(folder, **changes):
    return go_on(folder, 1, "phase2", phase=2, phase1_dir=folder / "phase1", **changes)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"optim": "sgd", "optim_conf": {"lr": LR}}, "optim adam, whose state"),
        ({"feats_extract_conf": {**FEATURES, "fmax": 3000}}, "fmax 4000, not"),
        ({"token_list": FEWER}, "token 10 is 'H'"),
    ],
)
def test_phase_2_continues_the_same_training(own, changes, message):
    with pytest.raises(UserError, match=message):
        phase2(own, **changes)
    assert not (own / "phase2").exists()


def test_another_learning_rate_of_phase_2_is_said_to_be_ignored(own, caplog):
    with caplog.at_level(logging.WARNING):
        phase2(own, optim_conf={"lr": 1.0})
    assert "optim_conf.lr 1.0 is ignored" in caplog.text
    rates = checkpoint(own / "phase2")["optimizers"][0]["param_groups"][0]
    assert rates["initial_lr"] == LR
    assert read_identity(own / "phase2")["optimiser"]["optim_conf.lr"] == LR


def test_thresholds_that_are_nan_are_not_for_phase_2(own):
    states = checkpoint(own / "phase1")
    name = next(name for name in states["model"] if name.endswith(".theta"))
    states["model"][name].fill_(torch.nan)
    torch.save(states, own / "phase1" / "checkpoint.pth")
    with pytest.raises(
        UserError, match=rf"checkpoint.pth has 1 of 1 values of .*{name}"
    ):
        phase2(own)
    assert not (own / "phase2").exists()


def test_a_checkpoint_with_nan_is_not_resumed(own):
    states = checkpoint(own / "phase1")
    states["model"]["tts.decoder.output.bias"][0] = torch.nan
    torch.save(states, own / "phase1" / "checkpoint.pth")
    with pytest.raises(UserError, match="decoder.output.bias that are NaN"):
        go_on(own, 2)


@pytest.mark.parametrize(
    "tokens, message", [(OTHER, "token 3 is 'A'"), (FEWER, "token 10 is 'H'")]
)
@pytest.mark.parametrize("has_record", [True, False])
def test_initial_weights_with_other_tokens_are_refused(
    own, tokens, message, has_record
):
    weights = own / "phase1" / "valid.loss.ave.pth"
    if not has_record:
        (own / "phase1" / RECORD).unlink()
    remedy = f"--init_param {weights}:::tts.encoder.embed"
    with pytest.raises(UserError, match=message) as error:
        go_on(own, 1, "new", token_list=tokens, init_param=[str(weights)])
    assert remedy in str(error.value)
    assert not (own / "new").exists()
    states = go_on(own, 1, "new", token_list=tokens, init_param=[remedy.split()[1]])
    assert len(states["model"]["tts.encoder.embed.weight"]) == len(tokens)


def test_initial_weights_of_another_size_are_one_line(own):
    weights = own / "phase1" / "valid.loss.ave.pth"
    with pytest.raises(UserError, match=r"does not fit this model \(size mismatch"):
        go_on(own, 1, "new", tts_conf={"adim": 16}, init_param=[str(weights)])


def test_recordings_at_another_rate_than_the_features_are_refused(own):
    other = {**FEATURES, "fs": 16000}
    with pytest.raises(UserError, match="have 8000 Hz, but the features are for 16000"):
        go_on(own, 1, "new", feats_extract_conf=other)


def test_references_at_another_rate_than_the_model_are_refused(own, monkeypatch):
    """ESPnet's decoding would hear another voice, because it does not resample."""
    monkeypatch.setattr(PruneTTSTask, "_rate", 16000)
    data = [(str(own / "corpus" / "wav.scp"), "speech", "sound")]
    with pytest.raises(UserError, match="have 8000 Hz, but the features are for 16000"):
        PruneTTSTask.build_streaming_iterator(
            data, preprocess_fn=None, collate_fn=None, inference=True
        )


@pytest.mark.parametrize("content", ["", "{", "[]", '{"features": 3}'])
def test_a_record_that_is_broken_is_refused(own, content):
    """Without it, config.yaml would count, which every resumed training rewrites."""
    (own / "phase1" / RECORD).write_text(content)
    with pytest.raises(UserError, match=f"phase1/{RECORD} is not the record of a tr"):
        go_on(own, 2)


# ---- numbers of a training ----


def test_a_training_that_diverged_says_so(own):
    changes = {"optim_conf": {"lr": 1e30}, "scheduler": None, "scheduler_conf": {}}
    with pytest.raises(UserError, match="diverged: in epoch .*learning rate"):
        go_on(own, 4, "new", **changes)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_recording_with_nan_is_named(own, workers):
    path = own / "corpus" / "b.wav"
    samples, rate = soundfile.read(path)
    samples[5] = np.nan
    soundfile.write(path, samples, rate, "FLOAT")
    with pytest.raises(UserError, match="^utterance b cannot be used, its recording"):
        go_on(own, 1, "new", num_workers=workers)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("content, fault", [(None, "is missing"), (b"x", "audio")])
def test_a_recording_that_is_gone_or_broken_is_named(own, workers, content, fault):
    path = own / "corpus" / "b.wav"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"^recording {path} .*{fault}.*: .") as error:
        go_on(own, 1, "new", num_workers=workers)
    assert "Traceback" not in str(error.value)


def test_decoding_names_a_reference_that_is_gone(own):
    (own / "corpus" / "a.wav").unlink()
    kinds = {"text": ("text", "text"), "wav.scp": ("speech", "sound")}
    data = [(str(own / "corpus" / name), *kind) for name, kind in kinds.items()]
    loader = PruneTTSTask.build_streaming_iterator(data, None, None, dtype="float32")
    with pytest.raises(Exception, match="recording .*a.wav is missing") as error:
        next(iter(loader))
    assert sent_message(error.value).startswith("recording ")


@pytest.mark.parametrize(
    "durations, message",
    [
        ("2 3", "2 durations for 3 tokens"),
        ("9 9 9 9", "add up to 36 frames, but its recording has 26"),
    ],
)
def test_durations_that_do_not_fit_name_the_utterance(own, durations, message):
    path = own / "corpus" / "durations"
    lines = dict(line.split(maxsplit=1) for line in path.read_text().splitlines())
    lines["a"] = durations
    path.write_text("".join(f"{name} {each}\n" for name, each in lines.items()))
    with pytest.raises(UserError, match=f"utterance a cannot be used, .*{message}"):
        go_on(own, 1, "new")


def test_an_empty_recording_is_named(corpus, tmp_path):
    args = PruneTTSTask.get_parser().parse_args(options(corpus, tmp_path / "exp"))
    check = CheckedPreprocessor(None, args)
    with pytest.raises(UserError, match="utterance u7 .*recording is empty"):
        check("u7", {"speech": np.zeros(0, np.float32)})


# ---- one writer ----


def hold(folder, held):
    with lock_folder(folder, "training"):
        held.set()
        signal.pause()


def test_two_trainings_do_not_share_a_folder(own):
    context = multiprocessing.get_context("fork")
    held = context.Event()
    other = context.Process(target=hold, args=(own / "phase1", held), daemon=True)
    other.start()
    assert held.wait(60)
    refuses(own, rf"in use by training \(process {other.pid} on .*wait for it to end")
    os.kill(other.pid, signal.SIGKILL)  # its lock ends with it
    other.join()
    assert go_on(own, 2)["reporter"]["epoch"] == 2


def test_a_full_disk_is_one_line_and_keeps_the_last_checkpoint(own):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        refuses(own, "cannot write .*checkpoint.pth .*: free disk space")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert go_on(own, 2)["reporter"]["epoch"] == 2


# ---- training data ----


def rows(folder):
    return [
        {"utterance": name, "text": text, "wav.scp": str(folder / f"{name}.wav")}
        for name, text in TEXTS.items()
    ]


def test_training_data_are_not_exchanged_under_a_model(own):
    data, models = own / "data" / "train", own / "exp"
    corpus = own / "corpus"
    write_identity(data, require_fresh_models(data, models, rows(corpus)))
    (models / "tts_x").mkdir(parents=True)
    (models / "tts_x" / "checkpoint.pth").touch()
    assert require_fresh_models(data, models, rows(corpus)) == read_identity(data)
    samples, rate = soundfile.read(corpus / "a.wav")
    soundfile.write(corpus / "a.wav", samples[::-1], rate)
    with pytest.raises(UserError, match=r"tts_x was trained on .*other recordings\)"):
        require_fresh_models(data, models, rows(corpus))
    # without a model, data may change; another set is another one
    assert require_fresh_models(data, own / "none", rows(corpus))
    assert require_fresh_models(own / "data" / "new", models, rows(corpus))


def test_training_data_without_a_record_are_compared_by_their_texts(own):
    data, models = own / "data" / "train", own / "exp" / "16000"
    (models / "tts_x").mkdir(parents=True)
    (models / "tts_x" / "checkpoint.pth").touch()
    data.mkdir(parents=True)
    said = {name: text for name, text in TEXTS.items() if name != "b"}
    lines = "".join(f"{name} {text}\n" for name, text in said.items())
    (data / "text").write_text(lines)
    (data / "unaligned.tsv").write_text("b\tno durations\n")
    require_fresh_models(data, own / "exp", rows(own / "corpus"))
    (data / "text").write_text(lines.replace("BAD", "BED"))
    with pytest.raises(UserError, match=r"other texts\)"):
        require_fresh_models(data, own / "exp", rows(own / "corpus"))


def test_the_record_is_json_with_the_tokens(trained):
    record = json.loads((trained / RECORD).read_text())
    assert record["tokens"] == TOKENS
    assert record["features"]["feats_extract_conf.fs"] == FRAMES["fs"]
    assert record["data"]["utterances"] == len(TEXTS)
