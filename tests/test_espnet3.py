"""Training by ESPnet 3: its trainer, both phases, and speech of the result."""

import importlib.util
import re
from pathlib import Path

import pytest
import soundfile
import torch
import yaml
from omegaconf import OmegaConf
from tiny_training import FRAMES, TINY, TOKENS, write_corpus

from espnet_prune import Text2Speech

ROOT = Path(__file__).resolve().parents[1]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("lightning") is None,
        reason='ESPnet 3 needs Lightning: pip install -e ".[espnet3]"',
    ),
]


def documented():
    """Read the configuration that docs/espnet.md shows."""
    text = (ROOT / "docs" / "espnet.md").read_text(encoding="utf-8")
    _, section = text.split("## ESPnet 3\n")
    (block,) = re.findall(r"```yaml\n(task:.*?)```", section, flags=re.DOTALL)
    return yaml.safe_load(block)


def test_three_steps_with_a_switch_of_the_phase(tmp_path):
    from espnet3.systems.base.training import train

    corpus = tmp_path / "corpus"
    corpus.mkdir()
    write_corpus(corpus)
    config = documented()
    entry = [{"data_src": "espnet3_corpus", "data_src_args": {"folder": str(corpus)}}]
    config["dataset"].update(train=entry, valid=entry)
    config["dataset"]["preprocessor"].update(token_type="char", token_list=TOKENS)
    config["dataset"]["preprocessor"].pop("g2p_type")
    model = config["model"]
    model.update(token_list=TOKENS, token_type="char")
    model["tts_conf"].update(TINY)
    model["tts_conf"]["pruning_conf"]["threshold_scale"] = 30.0
    model["feats_extract_conf"] = dict(FRAMES, n_mels=6, fmin=0, fmax=4000)
    for name in ("pitch", "energy"):
        model[f"{name}_extract_conf"].update(FRAMES)
        model.update({f"{name}_normalize": None, f"{name}_normalize_conf": {}})
    model.update(normalize=None, normalize_conf={})
    config["trainer"].update(max_epochs=3, limit_train_batches=1, accelerator="cpu")
    config["trainer"]["callbacks"][0]["epoch"] = 1
    config["exp_dir"] = config["trainer"]["default_root_dir"] = str(tmp_path / "exp")
    for part in ("train", "valid"):
        config["dataloader"][part].update(batch_size=2, num_workers=0)

    train(OmegaConf.create(config))

    folder = tmp_path / "exp"
    (last,) = {path.resolve() for path in folder.glob("last*.ckpt")}
    states = torch.load(last, map_location="cpu", weights_only=False)
    assert states["global_step"] == 3
    thetas = {n: v for n, v in states["state_dict"].items() if n.endswith("theta")}
    assert len(thetas) == TINY["dlayers"]
    # one step of Adam in phase 1, and none in phase 2
    step = config["optimizer"]["lr"] / config["scheduler"]["warmup_steps"]
    assert all(0 < abs(float(value)) < 1.5 * step for value in thetas.values())
    assert all(torch.isfinite(v).all() for v in states["state_dict"].values())

    # No epoch of phase 1 is in the average. ESPnet 3 averages before it saves, so the
    # last epoch is missing as well.
    (average,) = folder.glob("valid.loss.ave_1best.pth")
    (second,) = folder.glob("epoch1_*_valid.loss.ckpt")
    wanted = torch.load(second, map_location="cpu", weights_only=False)["state_dict"]
    found = torch.load(average, map_location="cpu", weights_only=True)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    text2speech = Text2Speech(folder / "config.yaml", average)
    speech, _ = soundfile.read(corpus / "d.wav")
    assert len(text2speech("BAD", speech=speech)["feat_gen"])
