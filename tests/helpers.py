"""The one set of tiny arguments that every test of a model starts from."""

import torch

from espnet_prune.model import StyleSpeech

IDIM, ODIM, STYLE_DIM = 12, 6, 4
TEXT_LENGTHS = (4, 6, 2)  # without <eos>
DURATIONS = (  # frames of each token and of <eos>
    (3, 1, 0, 4, 2),
    (1, 2, 1, 3, 1, 2, 1),
    (2, 0, 5),
)


def tiny_stylespeech(**overrides) -> StyleSpeech:
    """Build a StyleSpeech of two layers and width 8 without dropout, always the same.

    Args:
        overrides: arguments of ``StyleSpeech`` other than the tiny ones.
    """
    arguments = {
        "idim": IDIM,
        "odim": ODIM,
        "adim": 8,
        "aheads": 2,
        "elayers": 1,
        "eunits": 12,
        "dlayers": 2,
        "dunits": 12,
        "ffn_kernel_sizes": (3, 1),
        "decoder_prenet_units": 8,
        "style_units": 8,
        "style_dim": STYLE_DIM,
        "style_kernel_size": 3,
        "predictor_units": 8,
        "encoder_dropout_rate": 0.0,
        "decoder_dropout_rate": 0.0,
        "attention_dropout_rate": 0.0,
        "style_dropout_rate": 0.0,
        "predictor_dropout_rate": 0.0,
    }
    arguments.update(overrides)
    torch.manual_seed(0)
    return StyleSpeech(**arguments)


def tiny_batch(durations: str = "given", seed: int = 0) -> dict:
    """Make three utterances of unequal lengths, zero-padded as ESPnet pads.

    Args:
        durations: "given", with token-averaged pitch and energy, or "learned", with
            pitch and energy by frame.
        seed: of the random numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    frames = torch.tensor([sum(numbers) for numbers in DURATIONS])
    tokens = torch.tensor(TEXT_LENGTHS)
    batch = {
        "text": torch.randint(1, IDIM - 1, (3, max(TEXT_LENGTHS)), generator=generator),
        "text_lengths": tokens,
        "feats": torch.randn(3, int(frames.max()), ODIM, generator=generator),
        "feats_lengths": frames,
    }
    lengths = tokens + 1
    if durations == "given":
        padded = torch.zeros(3, int(lengths.max()), dtype=torch.long)
        for b, numbers in enumerate(DURATIONS):
            padded[b, : len(numbers)] = torch.tensor(numbers)
        batch.update(durations=padded, durations_lengths=lengths)
    else:
        lengths = frames
    for name in ("pitch", "energy"):
        values = torch.randn(3, int(lengths.max()), 1, generator=generator)
        batch.update({name: values, f"{name}_lengths": lengths})
    return fill_padding(batch, torch.zeros_like)


def fill_padding(batch: dict, make) -> dict:
    """Replace what lies behind the end of each utterance by ``make(tensor)``."""
    batch = dict(batch)
    for name in ("text", "feats", "pitch", "energy"):
        value, lengths = batch[name], batch[f"{name}_lengths"]
        valid = torch.arange(value.size(1)) < lengths[:, None]
        valid = valid.view(*valid.shape, *[1] * (value.dim() - 2))
        batch[name] = torch.where(valid, value, make(value))
    return batch


def one_utterance(batch: dict, b: int) -> dict:
    """Cut utterance b out of a batch, as a batch of one without padding."""
    alone = {}
    for name, value in batch.items():
        if not name.endswith("_lengths"):
            length = batch[f"{name}_lengths"][b]
            alone[name] = value[b : b + 1, :length]
            alone[f"{name}_lengths"] = length[None]
    return alone
