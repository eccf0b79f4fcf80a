"""The corpus of ``tiny_training`` as a dataset of ESPnet 3."""

from pathlib import Path

import numpy as np
import soundfile
from espnet3.components.data.base_dataset import BaseDataset
from espnet3.contract import Field
from tiny_training import TEXTS


class Dataset(BaseDataset):
    """Recordings in a folder, and their texts."""

    fields = (Field("speech", "audio"), Field("text", "text"))

    def __init__(self, folder: str):
        self.folder = Path(folder)
        self.names = sorted(TEXTS)

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        name = self.names[int(index)]
        speech, _ = soundfile.read(self.folder / f"{name}.wav")
        return {"speech": speech.astype(np.float32), "text": TEXTS[name]}
