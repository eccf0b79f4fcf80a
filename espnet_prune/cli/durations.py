"""Durations in seconds to durations in frames, for ESPnet's ``--teacher_dumpdir``.

``data/SET/token_ends`` says where each token of an utterance and <eos> end, in seconds;
the recordings have been brought to one sampling rate by then, so that their frames can
be counted. Written is ``SET/durations``: one number for each of them.
"""

import argparse
from pathlib import Path

from espnet_prune.data.labels import frame_count, frame_durations
from espnet_prune.errors import UserError
from espnet_prune.files import read_columns, replace_when_written


def make_durations(
    data_dir: Path, dump_dir: Path, fs: int, n_shift: int, output: Path
) -> int:
    """Write the durations of one set.

    Args:
        data_dir: folder with ``token_ends``.
        dump_dir: folder of the same set with ``utt2num_samples``, at ``fs``; says
            which utterances are in use.
        fs: sampling rate of the features in Hz.
        n_shift: samples a frame.
        output: file to write.

    Returns:
        int: number of utterances.

    Raises:
        UserError: an utterance has no ends, or none that are in order, or a file is
            missing.

    """
    ends = read_columns(data_dir / "token_ends")
    lines = []
    for name, samples in read_columns(dump_dir / "utt2num_samples").items():
        if name not in ends:
            raise UserError(
                f"{name} of {dump_dir} has no line in {data_dir}/token_ends: run from "
                "stage 1, after a change of data"
            )
        try:
            times = list(map(float, ends[name].split()))
            frames = frame_count(int(samples), n_shift)
        except ValueError as error:
            raise UserError(
                f"{name} has no numbers in {data_dir}/token_ends or "
                f"{dump_dir}/utt2num_samples ({error}): run from stage 1"
            ) from None
        try:
            durations = frame_durations(times, fs, n_shift, frames)
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
        lines.append(f"{name} {' '.join(map(str, durations))}\n")
    output.parent.mkdir(parents=True, exist_ok=True)
    with replace_when_written(output) as partial:
        partial.write_text("".join(lines), encoding="utf-8")
    return len(lines)


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = argparse.ArgumentParser(
        description="Turn the ends of tokens in seconds into frames of each token.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("sets", nargs="+", help="names of folders in --data_dir and --dump_dir")
    add("--data_dir", type=Path, default=Path("data"), help="has SET/token_ends")
    add("--dump_dir", type=Path, required=True, help="has SET/utt2num_samples")
    add("--fs", type=int, required=True, help="sampling rate of the features in Hz")
    add("--n_shift", type=int, required=True, help="samples a frame")
    add("--output_dir", type=Path, required=True, help="gets SET/durations")
    return parser


def main(cmd=None) -> None:
    """Write the durations of each set."""
    args = get_parser().parse_args(cmd)
    for name in args.sets:
        output = args.output_dir / name / "durations"
        number = make_durations(
            args.data_dir / name, args.dump_dir / name, args.fs, args.n_shift, output
        )
        print(f"{output}: {number} utterances")
