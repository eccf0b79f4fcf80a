"""Loading files that others made: whole ones as they are, broken ones in one line."""

import math
import subprocess
import sys
import zipfile

import pytest
import safetensors.torch
import torch

from espnet_prune.errors import UserError
from espnet_prune.loading import load_weights, load_yaml

STATE = {"layer.weight": torch.arange(60.0).view(3, 20), "layer.count": torch.tensor(3)}


def refused(load, path, **options):
    with pytest.raises(UserError) as error:
        load(path, **options)
    message = str(error.value)
    assert str(path) in message
    return message


@pytest.fixture
def weights(tmp_path):
    torch.save(STATE, tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def same(found):
    return all(torch.equal(found[name], value) for name, value in STATE.items())


def test_whole_weights_come_back(weights, tmp_path):
    assert same(load_weights(weights))
    safetensors.torch.save_file(STATE, tmp_path / "weights.safetensors")
    assert same(load_weights(str(tmp_path / "weights.safetensors")))
    torch.save(STATE, weights, _use_new_zipfile_serialization=False)
    assert same(load_weights(weights))
    nested = {
        "model": STATE,
        "optimizers": [{"state": {0: {"step": 1}}}],
        "scaler": None,
    }
    torch.save(nested, weights)
    assert same(load_weights(weights)["model"])


def test_a_flipped_bit_is_found_wherever_it_changes_a_value(weights):
    whole = weights.read_bytes()
    loaded = 0
    for place in range(0, len(whole), 37):
        flipped = bytearray(whole)
        flipped[place] ^= 0x10
        weights.write_bytes(flipped)
        try:
            found = load_weights(weights)
        except UserError:
            continue
        loaded += 1  # in the padding, or in a date
        assert found.keys() == STATE.keys() and same(found)
    assert loaded < len(range(0, len(whole), 37))


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_broken_weights(weights, tmp_path, name):
    path = tmp_path / name
    assert "cannot load the weights" in refused(load_weights, tmp_path / f"no{name}")
    assert "cannot load the weights" in refused(load_weights, tmp_path)
    if name.endswith("s"):
        safetensors.torch.save_file(STATE, path)
    whole = path.read_bytes()
    for content in (b"", whole[: len(whole) // 2], whole[:10], b"junk" * 1000):
        path.write_bytes(content)
        assert "cannot load the weights" in refused(load_weights, path)


def test_a_pickle_that_runs_a_command_is_refused(tmp_path, capsys):
    class Command:
        def __reduce__(self):
            return print, ("ran",)

    torch.save({"a": Command()}, tmp_path / "weights.pth")
    assert "cannot load the weights" in refused(load_weights, tmp_path / "weights.pth")
    assert "ran" not in capsys.readouterr().out


def test_weights_that_are_something_else(weights):
    torch.save(torch.zeros(3), weights)
    assert "it contains a Tensor" in refused(load_weights, weights)
    with zipfile.ZipFile(weights, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.pkl", bytes(70 * 2**20))
    assert "would unpack to 70 MB" in refused(load_weights, weights)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_values_that_are_no_numbers(weights, value, dtype):
    bad = torch.zeros(2, 3, dtype=dtype)
    bad[1, 2] = value
    torch.save({"model": {"a": torch.zeros(1), "b.theta": bad}}, weights)
    message = refused(load_weights, weights)
    assert "has 1 of 6 values of model.b.theta that are NaN or infinite" in message


def test_settings_come_back(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("a: &x [1, 2]\nb: {c: *x, d: 1.0e-3}\ne: yes\n")
    settings = load_yaml(path)
    assert settings == {"a": [1, 2], "b": {"c": [1, 2], "d": 1e-3}, "e": True}


def alias_bomb(levels):
    lines = ["a0: &a0 [x]"]
    for n in range(1, levels):
        lines.append(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    "content, fault",
    [
        ("", "it contains nothing"),
        ("- a\n- list", "it contains list"),
        ("words", "it contains str"),
        ("a: [", "is not a configuration"),
        ("a: !!python/object/apply:os.system [ls]", "is not a configuration"),
        ("\0", "is not a configuration"),
        ("[" * 10_000, "is not a configuration"),
        ("a: &a [*a]", "an alias refers to a part that contains it"),
        (alias_bomb(30), "its aliases repeat too much"),
        ("a: " + "x" * 17 * 2**20, "is larger than any configuration"),
    ],
)
def test_what_is_no_configuration_is_refused(tmp_path, content, fault):
    path = tmp_path / "config.yaml"
    path.write_text(content)
    assert fault in refused(load_yaml, path)


def test_settings_that_cannot_be_read(tmp_path):
    assert "cannot be read" in refused(load_yaml, tmp_path / "none.yaml")
    assert "cannot be read" in refused(load_yaml, tmp_path)
    for name in ("a\0b.yaml", "\ud800.yaml", 3, None, ["a.yaml"]):
        with pytest.raises(UserError, match="cannot be read"):
            load_yaml(name)
    (tmp_path / "latin.yaml").write_bytes("a: grüße".encode("latin-1"))
    message = refused(load_yaml, tmp_path / "latin.yaml", what="list of voices")
    assert "the list of voices" in message


def test_loading_settings_imports_no_torch():
    program = (
        "import sys, espnet_prune.loading\n"
        "print([n for n in ('torch', 'espnet2') if n in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True)
    assert shown.stdout.decode().strip() == "[]"
