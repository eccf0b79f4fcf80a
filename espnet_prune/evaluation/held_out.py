"""Losses of a trained model on held-out recordings with true durations.

They need no vocoder and no recogniser, so that hundreds of recordings take minutes. A
Kaldi folder has recordings in ``wav.scp``, their ``text`` and ``utt2spk``, and the ends
of their tokens in ``token_ends``, as ``espnet-prune align`` writes them. Models that
learn durations find them in the recording and do not need ``token_ends``.

The losses are those of a validation: each compares features that are normalised by the
statistics of the training, so compare only models of the same training data.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from espnet_prune import keys
from espnet_prune.data.kaldi import Finding, read_columns
from espnet_prune.data.labels import frame_count, frame_durations
from espnet_prune.errors import UserError
from espnet_prune.evaluation.metrics import Metric, Utterance
from espnet_prune.evaluation.records import digest, stamp
from espnet_prune.evaluation.scoring import ScoreFile, read_data
from espnet_prune.speech.audio import AudioError, read_mono

if TYPE_CHECKING:  # this import loads torch and ESPnet
    from espnet_prune.speech.synthesis import Text2Speech

MEL_LOSS_OTHER = "mel_loss_other"
MEASURES = {
    keys.MEL_LOSS: "mean absolute error of the mel (L1) with true durations, pitch and "
    "energy; the reference is the recording itself",
    MEL_LOSS_OTHER: "the same with another recording of the speaker as reference",
    "duration_loss": "mean squared error of the predicted log-duration",
    "pitch_loss": "mean squared error of the predicted pitch",
    "energy_loss": "mean squared error of the predicted energy",
}
LOSSES = tuple(MEASURES)


class Loss(Metric):
    """A loss as a column of tables; it is not scored by a model."""

    digits = 4

    def __init__(self, name: str):
        self.name, self.measures = name, MEASURES[name]


class Recording(NamedTuple):
    """A held-out recording."""

    utterance: Utterance  # name, speaker and text; its reference is the recording
    # End of each token and of <eos> in seconds; None if they are not known.
    ends: tuple[float, ...] | None
    other: Path | None  # another recording of the speaker; None if there is none


def read_recordings(folder: Path) -> list[Recording]:
    """Read a Kaldi folder of recordings and, if there is one, its ``token_ends``.

    The other recording of a speaker is the next one in the order of names.
    """
    data = read_data(folder)
    ends = {}
    if (folder / "token_ends").exists():
        ends = read_columns(folder / "token_ends")
    said: dict[str, list[str]] = {}
    for name in sorted(data):
        said.setdefault(data[name].speaker, []).append(name)
    recordings = []
    for names in said.values():
        for name, other in zip(names, [*names[1:], names[0]], strict=True):
            try:
                times = tuple(map(float, ends[name].split())) if name in ends else None
            except ValueError:
                raise UserError(
                    f"{folder / 'token_ends'} has no numbers for {name}: run "
                    "`espnet-prune align` again"
                ) from None
            another = data[other].reference if other != name else None
            recordings.append(Recording(data[name], times, another))
    return recordings


class HeldOut:
    """A trained StyleSpeech that measures its losses on recordings."""

    def __init__(self, text2speech: "Text2Speech"):
        from espnet_prune.model import StyleSpeech

        self.text2speech = text2speech
        self.model = text2speech.model.eval()
        if not isinstance(self.model.tts, StyleSpeech):
            raise UserError(
                f"{text2speech.model_file} is a {text2speech.train_args.tts}: held-out "
                "losses are for stylespeech"
            )
        self.fs = text2speech.reference_fs
        self._styles: dict[Path, Any] = {}

    def measure(self, recording: Recording) -> dict[str, float | None]:
        """Return every loss of ``LOSSES`` of one recording.

        That of another reference is None if there is none.
        """
        import torch

        with torch.no_grad():
            batch = self._batch(recording)
            values = self._losses(batch)
            values[MEL_LOSS_OTHER] = None
            if recording.other is not None:
                batch["style_vector"] = self._style(recording.other)
                values[MEL_LOSS_OTHER] = self._losses(batch)[keys.MEL_LOSS]
        return {name: values[name] for name in LOSSES}

    def _losses(self, batch) -> dict[str, float | None]:
        _, stats, _ = self.model.tts(**batch)
        return {name: float(stats[name]) for name in LOSSES if name in stats}

    def _speech(self, path: Path):
        """Return samples (1, T_wav) and their number (1,)."""
        import torch

        speech = torch.from_numpy(read_mono(path, self.fs))[None]
        dtype = getattr(torch, self.text2speech.dtype)
        speech = speech.to(self.text2speech.device, dtype)
        return speech, torch.tensor([speech.size(1)], device=speech.device)

    def _style(self, path: Path):
        """Return the style vector of a recording (1, S); it is computed once."""
        if path not in self._styles:
            feats, lengths = self.model.feats_extract(*self._speech(path))
            if self.model.normalize is not None:
                feats, lengths = self.model.normalize(feats, lengths)
            self._styles[path] = self.model.tts.encode_style(feats, lengths)
        return self._styles[path]

    def _batch(self, recording: Recording) -> dict[str, Any]:
        """Return what ESPnet gives its model in a validation, for one utterance."""
        import torch

        utterance = recording.utterance
        # as in training, tokens that the model does not know become <unk>
        ids = self.text2speech.preprocess_fn("<text>", {"text": utterance.text})["text"]
        text = torch.from_numpy(ids)
        speech, lengths = self._speech(utterance.reference)
        device = speech.device
        batch = {
            "text": text[None].to(device),
            "text_lengths": torch.tensor([len(text)], device=device),
        }
        if self.model.tts.durations == "given":
            if recording.ends is None:
                raise UserError(
                    f"there are no token_ends of {utterance.name}: run `espnet-prune "
                    "align` on its folder"
                )
            if len(recording.ends) != len(text) + 1:
                raise UserError(
                    f"token_ends has {len(recording.ends)} tokens of "
                    f"{utterance.name}, but its text has {len(text) + 1} with <eos>: "
                    "align with the g2p and the cleaner of the model"
                )
            hop = self.model.feats_extract.hop_length
            frames = frame_count(int(lengths), hop)
            numbers = frame_durations(recording.ends, self.fs, hop, frames)
            batch["durations"] = torch.from_numpy(numbers)[None].to(device)
            batch["durations_lengths"] = torch.tensor([len(numbers)], device=device)
        found = self.model.collect_feats(speech=speech, speech_lengths=lengths, **batch)
        for name, normalize in (
            ("feats", self.model.normalize),
            ("pitch", self.model.pitch_normalize),
            ("energy", self.model.energy_normalize),
        ):
            if normalize is not None and name in found:
                length = f"{name}_lengths"
                found[name], found[length] = normalize(found[name], found[length])
        return {**batch, **found}


def measure_all(
    held_out: HeldOut, recordings: Sequence[Recording], path: Path
) -> list[Finding]:
    """Measure what has not been measured before, and keep it as scores are kept.

    The file has one line for each utterance, see ``scoring``. Recordings that cannot be
    used are returned with the reasons; some must be usable.
    """
    from tqdm import tqdm

    weights = digest(held_out.text2speech.model_file)
    file, faults = ScoreFile(path), []
    file.rewrite()  # a line that was cut off would be continued by the next one
    for recording in tqdm(recordings, path.stem, unit="utt", ncols=79):
        utterance = recording.utterance
        paths = [utterance.reference, recording.other]
        files = [None if one is None else digest(one) for one in paths]
        made_from = stamp(weights, utterance.text, recording.ends, *files)
        scores = file.scores(utterance)
        if all(scores.get(name, {}).get("of") == made_from for name in LOSSES):
            continue
        try:
            values = held_out.measure(recording)
        except UserError as error:
            detail = error.detail if isinstance(error, AudioError) else str(error)
            faults.append(Finding(utterance.name, "no losses", detail))
            continue
        scores.update(
            {name: {"value": values[name], "of": made_from} for name in LOSSES}
        )
        file.append(utterance)
    file.rewrite()
    if recordings and len(faults) == len(recordings):
        raise UserError(f"no recording can be used, for instance: {faults[0].detail}")
    if faults:
        logging.warning(
            f"{path.stem} leaves out {len(faults)} of {len(recordings)} recordings, "
            f"for instance {faults[0].detail}"
        )
    return faults
