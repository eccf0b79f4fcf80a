"""A listening test: made, rated in a real browser, and read back into MOS and SMOS."""

import csv
import itertools
import json
import re
from pathlib import Path

import markdown
import numpy as np
import pytest
import soundfile
from browser import Browser
from documents import cells_of
from tiny_experiment import voice

from espnet_prune import UserError
from espnet_prune.cli.listen import main
from espnet_prune.evaluation import listening, ratings
from espnet_prune.evaluation.listening import choose_utterances, deal_rounds, level
from espnet_prune.evaluation.metrics import Utterance
from espnet_prune.evaluation.page import Sound
from espnet_prune.evaluation.scoring import System

SYSTEMS = ("plain", "pruned", "ground_truth")
# what the rater of these tests thinks of each, in the first and the second part
OPINIONS = {"plain": (2, 3), "pruned": (4, 1), "ground_truth": (5, 5)}


# ------------------------------------------------------------------------ the page


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """A test set of three speakers with two utterances each, and two systems."""
    folder = tmp_path_factory.mktemp("sounds")
    names = [f"s{speaker}_u{u}" for speaker in range(3) for u in range(2)]
    lines = {"text": [], "utt2spk": [], "wav.scp": [], "gt_wav.scp": []}
    for number, name in enumerate(names):
        speaker = name.split("_")[0]
        for system in (*SYSTEMS, "reference"):
            path = folder / system / f"{name}.wav"
            path.parent.mkdir(exist_ok=True)
            pitch = 100.0 + 10 * number + 3 * (*SYSTEMS, "reference").index(system)
            # long enough to be interrupted, or short
            seconds = 2.0 if system == "reference" else 0.15
            soundfile.write(path, voice(seconds, pitch=pitch), 16000)
        lines["text"].append(f"{name} </script> & text {number}")
        lines["utt2spk"].append(f"{name} {speaker}")
        reference = folder / "reference" / f"{speaker}_u0.wav"
        lines["wav.scp"].append(f"{name} {reference}")
        lines["gt_wav.scp"].append(f"{name} {folder / 'ground_truth' / name}.wav")
    for file, content in lines.items():
        (folder / file).write_text("\n".join(content) + "\n")
    return folder


def make(sounds, output, *options):
    main(
        [
            *("make", "--data_dir", str(sounds), "--output_dir", str(output)),
            *("--system", f"plain={sounds / 'plain'}"),
            *("--system", f"pruned={sounds / 'pruned'}"),
            *options,
        ]
    )
    key = json.loads((output / "listening_test.key.json").read_text())
    return output / "listening_test.html", key


@pytest.fixture(scope="module")
def made(sounds, tmp_path_factory):
    return make(sounds, tmp_path_factory.mktemp("made"), "--utterances", "3")


@pytest.fixture
def browser(tmp_path):
    browser = Browser(tmp_path / "browser")
    yield browser
    browser.close()


def clip_now(browser):
    return browser.evaluate("steps[state.step].clip")


def opinion(key, browser):
    part = browser.evaluate("steps[state.step].part.name")
    system = key["clips"][clip_now(browser)]["system"]
    return OPINIONS[system][part == "SMOS"]


def rate_by_keys(browser, rating):
    step = browser.evaluate("state.step")
    browser.press("p")
    browser.until("heard[state.step]")
    browser.press(str(rating))
    browser.press("Enter")
    browser.until(f"state.step === {step + 1}")


def rate_by_mouse(browser, rating):
    step = browser.evaluate("state.step")
    browser.click("#play-sample")
    browser.until("heard[state.step]")
    browser.click(f"input[value='{rating}']")
    browser.click("#next")
    browser.until(f"state.step === {step + 1}")


def test_a_rater_rates_by_keys_and_mouse_and_collect_reads_it(
    made, browser, tmp_path, capsys
):
    page, key = made
    browser.open(page)
    browser.press("Enter")  # on the page, not in a field: does nothing
    browser.click("#start")
    assert "Enter your name" in browser.text("#status")
    browser.type('Ada "A"')
    browser.press("Enter")

    # practice comes first, needs both hearing and a rating, and does not count
    assert browser.text("h1") == "Naturalness: practice"
    assert "</script> & text" in browser.text("#text")
    browser.press("Enter")
    assert "Choose a rating" in browser.text("#status")
    browser.press('"')  # no rating, and no fault
    browser.press("3")
    browser.press("Enter")
    assert "Listen to the sample" in browser.text("#status")
    assert browser.evaluate("state.step") == 0
    rate_by_keys(browser, 3)
    assert browser.text("h1") == "Naturalness"
    assert browser.text("#place") == "Sample 1 of 18"

    ratings = {}
    for rate in (rate_by_mouse, rate_by_keys, rate_by_mouse):
        ratings[clip_now(browser)] = given = opinion(key, browser)
        rate(browser, given)

    # a reload in the middle goes on at the same place, in the same order
    before = browser.evaluate("[state.seed, state.step, ...steps.map((s) => s.clip)]")
    browser.reload()
    assert "Welcome back, Ada" in browser.text("#status")
    after = browser.evaluate("[state.seed, state.step, ...steps.map((s) => s.clip)]")
    assert before == after
    browser.click("#back")
    checked = "Number(document.querySelector('input:checked').value)"
    assert browser.evaluate(checked) == given
    browser.press("Enter")  # rated before: need not be heard again
    assert browser.evaluate("state.step") == 4

    browser.click("summary")
    browser.click("#partial")
    partial = browser.downloaded("ratings_*.csv").rename(tmp_path / "partial.csv")

    while browser.evaluate("steps[state.step].part.name") == "MOS":
        rate_by_keys(browser, opinion(key, browser))
    assert browser.text("h1") == "Similarity of voices: practice"
    browser.press("r")
    browser.until("!document.getElementById('reference').paused")
    browser.press("p")  # one at a time
    browser.until("document.getElementById('reference').paused")
    browser.until("heard[state.step]")
    while browser.evaluate("state.step < steps.length"):
        rate_by_keys(browser, opinion(key, browser))
    assert browser.text("h1") == "Finished"
    browser.click("#download")
    finished = browser.downloaded("ratings_*_Ada_A_.csv")
    assert finished.read_bytes().decode() == browser.evaluate("table()")
    assert browser.faults == []

    with open(finished, newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["rater"] for row in rows} == {'Ada "A"'}
    assert {row["seed"] for row in rows} == {str(before[0])}
    assert [int(row["position"]) for row in rows] == list(range(1, 19))
    assert all(int(row["plays"]) >= 1 and float(row["seconds"]) > 0 for row in rows)
    first = {row["clip"]: int(row["rating"]) for row in rows if row["part"] == "MOS"}
    assert ratings.items() <= first.items()

    result = tmp_path / "result"
    options = ["--key", str(page.with_name("listening_test.key.json"))]
    options += ["--output_dir", str(result)]
    with pytest.raises(UserError, match='partial.csv by Ada "A" lacks 15 ratings'):
        main(["collect", str(partial), *options])
    assert not result.exists()
    main(["collect", str(partial), "--keep_unfinished", *options])
    assert 'Ada "A" left 15 samples blank' in (result / "listening.md").read_text()
    capsys.readouterr()
    main(["collect", str(browser.downloads), *options])
    with open(result / "listening.csv", newline="") as file:
        rows = {(row["part"], row["system"]): row for row in csv.DictReader(file)}
    for (part, system), row in rows.items():
        assert float(row["value"]) == OPINIONS[system][part == "SMOS"]
        assert row["ratings"] == row["utterances"] == "3" and row["raters"] == "1"
        assert row["lower"] == ""  # one rater says nothing of others
    assert len(rows) == 6
    assert float(rows["MOS", "pruned"]["difference"]) == 2
    assert float(rows["SMOS", "pruned"]["difference"]) == -2
    lines = cells_of(capsys.readouterr().out)
    assert ["ground_truth", "5.00"] in [cells[:2] for cells in lines]


def test_page_tells_neither_systems_nor_utterances(made):
    page, key = made
    text = page.read_text()
    assert all(clip in text for clip in key["clips"])  # not idle
    # a spreadsheet would save 12345678e901 as another number
    for code in (key["test"], *key["clips"]):
        assert re.fullmatch("[a-z][0-9a-f]{12}", code)
    for name in (*SYSTEMS, "s0_u0", "s1_"):
        assert name not in text
    # only the text, which is shown, and the reference are known of a clip
    clips = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])[
        "clips"
    ]
    assert list(clips) == sorted(clips)
    assert {tuple(sorted(clip)) for clip in clips.values()} == {("reference", "text")}


def test_orders_differ_by_seed_and_spread_texts_and_systems(made, browser):
    page, key = made
    browser.open(page)
    texts = browser.evaluate(
        "Object.fromEntries(Object.entries(test.clips).map(([c, v]) => [c, v.text]))"
    )
    orders = []
    for seed in range(20):
        order = f"order({seed}).filter((s) => s.key).map((s) => s.key)"
        steps = [step.split() for step in browser.evaluate(order)]
        assert steps == [step.split() for step in browser.evaluate(order)]
        assert [part for part, _ in steps] == ["MOS"] * 9 + ["SMOS"] * 9
        for part in ("MOS", "SMOS"):
            clips = [clip for of, clip in steps if of == part]
            assert sorted(clips) == key["parts"][part]
            said = [texts[clip] for clip in clips]
            assert all(a != b for a, b in itertools.pairwise(said))
            systems = [key["clips"][clip]["system"] for clip in clips]
            for third in range(0, 9, 3):  # each system early, midway and late
                assert set(systems[third : third + 3]) == set(SYSTEMS)
        orders.append(tuple(clip for _, clip in steps))
    assert len(set(orders)) == 20


def test_controls_have_names_and_fit_a_phone(made, browser):
    page, _ = made
    browser.page.set_viewport_size({"width": 360, "height": 640})
    browser.open(page)
    for screen in ("welcome", "item", "finished"):
        if screen == "item":
            browser.click("#rater")
            browser.type("x")
            browser.press("Enter")
            browser.evaluate("state.step = 10, showStep()")  # with a reference
        if screen == "finished":
            browser.evaluate("state.step = steps.length, showStep()")
        assert not browser.evaluate(f"at('{screen}').hidden")
        controls = browser.names_of_controls()
        assert len(controls) >= 2 and all(name.strip() for _, name in controls)
        if screen == "item":
            assert [role for role, _ in controls].count("radio") == 5
            assert ("button", "▶ Play the reference") in controls
        assert browser.evaluate("document.documentElement.scrollWidth") <= 360
    assert browser.faults == []


def test_the_same_input_makes_the_same_page(sounds, made, tmp_path, capsys):
    page, key = made
    again, same = make(sounds, tmp_path / "a", "--utterances", "3")
    assert again.read_bytes() == page.read_bytes() and same == key
    shown = capsys.readouterr().out
    assert "18 ratings of 3 utterances by 3 systems (MOS, SMOS)" in shown
    _other, changed = make(sounds, tmp_path / "b", "--utterances", "3", "--seed", "1")
    assert changed["test"] != key["test"]
    assert not set(changed["clips"]) & set(key["clips"])
    _, alone = make(sounds, tmp_path / "c", "--utterances", "6", "--parts", "SMOS")
    assert list(alone["parts"]) == ["SMOS"] and len(alone["parts"]["SMOS"]) == 18


def utterances(*speakers):
    return {
        f"{speaker}_{number}": Utterance(
            f"{speaker}_{number}", speaker, "x", Path(), {}
        )
        for speaker, numbers in speakers
        for number in range(numbers)
    }


def test_utterances_are_drawn_evenly_over_speakers():
    data = utterances(("a", 9), ("b", 3), ("c", 1), ("d", 2))
    lacking = {name: Path() for name in data if name != "d_0"}
    systems = [System("one", dict.fromkeys(data, Path())), System("two", lacking)]
    draws = set()
    for seed in range(30):
        chosen, (practice,) = choose_utterances(data, systems, 7, seed)
        speakers = [name[0] for name in chosen]
        assert sorted(speakers[:4]) == ["a", "b", "c", "d"]
        assert sorted(speakers) == ["a", "a", "a", "b", "b", "c", "d"] or sorted(
            speakers
        ) == ["a", "a", "b", "b", "b", "c", "d"]
        assert "d_0" not in chosen and practice not in chosen
        draws.add(tuple(chosen))
    assert len(draws) > 20
    assert choose_utterances(data, systems, 7, 3) == choose_utterances(
        data, systems, 7, 3
    )
    assert choose_utterances(data, systems, 14, 0)[1][0] in data  # none is left over
    for number in (0, 15):
        with pytest.raises(
            UserError,
            match=f"{number} utterances are wanted, but all systems have only 14",
        ):
            choose_utterances(data, systems, number, 0)


def test_rounds_are_a_latin_square():
    draw = listening.random.Random(0)
    rounds = deal_rounds(["u1", "u2", "u3", "u4"], ["a", "b", "c"], draw)
    pairs = [pair for each in rounds for pair in each]
    assert len(pairs) == len(set(pairs)) == 12
    for each in rounds:
        assert sorted(u for u, _ in each) == ["u1", "u2", "u3", "u4"]
        assert {system for _, system in each} == {"a", "b", "c"}


def test_loudness_is_that_of_what_is_said():
    speech = voice(2.0, level=0.05)
    pauses = np.concatenate([speech, np.zeros(32000)])
    levels = [level(Sound(each, 16000)).wave for each in (speech, 4 * speech, pauses)]
    assert np.allclose(levels[0], levels[1], atol=1e-6)
    assert np.allclose(levels[0], levels[2][:32000], rtol=0.02, atol=1e-4)
    square = np.resize([0.01, -0.01], 16000)
    assert np.allclose(np.abs(level(Sound(square, 16000)).wave), 10 ** (-26 / 20))
    click = np.zeros(48000)
    click[100] = 0.5  # would be clipped at that level
    assert np.abs(level(Sound(click, 48000)).wave).max() == pytest.approx(0.99)
    silence = Sound(np.zeros(100), 16000)
    assert level(silence) is silence
    # floats whose squares are infinite or zero
    loud, faint = (np.full(1600, x, np.float32) for x in (3e38, 1e-42))
    assert np.abs(level(Sound(loud, 16000)).wave).max() == pytest.approx(0.05, rel=0.1)
    assert np.abs(level(Sound(faint, 16000)).wave).max() < 1e-41


def test_the_key_of_another_test_is_not_replaced(sounds, tmp_path):
    page, key = make(sounds, tmp_path, "--utterances", "2")
    before = page.read_bytes()
    make(sounds, tmp_path, "--utterances", "2")  # the same test
    with pytest.raises(UserError, match="is the key of another test"):
        make(sounds, tmp_path, "--utterances", "2", "--seed", "1")
    assert page.read_bytes() == before
    kept = json.loads((tmp_path / "listening_test.key.json").read_text())
    assert kept == key


def test_a_page_without_a_key_is_not_written(sounds, tmp_path):
    (tmp_path / "listening_test.key.json").mkdir()
    with pytest.raises(UserError, match="is not a key of a listening test"):
        make(sounds, tmp_path, "--utterances", "2")
    assert not (tmp_path / "listening_test.html").exists()


def test_sounds_that_no_page_can_have_are_named(sounds, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for path in (sounds / "plain").glob("*.wav"):
        soundfile.write(other / path.name, voice(0.2), 768000)
    with pytest.raises(UserError, match="768000 Hz, which no browser plays"):
        make(sounds, tmp_path / "out", "--utterances", "2", "--system", f"x={other}")
    for path in (sounds / "plain").glob("*.wav"):
        soundfile.write(other / path.name, voice(0.2), 16000)
    soundfile.write(other / "s0_u0.flac", voice(0.2), 16000)
    with pytest.raises(UserError, match="has s0_u0 as .wav and as .flac"):
        make(sounds, tmp_path / "out", "--utterances", "2", "--system", f"x={other}")
    (other / "s0_u0.flac").unlink()
    with pytest.raises(UserError, match="is not NAME=PATH"):
        make(sounds, tmp_path / "out", "--system", f"\udcff={other}")
    assert not (tmp_path / "out").exists()


# --------------------------------------------------------------------- the ratings

CLIPS = {f"{s}{u}": (s, u) for s in "ab" for u in "12"}  # two systems, two utterances


@pytest.fixture
def key(tmp_path):
    content = {
        "format": 1,
        "test": "t1",
        "title": "By hand",
        "seed": 0,
        "systems": ["ground_truth", "a", "b"],
        "parts": {"MOS": sorted(CLIPS), "SMOS": sorted(CLIPS)},
        "clips": {
            clip: {"system": system, "utterance": utterance, "speaker": "s"}
            for clip, (system, utterance) in CLIPS.items()
        },
    }
    path = tmp_path / "key.json"
    path.write_text(json.dumps(content))
    return path


def write_ratings(path, rater, ratings, test="t1", delimiter=","):
    """Write a file of ratings: (part, clip, rating) each."""
    lines = ["test,rater,seed,part,position,clip,rating,plays,seconds"]
    for number, (part, clip, rating) in enumerate(ratings, 1):
        lines.append(f"{test},{rater},7,{part},{number},{clip},{rating},1,2.5")
    path.write_text("\n".join(lines).replace(",", delimiter) + "\n")
    return path


def by_hand(mos, smos):
    """Ratings of a1, a2, b1 and b2 in both parts."""
    return [
        (part, clip, rating)
        for part, ratings in (("MOS", mos), ("SMOS", smos))
        for clip, rating in zip(sorted(CLIPS), ratings, strict=True)
    ]


def collect(key, output, *arguments):
    main(
        ["collect", "--key", str(key), "--output_dir", str(output)]
        + [str(argument) for argument in arguments]
    )


def test_lines_without_a_name_are_refused(key, tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("test,part,clip,rating,seed,position,rater\nt1,MOS,a1,3,7,1\n")
    with pytest.raises(UserError, match="line 2 of .*x.csv lacks columns"):
        collect(key, tmp_path / "out", path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("systems", [[], ["a"], [1, 2]])
def test_a_key_that_lacks_systems_is_refused(key, tmp_path, systems):
    key.write_text(json.dumps({**json.loads(key.read_text()), "systems": systems}))
    path = write_ratings(tmp_path / "x.csv", "X", by_hand((4,) * 4, (4,) * 4))
    with pytest.raises(UserError, match="clips of other systems than it names"):
        collect(key, tmp_path / "out", path)
    assert not (tmp_path / "out").exists()


def test_collect_gives_the_numbers_worked_by_hand(key, tmp_path, capsys):
    files = tmp_path / "files"
    files.mkdir()
    write_ratings(files / "x.csv", "X", by_hand((4, 4, 3, 3), (1, 2, 5, 5)))
    write_ratings(
        files / "y.csv", "Y", by_hand((5, 3, 4, 2), (1, 2, 5, 4)), delimiter=";"
    )
    collect(key, tmp_path / "out", files)
    with open(tmp_path / "out" / "listening.csv", newline="") as file:
        rows = {(row["part"], row["system"]): row for row in csv.DictReader(file)}
    assert list(rows) == [("MOS", "a"), ("MOS", "b"), ("SMOS", "a"), ("SMOS", "b")]

    a = dict(rows["MOS", "a"].items())
    assert float(a["value"]) == 4.0
    # deviations 0, 0, 1, -1: variance 2/3, t of three degrees of freedom 3.182446
    assert float(a["plus_minus"]) == pytest.approx(3.182446 * (2 / 3 / 4) ** 0.5)
    # sums of deviations: 0 and 0 of the raters, 1 and -1 of the utterances; so the
    # variances are 0, 2 x 2 / 16 and (of the four) 4 / 3 x 2 / 16; t of one degree of
    # freedom is 12.7062
    half = 12.7062 * 0.25**0.5
    ends = [float(a[end]) for end in ("lower", "upper")]
    assert ends == pytest.approx([4 - half, 4 + half], abs=1e-3)
    assert [a[f"rated_{i}"] for i in range(1, 6)] == ["0", "0", "1", "2", "1"]
    assert (a["ratings"], a["raters"], a["utterances"]) == ("4", "2", "2")
    assert a["difference"] == ""  # ground truth is not what others are compared to

    b = rows["MOS", "b"]
    # each rater gave each utterance of b one less: nothing is uncertain about that
    assert [float(b[f"difference{end}"]) for end in ("", "_lower", "_upper")] == [
        -1
    ] * 3
    assert float(b["value"]) == 3
    smos = rows["SMOS", "b"]
    assert float(smos["value"]) == 4.75
    # differences 4, 3, 4, 2; sums of deviations 0.5 and -0.5, then 1.5 and -1.5:
    # 2 x 0.5 / 16 + 2 x 4.5 / 16 - 4 / 3 x 2.75 / 16 = 0.395833, less than the second
    assert float(smos["difference"]) == pytest.approx(3.25)
    half = 12.7062 * (9 / 16) ** 0.5
    ends = [float(smos[f"difference_{end}"]) for end in ("lower", "upper")]
    assert ends == pytest.approx([3.25 - half, 3.25 + half], abs=1e-3)

    shown = capsys.readouterr().out
    assert cells_of(shown)[2][:4] == ["a", "4.00 [-2.35, 10.35]", "1.30", "-"]
    assert "-1.00 [-1.00, -1.00]" in shown and "2 listeners, test t1" in shown
    assert (tmp_path / "out" / "listening.md").read_text().strip() in shown


def test_intervals_count_few_raters_and_few_utterances():
    """Many ratings by few raters, who disagree, do not make a result sure."""
    names = [(f"r{i}", f"u{j}") for i in range(20) for j in range(20)]

    def half_width(rating):
        values = {(r, u): rating(int(r[1:]), int(u[1:])) for r, u in names}
        value, lower, upper = ratings.clustered_interval(values)
        assert value == 3 and upper - value == pytest.approx(value - lower)
        return upper - value

    # as if the 20 raters, or the 20 texts, had given one rating each, of 1 or 5
    twenty = ratings.independent_half_width([1, 5] * 10)
    assert half_width(lambda i, j: 1 + 4 * (i % 2)) == pytest.approx(twenty)
    assert half_width(lambda i, j: 1 + 4 * (j % 2)) == pytest.approx(twenty)
    # where both matter, it is as if there were 20 of each
    both = half_width(lambda i, j: 3 + 2 * (-1) ** i / 2 + 2 * (-1) ** j / 2)
    assert both == pytest.approx(twenty / 2**0.5, rel=0.03)


def test_raters_who_never_vary_are_named(key, tmp_path, capsys):
    first = write_ratings(tmp_path / "x.csv", "X", by_hand((3, 3, 3, 3), (1, 2, 3, 4)))
    collect(key, tmp_path / "out", first)
    shown = capsys.readouterr().out
    assert "- X gave every sample of MOS a 3" in shown and "of SMOS a" not in shown


def test_the_name_of_a_rater_stays_text(key, tmp_path):
    name = '"X\n\n| system | MOS |\n|---|---|\n| b | <b>5.00</b> |"'
    first = write_ratings(tmp_path / "x.csv", name, by_hand((3,) * 4, (1, 2, 3, 4)))
    collect(key, tmp_path / "out", first)
    text = (tmp_path / "out" / "listening.md").read_text()
    html = markdown.markdown(text, extensions=["tables"])
    assert html.count("<table") == 2 and "<b>" not in html  # MOS and SMOS
    (line,) = [line for line in text.splitlines() if "gave every sample" in line]
    assert line.startswith("- X \\| system")


def damaged(change):
    def harm(path):
        path.write_text(change(path.read_text()))

    return harm


@pytest.mark.parametrize(
    "harm, fault",
    [
        (
            damaged(lambda text: text.replace("t1,", "t2,")),
            "its test is t2, that of the key t1",
        ),
        (damaged(lambda text: text.replace("clip", "klip")), "columns are missing"),
        (damaged(lambda text: ""), "columns are missing"),
        (damaged(lambda text: "PK\x00\x01"), "columns are missing"),
        (damaged(lambda text: "<html>" + 200_000 * "A"), "ratings .*field larger than"),
        (lambda path: path.write_bytes(b"\xff\xfe\xff"), "is not a file of ratings"),
        (damaged(lambda text: text.replace(",a1,", ",z9,")), "line 2 of .* not in the"),
        (
            damaged(lambda text: text.replace(",a2,", ",a1,")),
            "line 3 of .* second time",
        ),
        (
            damaged(lambda text: text.replace(",a2,4", ",a2,6")),
            "rating '6', not 1 to 5",
        ),
        (damaged(lambda text: text.replace(",a2,4", ",a2,3.5")), "rating '3.5'"),
        (damaged(lambda text: text.replace(",a2,4", ",a2,")), "lacks 1 ratings; ask"),
        (damaged(lambda text: text[: len(text) // 2]), "lacks 5 ratings"),
        (damaged(lambda text: text.replace("X", "Y", 1)), "by several people"),
        (Path.unlink, "there is no .*x.csv; name"),
    ],
)
def test_files_that_cannot_be_used_are_named_in_one_line(key, tmp_path, harm, fault):
    path = write_ratings(tmp_path / "x.csv", "X", by_hand((4, 4, 3, 3), (1, 2, 5, 5)))
    collect(key, tmp_path / "before", path)
    harm(path)
    with pytest.raises(UserError, match=fault):
        collect(key, tmp_path / "out", path)
    assert not (tmp_path / "out").exists()


def test_two_files_of_one_rater_are_refused(key, tmp_path):
    ratings = by_hand((4, 4, 3, 3), (1, 2, 5, 5))
    first = write_ratings(tmp_path / "x.csv", "Ada B", ratings)
    second = write_ratings(tmp_path / "x (1).csv", "ada  b", ratings)
    with pytest.raises(UserError, match=r"x.csv and .*x \(1\).csv are both by ada"):
        collect(key, tmp_path / "out", first, second)


def test_what_is_no_key_is_refused(key, tmp_path):
    ratings = write_ratings(tmp_path / "x.csv", "X", by_hand((4,) * 4, (1,) * 4))
    for content, fault in (
        ("[]", "is not a key of a listening test"),
        ("{", "is not a key of a listening test"),
        ('{"format": 99}', "format is 99, not 1"),
        (key.read_text().replace('"clips"', '"clipt"'), "it lacks 'clips'"),
        (key.read_text().replace('"parts": {', '"parts": 3, "x": {'), "not a key"),
    ):
        key.write_text(content)
        with pytest.raises(UserError, match=fault):
            collect(key, tmp_path / "out", ratings)


def test_nothing_to_make_a_test_of(sounds, tmp_path):
    output = tmp_path / "out"
    with pytest.raises(UserError, match="cannot read .*text"):
        make(tmp_path, output)
    with pytest.raises(
        UserError, match="15 utterances are wanted, but all systems have only 6"
    ):
        make(sounds, output)
    assert not output.exists()
