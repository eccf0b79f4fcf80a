"""Send recordings through a mel and a vocoder, for a row of ground truth.

espnet-prune vocode --data_dir DATA --vocoder hifigan -o OUT

DATA is the Kaldi folder of a test set with gt_wav.scp. After an interruption, run it
again to continue; finished files are kept. `score --system
ground_truth_mel_hifigan=OUT` then has a row of these recordings.
"""

from collections.abc import Sequence
from pathlib import Path

from espnet_prune.cli.options import make_parser
from espnet_prune.errors import UserError
from espnet_prune.files import lock_folder
from espnet_prune.speech.vocoder import CHOICES, GRIFFIN_LIM


def main(cmd: Sequence[str] | None = None) -> None:
    """Check, then vocode."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--data_dir", type=Path, required=True, help="Kaldi folder with gt_wav.scp")
    add(
        "--vocoder",
        default=GRIFFIN_LIM,
        help=f"{CHOICES}; those of ParallelWaveGAN need --model",
    )
    add(
        "--model",
        help="Model whose mel is used: an experiment folder, a packed model or a tag "
        "(default: the mel that the vocoder was trained on)",
    )
    add("--model_file", help="Weights in the experiment folder of --model")
    add("--device", default="cpu", help="cpu, cuda or cuda:N")
    add("-o", "--output", type=Path, required=True, help="Folder for UTTERANCE.wav")
    args = parser.parse_args(cmd)
    if not (args.data_dir / "gt_wav.scp").is_file():
        raise UserError(
            f"{args.data_dir} has no gt_wav.scp; give a test set with recordings of "
            "its texts"
        )
    from espnet_prune.evaluation.copy_synthesis import copy_synthesis
    from espnet_prune.evaluation.scoring import read_wavs
    from espnet_prune.speech.pretrained import find_model

    wavs = read_wavs(args.data_dir / "gt_wav.scp")
    config = None
    if args.model is not None:
        config = find_model(args.model, args.model_file)["train_config"]
    folder = args.output
    with lock_folder(folder, "vocode"):
        copy_synthesis(wavs, args.vocoder, folder, config, args.device)
    print(f"{folder}: {len(wavs)} recordings through {args.vocoder}")
