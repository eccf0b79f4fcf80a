"""Send real recordings through a mel and a vocoder.

No system can sound better than its vocoder with the mel of a recording.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path

import soundfile
import torch
from espnet2.tasks.tts import feats_extractor_choices
from espnet2.tts.feats_extract.log_mel_fbank import LogMelFbank
from tqdm import tqdm

from espnet_prune.errors import UserError
from espnet_prune.evaluation.backends import load_wave
from espnet_prune.evaluation.records import (
    digest,
    identify_vocoder,
    keep,
    lacking,
    stamp,
)
from espnet_prune.experiment import read_config
from espnet_prune.speech.generators import on_every_core
from espnet_prune.speech.pretrained import require_device
from espnet_prune.speech.vocoder import (
    GRIFFIN_LIM,
    PUBLISHED,
    describe_features,
    open_vocoder,
    trained_features,
)


def features_for(
    vocoder: str, train_config: str | Path | None = None
) -> torch.nn.Module:
    """Build the feature extractor of a model, or one that suits a vocoder.

    Without the ``config.yaml`` of a model, the mel is that on which the vocoder was
    trained; for Griffin-Lim, that of the public HiFi-GAN.

    Returns:
        Waves (B, T_wav) to denormalised log-mel (B, T_feats, n_mels).
    """
    if train_config is None:
        mel = dict(PUBLISHED if vocoder == GRIFFIN_LIM else trained_features(vocoder))
        return LogMelFbank(hop_length=mel.pop("n_shift"), **mel)
    settings = read_config(train_config)
    name = settings.get("feats_extract")
    if name != "fbank":
        raise UserError(
            f"{train_config} has the features {name}, which cannot become a wave; "
            "give a model that was trained with tts.sh --feats_type raw"
        )
    conf = settings.get("feats_extract_conf") or {}
    return feats_extractor_choices.get_class(name)(**conf)


@torch.no_grad()
def copy_synthesis(
    wavs: dict[str, Path],
    vocoder: str,
    folder: Path,
    train_config: str | Path | None = None,
    device: str = "cpu",
) -> None:
    """Send the recordings that are not finished through mel and vocoder.

    ``train_config`` is that of :func:`features_for`.
    """
    feats_extract = features_for(vocoder, train_config)
    parameters = describe_features(feats_extract)
    require_device(device)
    model = open_vocoder(vocoder, parameters, device)
    assert model is not None  # features_for gives log-mel, of which waves can be made
    made_from = [identify_vocoder(vocoder), sorted(map(str, parameters.items()))]
    stamps = {name: stamp(digest(path), *made_from) for name, path in wavs.items()}
    todo = lacking(folder, stamps)
    fs = parameters["fs"]
    for name in todo:
        info = soundfile.info(os.fsencode(wavs[name]))
        # half of the first frame lies before the recording and is filled by mirroring
        shortest = parameters["n_fft"] // 2 + 1
        if math.ceil(info.frames * fs / info.samplerate) < shortest:
            raise UserError(
                f"{wavs[name]}, the recording of {name}, lasts {info.duration:.3f} s, "
                f"not half a frame ({shortest / fs:.3f} s); leave it out"
            )

    def vocode(name: str) -> torch.Tensor:
        original = torch.from_numpy(load_wave(wavs[name], fs))
        return model(feats_extract(original[None])[0][0])

    # the longest one first, so that no core works alone at the end
    todo.sort(key=lambda name: -wavs[name].stat().st_size)
    each: Iterator[tuple[int, torch.Tensor]] = enumerate(map(vocode, todo))
    if getattr(model, "thread_safe", False) and torch.device(device).type == "cpu":
        each = on_every_core(vocode, todo)
    bar = tqdm(each, "vocoding", len(todo), unit="utt", ncols=79, disable=not todo)
    for number, wave in bar:
        name = todo[number]
        record = {"utterance": name, "vocoder": vocoder, "of": stamps[name]}
        record["recording"] = digest(wavs[name])
        keep(folder, wave, fs, record)
