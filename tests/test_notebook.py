"""The notebook: it has no outputs, and its cells run from the first to the last."""

import os
import re
from pathlib import Path

import pytest

from espnet_prune.speech.pretrained import shipped_models

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "tutorial.ipynb"
SHORT = """OPTIONS = "--train_args '--max_epoch 3 --num_iters_per_epoch 4' """
SHORT += """--phase1_epochs 1 --skip_packing true" """
VOICE = "english_small"

nbformat = pytest.importorskip("nbformat", reason='needs pip install -e ".[test]"')


def read():
    return nbformat.read(NOTEBOOK, as_version=4)


def tags(cell):
    return cell.metadata.get("tags", [])


def execute(book, folder):
    """Run a notebook in a folder, in the environment of the tests."""
    from nbclient import NotebookClient

    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    client = NotebookClient(
        book, timeout=3600, resources={"metadata": {"path": str(folder)}}
    )
    client.execute(env=environment)


def shown(cell):
    """Return the kinds of what a cell shows."""
    return {kind for output in cell.outputs for kind in output.get("data", {})}


def test_no_outputs_are_kept():
    for cell in read().cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None


def test_links_lead_somewhere():
    text = "\n".join(cell.source for cell in read().cells)
    for target in re.findall(r"\]\(([^()\s]+)\)", text):
        assert (NOTEBOOK.parent / target).exists(), target


@pytest.mark.slow
@pytest.mark.skipif(
    "ESPNET_ROOT" not in os.environ, reason="needs ESPnet's recipes: ESPNET_ROOT"
)
def test_training_and_what_it_shows(tmp_path):
    pytest.importorskip("nbclient", reason='needs pip install -e ".[test]"')
    book = read()
    book.cells = [cell for cell in book.cells if VOICE not in tags(cell)]
    for cell in book.cells:
        if "parameters" in tags(cell):
            cell.source = SHORT
    execute(book, tmp_path)
    drawn = {
        cell.source.splitlines()[-1]: shown(cell)
        for cell in book.cells
        if cell.cell_type == "code"
    }
    assert "image/png" in drawn['plots.plot_layers(rows, "threshold")']
    assert "image/png" in drawn['plots.plot_layers(rows, "kept_share", "kept_mass")']
    assert "image/png" in drawn["Image(file)"]
    assert "text/html" in drawn['Audio(said["wav"].numpy(), rate=model.fs)']


@pytest.mark.slow
@pytest.mark.skipif(
    VOICE not in shipped_models(), reason=f"the package has no model {VOICE} yet"
)
def test_the_model_of_the_package_speaks(tmp_path):
    pytest.importorskip("nbclient", reason='needs pip install -e ".[test]"')
    book = read()
    first = next(cell for cell in book.cells if cell.cell_type == "code")
    book.cells = [first, *(cell for cell in book.cells if VOICE in tags(cell))]
    execute(book, tmp_path)
    for cell in book.cells[1:]:
        assert "text/html" in shown(cell)
