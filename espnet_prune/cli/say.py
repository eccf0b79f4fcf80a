"""Speak texts in the voice of a recording.

espnet-prune say "text"
espnet-prune say "text" --reference ref.wav -o out.wav
espnet-prune say --model EXP --reference ref.wav "text" -o out.wav
espnet-prune say --model EXP --voice me.voice --text_file texts.txt -o out_folder
espnet-prune say --model EXP --data_dir DATA -o out_folder

DATA is the Kaldi folder of a zero-shot test set: ``text`` has the texts and ``wav.scp``
the references. In addition to each UTTERANCE.wav, synthesis.jsonl gets its computing
time and the kept share of attention connections. After an interruption, run it again to
continue.
"""

import argparse
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from tqdm import tqdm

from espnet_prune.cli.options import add_model, add_vocoder, make_parser
from espnet_prune.config import require_positive, require_whole
from espnet_prune.errors import UserError
from espnet_prune.files import can_name_a_file, replace_when_written
from espnet_prune.speech.audio import write_speech
from espnet_prune.text.normalise import normalise, read_lines

FORMATS = {".wav": "WAV", ".flac": "FLAC"}


def read_texts(source: str, kaldi: bool = False) -> dict[str, str]:
    """Read texts by their names, one per line; empty lines are skipped.

    ``source`` is a text file, or ``-`` for the standard input. With ``kaldi``, lines
    are ``ID text``; otherwise texts are numbered.
    """
    where = "the standard input" if source == "-" else source
    lines = [line for line in read_lines(source) if line.strip()]
    if not kaldi:
        said = [
            normalise(line, f"text {number} of {where}")
            for number, line in enumerate(lines, 1)
        ]
        said = [text for text in said if text]
        digits = max(4, len(str(len(said))))
        texts = {f"{number:0{digits}d}": text for number, text in enumerate(said, 1)}
    else:
        texts = _read_named(lines, where)
    if not texts:
        raise UserError(f"{where} contains no text: write one text per line")
    return texts


def _read_named(lines: list[str], where: str) -> dict[str, str]:
    """Read lines ``ID text``."""
    texts: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        name, *rest = line.split(maxsplit=1)
        text = normalise("".join(rest), f"text {number} of {where}")
        fault = None
        if not text:
            fault = f"has no text behind {name}"
        elif not can_name_a_file(name):
            fault = f"has the ID {name}, which cannot name a file"
        elif name in texts:
            fault = f"has the ID {name} a second time"
        if fault is not None:
            raise UserError(f"text {number} of {where} {fault}: write `ID text`")
        texts[name] = text
    return texts


def new_file() -> Path:
    """Return a name for the speech of one text that the current folder lacks."""
    names = (Path(f"speech_{number}.wav") for number in count(1))
    return next(name for name in names if not name.exists())


def output_files(texts: dict[str, str], output: Path, one: bool) -> list[Path]:
    """Return the file of each text; refuse files that cannot be written.

    ``output`` is an audio file if the text was given on the command line (``one``),
    otherwise a folder.
    """
    if one:
        if output.suffix.lower() not in FORMATS or output.is_dir():
            raise UserError(
                f"the output {output} is not an audio file: name one that ends in "
                f"{' or '.join(FORMATS)}"
            )
        if not output.parent.is_dir():
            raise UserError(f"the folder {output.parent} is missing: make it first")
        return [output]
    above = next(path for path in (output, *output.parents) if path.exists())
    if not above.is_dir():
        raise UserError(f"the output {above} is a file: many texts need a folder")
    return [output / f"{name}.wav" for name in texts]


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of this verb."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("text", nargs="?", help="Text to speak, of any length")
    add(
        "--text_file",
        metavar="FILE",
        help="Texts to speak, one per line, in UTF-8; - reads the standard input",
    )
    add(
        "--kaldi",
        action="store_true",
        help="Lines of the text file are `ID text`, and ID names the output",
    )
    add(
        "--data_dir",
        type=Path,
        metavar="DATA",
        help="Kaldi folder with text, wav.scp (references) and utt2spk, in place of "
        "text and reference",
    )
    add_model(parser)
    add(
        "--reference",
        action="append",
        metavar="FILE",
        help="Recording of the voice, with any sampling rate. If you give several, "
        "their style vectors are averaged",
    )
    add(
        "--voice",
        metavar="VOICE",
        help="Voice to use instead of recordings: a file of espnet-prune voice, or the "
        "name of a voice of the model (default, without --reference: its first "
        "voice)",
    )
    add(
        "--list_voices",
        action="store_true",
        help="Print the names of the voices of the model, and their notes",
    )
    add(
        "--trim_reference",
        action="store_true",
        help="Remove silence at both ends of the recordings",
    )
    add(
        "-o",
        "--output",
        type=Path,
        help="Audio file (.wav or .flac) for one text (default: a new file "
        "speech_N.wav), folder for a text file",
    )
    add_vocoder(parser)
    add("--speed", type=float, default=1.0, help="2 speaks twice as fast")
    add("--device", default="cpu", help="cpu, cuda or cuda:N")
    add(
        "--batch_size",
        type=int,
        default=8,
        help="Number of texts that are computed together",
    )
    return parser


def main(cmd: Sequence[str] | None = None) -> None:
    """Check everything, then speak."""
    args = get_parser().parse_args(cmd)
    if args.list_voices:
        list_voices(args.model, args.model_file)
        return
    given = [args.text, args.text_file, args.data_dir]
    if sum(value is not None for value in given) != 1:
        raise UserError(
            "there is not exactly one source of texts: give a text, --text_file or "
            "--data_dir"
        )
    require_positive("--speed", args.speed)
    require_whole("--batch_size", args.batch_size)
    if args.text is not None and args.output is None:
        args.output = new_file()
    if args.output is None:
        raise UserError("many texts need a folder for their speech: add -o FOLDER")
    if args.data_dir is not None:
        for name in ("reference", "voice", "kaldi", "trim_reference"):
            if getattr(args, name):
                raise UserError(
                    f"--data_dir has its own references: leave --{name} out"
                )
        output_files({}, args.output, one=False)
        # after the quick checks: it takes seconds to import
        from espnet_prune.evaluation.speaking import speak_test_set

        number, new = speak_test_set(
            args.data_dir,
            args.output,
            args.model,
            args.model_file,
            args.vocoder,
            args.device,
            args.batch_size,
            args.speed,
        )
        print(f"{args.output}: {number} utterances, of which {new} are new")
        return
    if args.reference is not None and args.voice is not None:
        raise UserError("two voices were given: leave out --reference or --voice")
    if args.trim_reference and args.reference is None:
        raise UserError("--trim_reference needs a --reference: add it")
    one = args.text_file is None
    texts = {"": args.text} if one else read_texts(args.text_file, args.kaldi)
    files = output_files(texts, args.output, one)

    # after the quick checks: it takes seconds to import
    from espnet_prune.speech.synthesis import Text2Speech

    options = {} if args.vocoder is None else {"vocoder": args.vocoder}
    text2speech = Text2Speech.from_pretrained(
        args.model, model_file=args.model_file, device=args.device, **options
    )
    tokens = [text2speech.tokenize(text) for text in texts.values()]
    styles = None  # the first voice of the model
    if args.voice is not None:
        styles = [text2speech.read_voice(args.voice)]
    elif args.reference is not None:
        styles = [text2speech.style_vector(args.reference, trim=args.trim_reference)]
    elif not text2speech.voices:
        raise UserError(
            "no voice was given: name a recording with --reference, or a voice file "
            "with --voice"
        )

    seconds = 0.0
    said = text2speech.stream(
        tokens, style_vectors=styles, speed=args.speed, batch_size=args.batch_size
    )
    for number, output in tqdm(said, total=len(files), unit="text", disable=one):
        if "wav" not in output:
            raise UserError(
                "the features of this model have no vocoder: train with tts.sh "
                "--feats_extract fbank"
            )
        write_wave(files[number], output["wav"].cpu().numpy(), text2speech.fs)
        seconds += len(output["wav"]) / text2speech.fs
    print(f"{args.output}: {seconds:.1f} s of speech from {len(files)} text(s)")


def list_voices(model: str | None, model_file: str | None) -> None:
    """Print the voices of a model, one on each line, and the note of each."""
    from espnet_prune.speech.pretrained import find_model, find_voices
    from espnet_prune.speech.voice import load_voice

    voices = find_voices(find_model(model, model_file)["train_config"])
    if not voices:
        raise UserError(
            "this model has no voices of its own: name a recording with --reference"
        )
    width = max(map(len, voices))
    for name, file in voices.items():
        print(f"{name:{width}}  {' '.join(load_voice(file).note.split())}".rstrip())


def write_wave(file: Path, wave, fs: int) -> None:
    """Write a wave (T_wav,) as 16 bit samples; the file is whole or absent."""
    with replace_when_written(file) as partial:
        write_speech(partial, wave, fs, FORMATS[file.suffix.lower()])
