"""Scoring what systems said: every utterance once, whatever happens in between.

The scores of a system are kept as JSON lines, one an utterance:

    {"utterance": "spk1_text1", "speaker": "spk1", "scores": {"cer_whisper":
    {"value": 0.1, "edits": 2, ..., "of": "5d41402a", "version": "Whisper ..."}}}

``of`` stands for all that the value was computed from. A value whose files, text or
packages have changed since is computed again, all others are taken as they are.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import logging
import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import soundfile
from espnet2.fileio.read_text import read_2columns_text
from tqdm import tqdm

from espnet_prune.errors import UserError
from espnet_prune.evaluation.backends import RATE, load_wave
from espnet_prune.evaluation.scorers import METRICS, Utterance
from espnet_prune.files import replace_when_written
from espnet_prune.vocoder import PUBLISHED, build_vocoder, describe_features

Record = Dict[str, Any]


class System(NamedTuple):
    """What is compared.

    Attributes:
        name: In tables and of the file of its scores.
        wavs: Recording of each utterance.
        vocoder: The recordings are scored after their mel went through this vocoder;
            None scores them as they are.

    """

    name: str
    wavs: Dict[str, Path]
    vocoder: Optional[str] = None


class Job(NamedTuple):
    """One utterance of one system and the metrics that it lacks."""

    system: System
    utterance: Utterance
    metrics: Sequence[str]


# ---------------------------------------------------------------------- what is there


def read_data(data_dir: Path) -> Dict[str, Utterance]:
    """Read a Kaldi folder: ``text``, ``utt2spk``, and references in ``wav.scp``.

    Raises:
        UserError: A file, an entry or a recording is missing.

    """
    texts, speakers = (_read_columns(data_dir / name) for name in ("text", "utt2spk"))
    references = read_wavs(data_dir / "wav.scp")
    voices: Dict[str, List[Path]] = {}
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
        name: Utterance(name, speakers[name], text, references[name], voices)
        for name, text in texts.items()
    }


def read_wavs(source: Path) -> Dict[str, Path]:
    """Name the recording of each utterance.

    Args:
        source: A folder of ``UTTERANCE.wav`` or ``.flac``, or a Kaldi ``wav.scp`` of
            plain files, relative ones as seen from the working folder.

    Raises:
        UserError: There is no recording, or one is missing or no audio.

    """
    if source.is_dir():
        files = sorted((*source.glob("*.wav"), *source.glob("*.flac")))
        wavs = {file.stem: file for file in files}
        if not wavs:
            raise UserError(f"{source} holds no .wav or .flac; give another folder")
    else:
        wavs = {name: Path(path) for name, path in _read_columns(source).items()}
    for name, path in wavs.items():
        if str(path).rstrip().endswith("|"):
            raise UserError(
                f"{source} has a command for {name}; give a wav.scp of plain files, "
                "for instance that below dump/raw"
            )
        try:
            soundfile.info(str(path))
        except (soundfile.LibsndfileError, OSError) as error:
            fault = "cannot be read as audio" if path.is_file() else "is missing"
            raise UserError(
                f"{path}, {name} in {source}, {fault}; mend or remove it"
            ) from error
    return wavs


def _read_columns(path: Path) -> Dict[str, str]:
    try:
        table = read_2columns_text(path)
    except (OSError, UnicodeDecodeError, RuntimeError) as error:
        raise UserError(f"cannot read {path} ({error}); write `ID VALUE`") from error
    if not table:
        raise UserError(f"{path} is empty; write `ID VALUE`, one a line")
    return table


@functools.cache
def _digest(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()


def _inputs(system: System, utterance: Utterance) -> Dict[str, Any]:
    """Give what ``Metric.uses`` may name, in a form that changes when it changes."""
    return {
        "wav": [_digest(system.wavs[utterance.name]), system.vocoder],
        "text": utterance.text,
        "reference": _digest(utterance.reference),
        "voices": {
            speaker: [_digest(path) for path in paths]
            for speaker, paths in utterance.voices.items()
        },
    }


# --------------------------------------------------------------------- one utterance


def score_job(job: Job) -> Record:
    """Score one utterance of one system by all metrics that it lacks."""
    wave = _wave(job.system.wavs[job.utterance.name], job.system.vocoder)
    scores = {
        name: METRICS[name].score(wave, job.utterance) for name in job.metrics
    }
    return {
        "utterance": job.utterance.name,
        "speaker": job.utterance.speaker,
        "scores": scores,
    }


def _wave(path: Path, vocoder: Optional[str]) -> np.ndarray:
    if vocoder is None:
        return load_wave(path)
    import librosa
    import torch

    feats_extract, model = _vocoder(vocoder)
    original = torch.from_numpy(load_wave(path, model.fs))
    wave = model(feats_extract(original[None])[0][0]).numpy()
    return librosa.resample(wave, orig_sr=model.fs, target_sr=RATE).clip(-1, 1)


@functools.cache
def _vocoder(name: str):
    from espnet2.tts.feats_extract.log_mel_fbank import LogMelFbank

    feats_extract = LogMelFbank(**PUBLISHED)
    return feats_extract, build_vocoder(name, describe_features(feats_extract))


def _fault(name: str) -> Optional[str]:
    """Say why the model of a metric cannot be loaded; None if it can."""
    try:
        METRICS[name].load()
    except Exception as error:  # whatever a package, a network or a file may raise
        lines = str(error).strip().splitlines() or ["no reason given"]
        return f"{type(error).__name__}: {lines[0]}"
    return None


# -------------------------------------------------------------------- all utterances


class Scores(NamedTuple):
    """The result of scoring.

    Attributes:
        records: System -> utterance -> its JSON line.
        versions: Metric -> its model and packages.
        faults: Metric -> why there are no values of it.

    """

    records: Dict[str, Dict[str, Record]]
    versions: Dict[str, str]
    faults: Dict[str, str]


def score_systems(
    systems: Sequence[System],
    data: Dict[str, Utterance],
    metrics: Sequence[str],
    output_dir: Path,
    nj: int = 1,
) -> Scores:
    """Score what has not been scored before.

    Args:
        systems: What is compared; of their recordings those in ``data`` are scored.
        data: What they were asked to say.
        metrics: Names of ``scorers.METRICS``.
        output_dir: Folder of ``SYSTEM.jsonl``, which exists.
        nj: Processes; 1 scores in this one.

    Raises:
        UserError: A recording cannot be scored, or a process was killed.

    """
    versions, faults = {}, {}
    for name in metrics:
        try:
            versions[name] = METRICS[name].version()
        except importlib.metadata.PackageNotFoundError as error:
            faults[name] = f"the package {error.name} is not installed"
    records = {s.name: _read_records(output_dir / f"{s.name}.jsonl") for s in systems}
    fingerprints: Dict[Tuple[str, str, str], str] = {}
    jobs = []
    for system in systems:
        done = records[system.name]
        for name, utterance in data.items():
            if name not in system.wavs:
                done.pop(name, None)
                continue
            inputs = _inputs(system, utterance)
            scores = done.get(name, {}).get("scores", {})
            missing = []
            for metric in metrics:
                of = _fingerprint(inputs, metric)
                fingerprints[system.name, name, metric] = of
                score = scores.get(metric, {})
                current = score.get("of"), score.get("version")
                if current != (of, versions.get(metric)):
                    scores.pop(metric, None)
                    missing.append(metric)
            wanted = [metric for metric in missing if metric not in faults]
            if wanted:
                jobs.append(Job(system, utterance, wanted))
        _write_records(output_dir / f"{system.name}.jsonl", done)

    needed = [name for name in metrics if any(name in job.metrics for job in jobs)]
    with contextlib.ExitStack() as stack:
        files = {
            system.name: stack.enter_context(
                open(output_dir / f"{system.name}.jsonl", "a", encoding="utf-8")
            )
            for system in systems
        }
        run = stack.enter_context(_workers(min(nj, len(jobs))))
        for name, fault in run(_fault, needed):
            if fault is not None:
                faults[name] = fault
        jobs = [
            job._replace(metrics=[m for m in job.metrics if m not in faults])
            for job in jobs
        ]
        jobs = [job for job in jobs if job.metrics]
        progress = tqdm(total=len(jobs), unit="utt", disable=not jobs)
        for job, record in stack.enter_context(
            contextlib.closing(run(score_job, jobs))
        ):
            system, name = job.system.name, job.utterance.name
            for metric, score in record["scores"].items():
                score["of"] = fingerprints[system, name, metric]
                score["version"] = versions[metric]
            old = records[system].get(name, {}).get("scores", {})
            record["scores"] = {**old, **record["scores"]}
            records[system][name] = record
            files[system].write(_line(record))
            files[system].flush()
            progress.update()
        progress.close()
    for system in systems:
        _write_records(output_dir / f"{system.name}.jsonl", records[system.name])
    return Scores(records, versions, faults)
