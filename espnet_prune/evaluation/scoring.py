"""Score the speech of systems; each utterance once, also after interruptions.

The scores of a system are kept as JSON lines, one per utterance:

    {"utterance": "spk1_text1", "speaker": "spk1", "scores":
    {"cer_whisper": {"value": 0.1, "edits": 2, ..., "of": "5d41402abc4b2a76"}}}

``of`` is a hash of all that a value was computed from: files, text, packages. A value
with another hash is computed again; all others are kept. Utterances that are not in the
data, and metrics that are not wanted, are not changed.
"""

import contextlib
import functools
import importlib.metadata
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import soundfile

from espnet_prune.data.kaldi import read_columns
from espnet_prune.errors import UserError, first_line
from espnet_prune.evaluation.backends import load_wave
from espnet_prune.evaluation.metrics import METRICS, Measured, Utterance
from espnet_prune.evaluation.records import RECORDS, digest, stamp, stamp_said
from espnet_prune.files import (
    append_json_line,
    can_name_a_file,
    read_json_lines,
    write_json_lines,
)
from espnet_prune.processes import process_pool

Record = dict[str, Any]

GROUND_TRUTH = "ground_truth"  # the system of real recordings of the texts


class System(NamedTuple):
    """A system to compare."""

    name: str  # its name in tables, and of the file of its scores
    wavs: dict[str, Path]  # recording of each utterance
    # Records of its synthesis, if there are any.
    synthesis: Mapping[str, Record] = MappingProxyType({})


class Job(NamedTuple):
    """One utterance of one system, and the metrics that it lacks with their stamps."""

    system: str
    utterance: Utterance
    wav: Path
    stamps: dict[str, str]


def read_data(data_dir: Path) -> dict[str, Utterance]:
    """Read a Kaldi folder: ``text``, ``utt2spk``, and references in ``wav.scp``.

    ``gt_wav.scp`` has recordings of the texts, if there are any.
    """
    texts, speakers = (read_columns(data_dir / name) for name in ("text", "utt2spk"))
    references = read_wavs(data_dir / "wav.scp")
    targets = {}
    if (data_dir / "gt_wav.scp").exists():
        targets = read_wavs(data_dir / "gt_wav.scp")
    voices: dict[str, list[Path]] = {}
    for name, text in texts.items():
        for table, file in ((speakers, "utt2spk"), (references, "wav.scp")):
            if name not in table:
                raise UserError(
                    f"{data_dir / file} lacks {name} of {data_dir / 'text'}; add it"
                )
        if not text.strip():
            raise UserError(f"{data_dir / 'text'} has no text for {name}; add it")
        known = voices.setdefault(speakers[name], [])
        if references[name] not in known:
            known.append(references[name])
    return {
        name: Utterance(
            name, speakers[name], text, references[name], voices, targets.get(name)
        )
        for name, text in texts.items()
    }


def read_wavs(source: Path) -> dict[str, Path]:
    """Return the recording of each utterance.

    ``source`` is a folder of ``UTTERANCE.wav`` or ``.flac``, or a Kaldi ``wav.scp`` of
    plain files; relative paths begin at the working folder.
    """
    if source.is_dir():
        files = sorted((*source.glob("*.wav"), *source.glob("*.flac")))
        wavs = {file.stem: file for file in files}
        if not wavs:
            raise UserError(f"{source} contains no .wav or .flac; give another folder")
        if len(wavs) < len(files):
            twice = next(file for file in files if wavs[file.stem] != file)
            raise UserError(
                f"{source} has {twice.stem} as .wav and as .flac; remove one of them"
            )
    else:
        wavs = {name: Path(path) for name, path in read_columns(source).items()}
    for name, path in wavs.items():
        if not can_name_a_file(name):
            raise UserError(
                f"{source} has the ID {name}, which cannot name a file; choose one "
                "without a / that does not begin with a dot"
            )
        if str(path).rstrip().endswith("|"):
            raise UserError(
                f"{source} has a command for {name}; give a wav.scp of plain files, "
                "for instance that below dump/raw"
            )
        try:
            soundfile.info(os.fsencode(path))
        except (soundfile.LibsndfileError, OSError) as error:
            fault = "cannot be read as audio" if path.is_file() else "is missing"
            raise UserError(
                f"{path}, {name} in {source}, {fault}; replace or remove it"
            ) from error
    return wavs


def split_named(item: str, option: str) -> tuple[str, Path]:
    """Split NAME=PATH; the name is used for a file and in tables."""
    name, _, path = item.partition("=")
    # not printable: line breaks, and bytes that are not UTF-8
    if not path or not can_name_a_file(name) or "|" in name or not name.isprintable():
        raise UserError(
            f"{option} {item!r} is not NAME=PATH with a name for a file; correct it"
        )
    return name, Path(path)


def read_systems(named: Sequence[str], data_dir: Path) -> list[System]:
    """Return ground truth, if there is any, then the systems named as NAME=WAVS."""
    systems = []
    if (data_dir / "gt_wav.scp").exists():
        systems.append(System(GROUND_TRUTH, read_wavs(data_dir / "gt_wav.scp")))
    for item in named:
        name, source = split_named(item, "--system")
        if any(name == system.name for system in systems):
            raise UserError(f"--system {name} is given a second time; rename one")
        records = read_json_lines(source / RECORDS)
        systems.append(System(name, read_wavs(source), records))
    if not systems:
        raise UserError("there is nothing to score; give --system NAME=WAVS")
    return systems


def _is_of_other_data(record: dict[str, Any], one: Utterance) -> bool:
    """Return whether speech was made from something else than the data now have."""
    said, recording = record.get("said"), record.get("recording")
    if said is not None:
        return said != stamp_said(one.text, one.reference)
    if recording is None or one.target is None:
        return False
    return recording != digest(one.target)


def check_coverage(systems: Sequence[System], data: dict[str, Utterance]) -> None:
    """Refuse systems that did not say the data; warn if recordings are missing."""
    for system in systems:
        lacking = [name for name in data if name not in system.wavs]
        if len(lacking) == len(data):
            raise UserError(
                f"{system.name} has no recording of any of the {len(data)} utterances "
                f"(for instance {lacking[0]}); give the folder of this test set"
            )
        if lacking and not system.name.startswith(GROUND_TRUTH):
            logging.warning(
                f"{system.name} lacks {len(lacking)} of {len(data)} utterances (for "
                f"instance {lacking[0]}): its scores leave them out"
            )
        others = [
            name
            for name, one in data.items()
            if _is_of_other_data(system.synthesis.get(name, {}), one)
        ]
        if others:
            raise UserError(
                f"{system.name} said {len(others)} of {len(data)} utterances (for "
                f"instance {others[0]}) with another text or reference, or from "
                "another recording, than the data have now: synthesise or vocode "
                "them again"
            )
        if system.name == GROUND_TRUTH and any(
            path.samefile(data[name].reference)
            for name, path in system.wavs.items()
            if name in data
        ):
            logging.warning(
                "gt_wav.scp names the references themselves, so that the similarity "
                "of ground truth is 1: choose other references"
            )


def choose_baseline(systems: Sequence[str]) -> str:
    """Return the system that others are compared to: the first except ground truth."""
    rivals = (name for name in systems if not name.startswith(GROUND_TRUTH))
    return next(rivals, GROUND_TRUTH)


_digest = functools.cache(digest)


def _stamps(system: System, utterance: Utterance, versions: dict[str, str]):
    """Return a hash for each metric of everything that its value depends on."""
    inputs = {
        "wav": _digest(system.wavs[utterance.name]),
        "text": utterance.text,
        "reference": _digest(utterance.reference),
        "target": utterance.target and _digest(utterance.target),
        "voices": {
            speaker: [_digest(path) for path in paths]
            for speaker, paths in utterance.voices.items()
        },
    }
    return {
        name: stamp(
            version, utterance.speaker, *(inputs[i] for i in METRICS[name].uses)
        )
        for name, version in versions.items()
    }


class ScoreFile:
    """The JSON lines of one system; the last line for an utterance counts.

    The file may be missing. Records that are broken are left out.
    """

    def __init__(self, path: Path):
        self.path = path
        records = read_json_lines(path)
        self.records = {
            key: record
            for key, record in records.items()
            if isinstance(record.get("speaker"), str)
            and isinstance(record.get("scores"), dict)
            and all(isinstance(score, dict) for score in record["scores"].values())
        }

    def scores(self, utterance: Utterance) -> dict[str, Any]:
        """Return the scores of an utterance by metric, to read and change."""
        record = self.records.setdefault(
            utterance.name, {"utterance": utterance.name, "scores": {}}
        )
        record["speaker"] = utterance.speaker
        return record["scores"]

    def append(self, utterance: Utterance) -> None:
        """Add the line of one utterance, so that an interruption does not lose it."""
        append_json_line(self.path, self.records[utterance.name])

    def rewrite(self) -> None:
        """Write the whole file, one line per utterance, in order."""
        records = (self.records[name] for name in sorted(self.records))
        write_json_lines(self.path, (one for one in records if one["scores"]))


def score_job(job: Job) -> dict[str, Any]:
    """Score one utterance of one system with all metrics that it lacks."""
    wave = load_wave(job.wav)
    return {
        name: {**METRICS[name].score(wave, job.utterance), "of": made_from}
        for name, made_from in job.stamps.items()
    }


def loading_fault(name: str) -> str | None:
    """Return why the model of a metric cannot be loaded; None if it can."""
    try:
        METRICS[name].load()
    except Exception as error:  # packages, network and files raise many kinds of error
        return f"{type(error).__name__}: {first_line(error)}"
    return None


class Results(NamedTuple):
    """The result of scoring."""

    # System -> metric -> utterance -> what ``Metric.score`` returned.
    scores: dict[str, dict[str, dict[str, Any]]]
    versions: dict[str, str]  # metric -> its model and packages
    faults: dict[str, str]  # metric -> reason why it has no values


def score_systems(
    systems: Sequence[System],
    data: dict[str, Utterance],
    metrics: Sequence[str],
    output_dir: Path,
    nj: int = 1,
) -> Results:
    """Score what has not been scored before.

    Recordings of ``data`` are scored by ``metrics``, keys of ``METRICS``, and kept in
    SYSTEM.jsonl of ``output_dir``. With ``nj`` 1, no other process is started.
    """
    versions, faults = {}, {}
    for name in metrics:
        try:
            versions[name] = METRICS[name].version()
        except importlib.metadata.PackageNotFoundError as error:
            faults[name] = f"the package {error.name} is not installed"
    measured = {
        name: metric
        for name in versions
        if isinstance(metric := METRICS[name], Measured)
    }
    judged = {name: versions[name] for name in versions if name not in measured}
    files = {s.name: ScoreFile(output_dir / f"{s.name}.jsonl") for s in systems}
    jobs = []
    for system in systems:
        for utterance in _said(system, data):
            scores = files[system.name].scores(utterance)
            record = system.synthesis.get(utterance.name, {})
            for name, metric in measured.items():
                value = metric.take(record)
                scores.pop(name, None)
                if value:
                    scores[name] = {**value, "of": record.get("of")}
            stamps = _stamps(system, utterance, judged)
            lacking = {
                name: made_from
                for name, made_from in stamps.items()
                if scores.get(name, {}).get("of") != made_from
            }
            for name in lacking:
                scores.pop(name, None)
            if lacking:
                wav = system.wavs[utterance.name]
                jobs.append(Job(system.name, utterance, wav, lacking))
        files[system.name].rewrite()

    from tqdm import tqdm

    needed = [name for name in judged if any(name in job.stamps for job in jobs)]
    with workers(min(nj, len(jobs))) as run:
        tried = run(loading_fault, needed)
        faults.update((name, fault) for name, fault in tried if fault is not None)
        for job in jobs:
            for name in faults:
                job.stamps.pop(name, None)
        jobs = [job for job in jobs if job.stamps]
        scored = run(score_job, jobs)
        for job, found in tqdm(scored, "scoring", len(jobs), unit="utt"):
            files[job.system].scores(job.utterance).update(found)
            files[job.system].append(job.utterance)
    for file in files.values():
        file.rewrite()
    results = {
        system.name: {
            name: {
                utterance.name: scores[name]
                for utterance in _said(system, data)
                if name in (scores := files[system.name].scores(utterance))
            }
            for name in metrics
            if name not in faults
        }
        for system in systems
    }
    for name in measured:
        if not any(columns[name] for columns in results.values()):
            faults[name] = f"no system has a {RECORDS} of `espnet-prune say --data_dir`"
    return Results(results, versions, faults)


def _said(system: System, data: dict[str, Utterance]) -> list[Utterance]:
    return [data[name] for name in data if name in system.wavs]


def _use_one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@contextlib.contextmanager
def workers(nj: int) -> Iterator[Callable[..., Iterator[tuple[Any, Any]]]]:
    """Yield ``run(function, items)``, which yields items with their results.

    With less than 2 processes, this one does the work in order.
    """
    if nj < 2:
        yield lambda function, items: ((item, function(item)) for item in items)
        return
    with process_pool(nj, _use_one_thread, method="spawn") as pool:

        def run(function, items):
            futures = {pool.submit(function, item): item for item in items}
            for future in as_completed(futures):
                yield futures[future], future.result()

        yield run
