"""Measure training steps, synthesis and start, and compare them with another checkout.

Every checkout has its own process (``benchmark_worker``), which runs one step per
request. The systems take turns in rounds, so that other work of the machine slows all
of them equally, and every ratio compares two steps of the same round.
"""

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from espnet_prune.errors import UserError
from espnet_prune.evaluation import tables
from espnet_prune.processes import name_processor

WARM_UP = 2  # rounds that are not counted, because caches and processor clocks warm up
HERE = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("benchmark_worker.py")
LEAST_FRAMES = 12  # two tokens
CHECKOUTS = ("here", "other")  # the second is that of --against
WHAT = {  # by part
    "decoder": "mel decoder, forward and backward",
    "training": "whole training step",
    "durations": "whole training step",
    "synthesis": "text to mel",
    "start": "start of Python",
}
# What --tour measures: part, precision, and whether the model is compiled.
TOUR = (
    ("training", "float32", False),
    ("training", "bfloat16", False),
    ("training", "bfloat16", True),
    ("durations", "bfloat16", False),
    ("synthesis", "float32", False),
)
PUBLIC_PARTS = ("training", "synthesis", "start")  # parts that the public model has too


@dataclasses.dataclass(frozen=True)
class Work:
    """What to measure."""

    part: str  # one of ``WHAT``
    systems: tuple[str, ...] | None = None  # None for all
    # arguments of our model; empty for the paper's size
    model: dict[str, Any] = dataclasses.field(default_factory=dict)
    batch_size: int = 8
    frames: int = 480  # mel frames of each utterance, and of the spoken sentence
    device: str = "cpu"
    precision: str = "float32"  # or bfloat16 or float16, by autocast
    compile: bool = False


class Worker:
    """A process that runs steps of one checkout.

    Args:
        checkout: folder of espnet_prune's source, or of the public StyleSpeech.
        work: what to measure.
        threads: threads of the CPU; PyTorch's choice if None.

    Attributes:
        systems: names of the systems that it can run.

    Raises:
        UserError: the checkout cannot do the work.
    """

    def __init__(self, checkout: Path, work: Work, threads: int | None = None):
        environment = dict(os.environ, PYTHONPATH=str(checkout))
        if threads is not None:
            environment["OMP_NUM_THREADS"] = str(threads)
        # -P: nothing must be imported from the folder of the worker's file
        self.checkout = checkout
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=checkout,
            env=environment,
        )
        # both are pipes, but the types do not say so
        assert self.process.stdin is not None and self.process.stdout is not None
        self._questions, self._answers = self.process.stdin, self.process.stdout
        settings = dataclasses.asdict(work)
        self.systems = self._ask(json.dumps(dict(settings, public=is_public(checkout))))

    def run(self, system: str) -> dict[str, float]:
        """Run one step; return seconds of wall and CPU time, and the peak memory."""
        return self._ask(system)

    def close(self) -> None:
        """End the process."""
        self._questions.close()
        self._answers.close()
        self.process.wait()

    def _ask(self, line):
        with contextlib.suppress(BrokenPipeError):
            self._questions.write(line + "\n")
            self._questions.flush()
        answer = self._answers.readline()
        if not answer:
            self.process.wait()
            raise UserError(
                f"{self.checkout} cannot be measured: see the error above, and give "
                "--against a checkout of espnet_prune or of the public StyleSpeech"
            )
        return json.loads(answer)


def is_public(checkout: Path) -> bool:
    """Return whether a folder is the public StyleSpeech; refuse foreign folders."""
    if (checkout / "espnet_prune" / "model.py").is_file():
        return False
    if (checkout / "models" / "StyleSpeech.py").is_file():
        return True
    raise UserError(
        f"{checkout} is not a checkout of espnet_prune or of the public StyleSpeech: "
        "give the folder that contains espnet_prune or models"
    )


def measure(
    work: Work,
    against: Path | None = None,
    repeats: int = 20,
    threads: int | None = None,
) -> list[dict[str, Any]]:
    """Measure every system of a part, here and in another checkout.

    Returns:
        A row per system and checkout: medians of wall time, CPU time and their ratios
        with quartiles, to the first system of the same checkout and to the system of
        the same name in the other one (or its first, if it has no such system).
    """
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(contextlib.closing(Worker(folder, work, threads)))
            for folder in _folders(against)
        ]
        return summarise(work, take_turns(workers, repeats))


def take_turns(
    workers: Sequence[Worker], repeats: int
) -> list[dict[str, list[dict[str, float]]]]:
    """Run every system once per round, in an order that rotates from round to round."""
    turns = [(number, name) for number, w in enumerate(workers) for name in w.systems]
    answers: list[dict[str, list]] = [{n: [] for n in w.systems} for w in workers]
    for round_ in range(WARM_UP + repeats):
        first = round_ % len(turns)
        for number, name in turns[first:] + turns[:first]:
            answer = workers[number].run(name)
            if round_ >= WARM_UP:
                answers[number][name].append(answer)
    return answers


def summarise(
    work: Work, answers: list[dict[str, list[dict[str, float]]]]
) -> list[dict[str, Any]]:
    """Make the rows of ``measure`` from what ``take_turns`` returned."""
    rows, part = [], work.part
    for number, systems in enumerate(answers):
        base = next(iter(systems.values()))
        other = answers[1] if number == 0 and len(answers) > 1 else None
        for name, mine in systems.items():
            row: dict[str, Any] = {
                "part": WHAT[part],
                "system": name,
                "checkout": CHECKOUTS[number],
                "precision": work.precision,
                "compiled": work.compile,
                "utterances_per_second": None
                if part == "start"
                else (1 if part == "synthesis" else work.batch_size)
                / statistics.median(answer["wall"] for answer in mine),
                "memory_mib": max(answer["memory"] for answer in mine) / 2**20,
            }
            for kind in ("wall", "cpu"):
                row[f"{kind}_ms"] = 1000 * statistics.median(a[kind] for a in mine)
                row[f"{kind}_ratio"] = _ratios(mine, base, kind)
                theirs = other and other.get(name, next(iter(other.values())))
                row[f"{kind}_against"] = theirs and _ratios(mine, theirs, kind)
            rows.append(row)
    return rows


def peak_memory(
    work: Work, against: Path | None = None, threads: int | None = None
) -> list[dict[str, Any]]:
    """Measure the peak memory of each system in fresh processes, after two steps."""
    rows = []
    for checkout, folder in zip(CHECKOUTS, _folders(against), strict=False):
        with contextlib.closing(Worker(folder, work, threads)) as worker:
            names = worker.systems
        for name in names:
            alone = dataclasses.replace(work, systems=(name,))
            with contextlib.closing(Worker(folder, alone, threads)) as worker:
                worker.run(name)
                memory = worker.run(name)["memory"]
            row = {"part": WHAT[work.part], "system": name, "checkout": checkout}
            rows.append(dict(row, memory_mib=memory / 2**20))
    return rows


def describe_machine(against: Path | None = None) -> dict[str, Any]:
    """Return what readers of the numbers need to know: machine, commits, versions."""
    import torch

    return {
        "processor": name_processor(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "commit": _commit(HERE),
        "against": None if against is None else _commit(against),
    }


def _folders(against: Path | None) -> list[Path]:
    """Return the folders of ``CHECKOUTS``; there may be only one."""
    return [HERE] if against is None else [HERE, against.resolve()]


def _ratios(mine, theirs, kind):
    """Compare step by step; return the lower quartile, the median, the upper one."""
    ratios = [
        a[kind] / b[kind] for a, b in zip(mine, theirs, strict=True) if b[kind] > 0
    ]
    if len(ratios) < 2:
        return None
    return statistics.quantiles(ratios, n=4, method="inclusive")


def _commit(folder):
    child = subprocess.run(
        ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"],
        check=False,
        capture_output=True,
        text=True,
    )
    return child.stdout.strip() or folder.name


def _show_median(ratios: list[float]) -> str:
    return f"{ratios[1]:.3f}"


TIME_COLUMNS: tuple[tables.Column, ...] = (
    tables.Column("part", "part"),
    tables.Column("system", "system"),
    tables.Column("checkout", "checkout"),
    tables.Column("wall_ms", "wall (ms)", tables.number),
    tables.Column("cpu_ms", "CPU (ms)", tables.number),
    tables.Column("utterances_per_second", "utterances/s", "{:.1f}".format),
    tables.Column("wall_ratio", "to first, wall", _show_median),
    tables.Column("cpu_ratio", "to first, CPU", _show_median),
)
AGAINST_COLUMNS: tuple[tables.Column, ...] = (
    tables.Column("wall_against", "to other, wall", _show_median),
    tables.Column("cpu_against", "to other, CPU", _show_median),
)
MEMORY = tables.Column("memory_mib", "peak (MiB)", "{:.0f}".format)
MEMORY_COLUMNS: tuple[tables.Column, ...] = (*TIME_COLUMNS[:3], MEMORY)
