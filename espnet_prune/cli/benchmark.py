"""Measure what pruning costs: training steps of the mel decoder against the dense one.

python -m espnet_prune.cli.benchmark

A step is what training does with the decoder of the paper's size: forward, loss (in
phase 1 with L_sp), the statistics that are reported, backward. The systems take turns
in rounds, so that what else the machine does weighs on all of them alike, and every
ratio is one of two steps of the same round.
"""

import argparse
import statistics
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

import torch

from espnet_prune.attention import pruning_terms
from espnet_prune.errors import UserError
from espnet_prune.evaluation import tables
from espnet_prune.model import StyleSpeech
from espnet_prune.speech.pretrained import require_device

WARM_UP = 3  # rounds that are not counted: allocator, caches, clock of the processor
ODIM = 80


class System(NamedTuple):
    """Settings of a decoder, and the ratio to the dense one it should not exceed."""

    settings: Dict[str, Any]
    target: Optional[float] = None


SYSTEMS = {
    "dense": System(dict(pruning="none")),
    "vanilla": System(dict(pruning="vanilla")),
    "soft masks (phase 1)": System(
        dict(pruning="differentiable", pruning_conf=dict(phase=1)), 1.35
    ),
    "hard masks (phase 2)": System(
        dict(pruning="differentiable", pruning_conf=dict(phase=2)), 1.10
    ),
}
COLUMNS = (
    tables.Column("decoder", "decoder"),
    tables.Column("step_ms", "step (ms)", tables.number),
    tables.Column("ratio", "ratio to dense", "{:.3f}".format),
    tables.Column("lower_quartile", "lower quartile", "{:.3f}".format),
    tables.Column("upper_quartile", "upper quartile", "{:.3f}".format),
    tables.Column("target", "target at most", "{:.2f}".format),
)


def get_parser() -> argparse.ArgumentParser:
    """Get argument parser."""
    parser = argparse.ArgumentParser(
        description="Measure a training step of pruned decoders against a dense one's",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--batch_size", type=int, default=8, help="Utterances")
    parser.add_argument(
        "--frames", type=int, default=500, help="Mel frames of each utterance"
    )
    parser.add_argument(
        "--repeats", type=int, default=20, help="Rounds; each runs every decoder once"
    )
    parser.add_argument("--json", help="File to write the numbers to as well")
    return parser


def make_step(
    settings: Dict[str, Any], batch_size: int, frames: int, device: str
) -> Callable[[], None]:
    """Build a decoder of the paper's dimensions and what training does with it.

    Args:
        settings: ``pruning`` and ``pruning_conf`` of the model.
        batch_size: B.
        frames: T_feats, all of them valid.
        device: Where to run.

    Returns:
        A function that runs one step: forward, loss, statistics, backward.

    """
    torch.manual_seed(0)
    model = StyleSpeech(idim=3, odim=ODIM, **settings)
    decoder = model.decoder.to(device).train()
    width = decoder.output.in_features
    style_dim = model.style_encoder(
        torch.zeros(1, 1, ODIM), torch.ones(1, 1, 1, dtype=torch.bool)
    ).size(-1)
    # Both come from trained layers and hand their gradients on.
    x = torch.randn(batch_size, frames, width, device=device, requires_grad=True)
    style = torch.randn(batch_size, style_dim, device=device, requires_grad=True)
    feats = torch.randn(batch_size, frames, ODIM, device=device)
    valid = torch.ones(batch_size, frames, 1, dtype=torch.bool, device=device)

    def step() -> None:
        for leaf in (x, style, *decoder.parameters()):
            leaf.grad = None
        loss = (decoder(x, style, valid) - feats).abs().mean()
        sparsity, report = pruning_terms({"": decoder})
        (loss + sparsity).backward()
        for value in report.values():  # the reporter takes them off the device
            value.item()

    return step


def measure(
    steps: Dict[str, Callable[[], None]], repeats: int, device: str
) -> Dict[str, List[float]]:
    """Time every step once a round, in an order that rotates from round to round.

    Returns:
        Seconds of each step, one a round.

    """
    names = list(steps)
    seconds: Dict[str, List[float]] = {name: [] for name in names}
    for round_ in range(WARM_UP + repeats):
        first = round_ % len(names)
        for name in names[first:] + names[:first]:
            _synchronise(device)
            start = time.perf_counter()
            steps[name]()
            _synchronise(device)
            if round_ >= WARM_UP:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def summarise(seconds: Dict[str, List[float]]) -> List[Dict[str, Any]]:
    """Make a row for each system: median time, median and quartiles of its ratios."""
    rows = []
    for name, times in seconds.items():
        ratios = [mine / dense for mine, dense in zip(times, seconds["dense"])]
        lower, median, upper = statistics.quantiles(ratios, n=4, method="inclusive")
        rows.append(
            {
                "decoder": name,
                "step_ms": 1000 * statistics.median(times),
                "ratio": median,
                "lower_quartile": lower,
                "upper_quartile": upper,
                "target": SYSTEMS[name].target,
            }
        )
    return rows


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Measure, print the table and write the JSON."""
    args = get_parser().parse_args(cmd)
    for name, least in (("batch_size", 1), ("frames", 1), ("repeats", 2)):
        if getattr(args, name) < least:
            raise UserError(
                f"--{name} is {getattr(args, name)}; choose {least} or more"
            )
    require_device(args.device)
    steps = {
        name: make_step(system.settings, args.batch_size, args.frames, args.device)
        for name, system in SYSTEMS.items()
    }
    rows = summarise(measure(steps, args.repeats, args.device))
    device = args.device
    if device == "cpu":
        device = f"cpu, {torch.get_num_threads()} threads"
    print(
        f"Decoder of 4 blocks, forward and backward, {args.batch_size} x {args.frames} "
        f"frames, {device}, median of {args.repeats} rounds\n"
    )
    print(tables.markdown(rows, COLUMNS))
    if args.json is not None:
        content = {
            "batch_size": args.batch_size,
            "frames": args.frames,
            "repeats": args.repeats,
            "device": args.device,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "decoders": rows,
        }
        try:
            tables.write_json(args.json, content)
        except OSError as error:
            raise UserError(
                f"cannot write --json {args.json} ({error.strerror}); choose another"
            ) from None
        print(f"Written: {args.json}")


def _synchronise(device: str) -> None:
    """Wait for a GPU, which works off its queue on its own time."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
