"""The discriminator of mels: its losses, and what each of them trains."""

import pytest
import torch
from helpers import tiny_batch, tiny_stylespeech

from espnet_prune.discriminator import MelDiscriminator, PatchDiscriminator

LENGTHS = torch.tensor([37, 20, 9])


def mels(seed=0, bins=16):
    """Return generated and natural mels, and which frames are valid."""
    torch.manual_seed(seed)
    valid = (torch.arange(40) < LENGTHS[:, None])[..., None]
    generated, natural = torch.randn(2, 3, 40, bins)
    return generated, natural, valid


def test_losses_are_those_of_least_squares():
    judge = MelDiscriminator(channels=2, scales=1).eval()
    generated, natural, valid = mels()
    generated, natural, valid = generated[:1, :37], natural[:1, :37], valid[:1, :37]
    fake, real = (judge(mel, valid)[0] for mel in (generated, natural))
    losses = judge.losses(generated, natural, valid)
    expected = (real[-1].values - 1).square().mean() + fake[-1].values.square().mean()
    assert losses.discriminator.item() == pytest.approx(expected.item(), rel=1e-5)
    expected = (fake[-1].values - 1).square().mean()
    assert losses.adversarial.item() == pytest.approx(expected.item(), rel=1e-5)
    pairs = zip(fake[:-1], real[:-1], strict=True)
    expected = sum((f.values - r.values).abs().mean() for f, r in pairs)
    assert losses.features.item() == pytest.approx(expected.item(), rel=1e-5)
    same = judge.losses(natural, natural, valid)
    assert same.features.item() == 0
    assert same.discriminator.item() >= 0.5  # nobody can tell equal mels apart


def test_each_loss_trains_one_side():
    judge = MelDiscriminator(channels=2)
    generated, natural, valid = mels()
    generated.requires_grad_()
    losses = judge.losses(generated, natural, valid)
    (losses.adversarial + losses.features).backward(retain_graph=True)
    assert all(parameter.grad is None for parameter in judge.parameters())
    assert generated.grad.abs().sum() > 0
    generated.grad = None
    losses.discriminator.backward()
    assert generated.grad is None
    assert all(parameter.grad is not None for parameter in judge.parameters())


def test_padding_changes_nothing():
    judge = MelDiscriminator(channels=2).eval()
    generated, natural, valid = mels()
    before = judge.losses(generated, natural, valid)
    filled = [torch.where(valid, mel, 1e3) for mel in (generated, natural)]
    after = judge.losses(*filled, valid)
    assert torch.allclose(torch.stack(before), torch.stack(after))
    long = torch.nn.functional.pad(torch.stack([generated, natural]), (0, 0, 0, 24))
    longer = judge.losses(*long, torch.nn.functional.pad(valid, (0, 0, 0, 24)))
    assert torch.allclose(torch.stack(before), torch.stack(longer), atol=1e-5)


def test_patches_see_every_frame_and_band():
    judge = PatchDiscriminator(channels=2).eval()
    mel = torch.zeros(1, 32, 16, requires_grad=True)
    judge(mel, torch.ones(1, 32, 1))[-1].values.sum().backward()
    assert (mel.grad != 0).all()


def test_it_learns_to_tell_smooth_mels_from_natural_ones():
    torch.manual_seed(0)
    judge = MelDiscriminator(channels=4)
    optim = torch.optim.Adam(judge.parameters(), lr=1e-2)
    valid = torch.ones(4, 32, 1)
    for _ in range(60):
        natural = torch.randn(4, 32, 16)
        losses = judge.losses(0.3 * natural, natural, valid)
        optim.zero_grad()
        losses.discriminator.backward()
        optim.step()
    natural = torch.randn(4, 32, 16)
    losses = judge.losses(0.3 * natural, natural, valid)
    assert losses.discriminator < 0.5  # guessing gives 3 * 0.5
    sharper = judge.losses(0.9 * natural, natural, valid)
    assert sharper.adversarial < losses.adversarial
    assert sharper.features < losses.features


def test_model_adds_the_losses_by_weight():
    torch.manual_seed(0)
    model = tiny_stylespeech(adversarial_weight=0.5)
    loss, stats, _ = model(**tiny_batch())
    plain = sum(
        stats[f"{name}_loss"] for name in ("mel", "duration", "pitch", "energy")
    )
    scaled = stats["adversarial_loss"] + stats["mel_loss"]
    expected = plain + stats["discriminator_loss"] + 0.5 * scaled
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    assert all(p.grad is not None for p in model.discriminator.parameters())
    assert tiny_stylespeech().discriminator is None
