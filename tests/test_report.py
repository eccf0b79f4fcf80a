"""bin/report.py: from experiment folders to a table on screen, files and figures."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from experiments import write_experiment
from matplotlib.image import imread

from espnet_prune.bin.report import main

ROOT = Path(__file__).resolve().parents[1]
TABLES = ["thresholds.csv", "thresholds.json", "thresholds.md"]


@pytest.fixture
def folders(tmp_path):
    first = write_experiment(tmp_path / "exp_phase1", [(0.5, 1.0), (1.5, 2.5)])
    second = write_experiment(tmp_path / "exp_phase2", [(1.5, 2.5)] * 2, phase=2)
    return [str(first), str(second)]


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_report_of_two_phases(folders, tmp_path, capsys):
    output = tmp_path / "deep" / "report"
    main([*folders, "--output_dir", str(output)])
    pictures = ["kept.png", "losses.png", "soft_mean.png", "thresholds.png"]
    assert names_in(output) == sorted(TABLES + pictures)
    for name in pictures:
        assert imread(output / name).std() > 0.05  # something is drawn

    screen = capsys.readouterr().out
    row = "|     1 |     2 |     2 |  2.50 |          0.250 |     12.5 % |    37.5 % |"
    assert row in screen.splitlines()
    assert "phase 1, R = 0.45, T = 0.01, threshold_scale = 1" in screen
    written = [line.strip() for line in screen.split("Written:\n")[1].splitlines()]
    assert sorted(Path(line).name for line in written) == names_in(output)
    assert all(Path(line).is_file() for line in written)

    page = (output / "thresholds.md").read_text()
    assert row in page.splitlines() and "R = 0.45" in page
    content = json.loads((output / "thresholds.json").read_text())
    assert [e["phase"] for e in content["experiments"]] == [1, 2]
    assert [e["sparsity_ratio"] for e in content["experiments"]] == [0.45, 0.45]
    assert content["layers"][3]["threshold"] == pytest.approx(2.5)
    assert content["layers"][3]["mean_soft_mask"] is None
    with open(output / "thresholds.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["phase"], row["layer"]) for row in rows] == [
        ("1", "1"),
        ("1", "2"),
        ("2", "1"),
        ("2", "2"),
    ]
    assert float(rows[0]["kept_mass"]) == pytest.approx(0.75)


def test_a_new_report_replaces_the_old_one(folders, tmp_path):
    output = tmp_path / "report"
    main([*folders, "--output_dir", str(output)])
    main([folders[0], "--output_dir", str(output), "--axis", "epoch"])
    content = json.loads((output / "thresholds.json").read_text())
    assert [row["phase"] for row in content["layers"]] == [1, 1]
    assert not list(output.glob(".*"))


def test_report_of_vanilla_pruning_names_no_r(tmp_path, capsys):
    folder = write_experiment(tmp_path / "vp", [(1.0, 1.0)], pruning="vanilla")
    main([str(folder), "--output_dir", str(tmp_path / "report")])
    assert "theta fixed at 1, no R" in capsys.readouterr().out
    names = names_in(tmp_path / "report")
    assert names == sorted(TABLES + ["kept.png", "losses.png", "thresholds.png"])


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "espnet_prune.bin.report", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
    )


def test_bad_input_ends_in_one_line_and_leaves_nothing(tmp_path):
    dense = write_experiment(tmp_path / "dense", [(), ()], pruning="none")
    output = tmp_path / "report"
    done = command(str(dense), "--output_dir", str(output))
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if "espnet_prune" in line]
    assert line.startswith("espnet_prune: error: ") and "pruning: none; give" in line
    assert "Traceback" not in done.stderr
    assert done.stdout == "" and not output.exists()
