"""Turn durations in seconds into frames, for ESPnet's ``--teacher_dumpdir``.

``data/SET/token_ends`` has the ends of each token of an utterance and of <eos> in
seconds. The recordings have one sampling rate at this point, so that their frames can
be counted. This writes ``SET/durations``: one number of frames for each token.
"""

from collections.abc import Sequence
from pathlib import Path

from espnet_prune.cli.options import make_parser
from espnet_prune.data.alignments import write_durations


def main(cmd: Sequence[str] | None = None) -> None:
    """Write the durations of each set."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("sets", nargs="+", help="names of folders in --data_dir and --dump_dir")
    add("--data_dir", type=Path, default=Path("data"), help="has SET/token_ends")
    add("--dump_dir", type=Path, required=True, help="has SET/utt2num_samples")
    add("--fs", type=int, required=True, help="sampling rate of the features in Hz")
    add("--n_shift", type=int, required=True, help="samples per frame")
    add("--output_dir", type=Path, required=True, help="folder for SET/durations")
    args = parser.parse_args(cmd)
    for name in args.sets:
        output = args.output_dir / name / "durations"
        number = write_durations(
            args.data_dir / name, args.dump_dir / name, args.fs, args.n_shift, output
        )
        print(f"{output}: {number} utterances")
