"""Seconds at which tokens end become frames of each token, for ESPnet."""

import pytest

from espnet_prune import UserError
from espnet_prune.cli.durations import main
from espnet_prune.data.alignments import write_durations


def write(folder, **tables):
    folder.mkdir(exist_ok=True)
    for name, content in tables.items():
        (folder / name).write_text(content)
    return folder


def test_every_set_gets_one_number_a_token_and_for_eos(tmp_path, capsys):
    for name in ("train", "dev"):
        for folder in ("data", "raw"):
            write(tmp_path / folder)
        write(
            tmp_path / "data" / name,
            # tokens at 16 kHz, hop 160: 10 and 20 frames; the last is <eos>
            token_ends="a 0.1 0.3 0.3\nb 0.5 0.5\nc 1 1\n",
        )
        # c was too long, and left by stage 4
        write(tmp_path / "raw" / name, utt2num_samples="a 4800\nb 8079\n")
    main(
        [
            *("train", "dev", "--data_dir", str(tmp_path / "data")),
            *("--dump_dir", str(tmp_path / "raw"), "--fs", "16000"),
            *("--n_shift", "160", "--output_dir", str(tmp_path / "durations")),
        ]
    )
    for name in ("train", "dev"):
        written = (tmp_path / "durations" / name / "durations").read_text()
        # 1 + samples // 160 frames; those behind the last end are of <eos>
        assert written == "a 10 20 1\nb 50 1\n"
    assert "durations: 2 utterances" in capsys.readouterr().out


@pytest.mark.parametrize("missing", ["token_ends", "utt2num_samples"])
def test_a_missing_file_ends_in_one_line(tmp_path, missing):
    write(tmp_path, token_ends="a 1\n", utt2num_samples="a 1\n")
    (tmp_path / missing).unlink()
    with pytest.raises(UserError, match=f"no .*{missing}: run the stage"):
        write_durations(tmp_path, tmp_path, 16000, 256, tmp_path / "durations")
    assert not (tmp_path / "durations").exists()


def test_durations_of_other_utterances_are_refused(tmp_path):
    write(tmp_path, token_ends="a 0.1 0.2\n", utt2num_samples="b 9600\n")
    with pytest.raises(UserError, match="b of .* has no line in .*token_ends"):
        write_durations(tmp_path, tmp_path, 16000, 256, tmp_path / "durations")


def test_times_that_are_out_of_order_name_the_utterance(tmp_path):
    write(tmp_path, token_ends="a 0.3 0.2\n", utt2num_samples="a 9600\n")
    with pytest.raises(UserError, match="a: .* not in order"):
        write_durations(tmp_path, tmp_path, 16000, 256, tmp_path / "durations")


@pytest.mark.parametrize(
    "tables, fault",
    [
        ({"token_ends": "a 0.1 O.2\n", "utt2num_samples": "a 9600\n"}, " has no num"),
        ({"token_ends": "a 0.1 0.2\n", "utt2num_samples": "a 0.6s\n"}, " has no num"),
        ({"token_ends": "a 0.1 0.2\n", "utt2num_samples": f"a {10**30}\n"}, ": "),
    ],
)
def test_what_is_no_number_ends_in_one_line(tmp_path, tables, fault):
    write(tmp_path, **tables)
    with pytest.raises(UserError, match=f"^a{fault}"):
        write_durations(tmp_path, tmp_path, 16000, 256, tmp_path / "durations")
    assert not (tmp_path / "durations").exists()
