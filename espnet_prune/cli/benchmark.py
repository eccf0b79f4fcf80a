"""Measure the cost of pruning: the time of a training step, a sentence and a start."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet_prune.cli.options import make_parser
from espnet_prune.errors import UserError
from espnet_prune.evaluation import benchmark, tables
from espnet_prune.loading import load_yaml


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of this verb."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add(
        "--parts",
        nargs="+",
        default=["decoder"],
        choices=[*benchmark.WHAT, "all"],
        help="What to measure",
    )
    add(
        "--against",
        type=Path,
        help="Checkout of espnet_prune or of the public StyleSpeech to compare with",
    )
    add(
        "--config",
        type=Path,
        help="Training configuration with the model's size (default: that of the "
        "paper)",
    )
    add("--device", default="cpu", help="cpu, cuda or cuda:N")
    add("--precision", default="float32", choices=["float32", "bfloat16", "float16"])
    add("--compile", action="store_true", help="Compile the model")
    add(
        "--tour",
        action="store_true",
        help="Instead of --parts, --precision and --compile, measure training in "
        "float32, in bfloat16, and compiled; learned durations; and synthesis. This is "
        "meant for a GPU, where it takes less than 8 minutes with --repeats 5",
    )
    add("--threads", type=int, help="Threads of the CPU (default: PyTorch's choice)")
    add("--batch_size", type=int, default=8, help="Utterances")
    add("--frames", type=int, default=480, help="Mel frames of each utterance")
    add("--repeats", type=int, default=20, help="Rounds; each runs every system once")
    add(
        "--memory",
        action="store_true",
        help="Measure peak memory in fresh processes instead of time",
    )
    add("--json", help="File to write the numbers to as well")
    return parser


def main(cmd: Sequence[str] | None = None) -> None:
    """Measure, print the tables and write the JSON."""
    args = get_parser().parse_args(cmd)
    for name, least in (
        ("batch_size", 1),
        ("frames", benchmark.LEAST_FRAMES),
        ("repeats", 2),
        ("threads", 1),
    ):
        value = getattr(args, name)
        if value is not None and value < least:
            raise UserError(f"--{name} is {value}; choose {least} or more")
    from espnet_prune.speech.pretrained import require_device

    require_device(args.device)
    parts = list(benchmark.WHAT) if "all" in args.parts else args.parts
    if args.tour:
        parts = list(dict.fromkeys(part for part, _, _ in benchmark.TOUR))
    if args.against is not None and benchmark.is_public(args.against):
        lacking = [part for part in parts if part not in benchmark.PUBLIC_PARTS]
        if lacking and "all" not in args.parts and not args.tour:
            raise UserError(
                f"the public StyleSpeech has no {' or '.join(lacking)} to measure: "
                f"choose --parts {' '.join(benchmark.PUBLIC_PARTS)}"
            )
        parts = [part for part in parts if part not in lacking]
    model = {} if args.config is None else read_model_settings(args.config)
    machine = benchmark.describe_machine(args.against)
    print("\n".join(f"{name}: {value}" for name, value in machine.items()))
    rows = []
    settings = [(part, args.precision, args.compile) for part in parts]
    if args.tour:
        settings = [setting for setting in benchmark.TOUR if setting[0] in parts]
    for part, precision, compiled in settings:
        work = benchmark.Work(
            part,
            model=model,
            batch_size=args.batch_size,
            frames=args.frames,
            device=args.device,
            precision=precision,
            compile=compiled,
        )
        if args.memory:
            new = benchmark.peak_memory(work, args.against, args.threads)
            columns = benchmark.MEMORY_COLUMNS
        else:
            new = benchmark.measure(work, args.against, args.repeats, args.threads)
            columns = benchmark.TIME_COLUMNS
            if args.against is not None:
                columns += benchmark.AGAINST_COLUMNS
            if args.device.startswith("cuda"):
                columns += (benchmark.MEMORY,)
        print(
            f"\n{describe(work, args)}\n\n{tables.markdown(new, columns)}", flush=True
        )
        rows += new
    if args.json is not None:
        given = {name: str(value) for name, value in vars(args).items() if value}
        content = {"machine": machine, "settings": given, "rows": rows}
        tables.write_json(args.json, content)
        print(f"Written: {args.json}")


def describe(work: benchmark.Work, args: argparse.Namespace) -> str:
    """Return one line that describes a table."""
    size = f"{work.batch_size} x {work.frames} frames"
    if work.part == "synthesis":
        size = f"1 x {work.frames} frames"
    what = benchmark.WHAT[work.part]
    if work.part != "start":
        what += f", {size}, {work.device}, {work.precision}"
        what += ", compiled" if work.compile else ""
    if args.memory:
        return f"{what}: peak memory of a fresh process after two steps"
    return f"{what}: medians of {args.repeats} rounds"


def read_model_settings(config: Path) -> dict:
    """Read ``tts_conf`` of a training configuration."""
    content = load_yaml(config, "training configuration")
    if content.get("tts") != "stylespeech":
        raise UserError(
            f"--config {config} does not set tts: stylespeech; give a configuration "
            "that does"
        )
    return content.get("tts_conf") or {}
