"""egs2/setup.sh, without a network: with made-up interpreters on PATH."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

EGS2 = Path(__file__).resolve().parents[1] / "egs2"

# Answers as Python 3.12 does to what setup.sh asks; "pip" writes down its arguments,
# and fails or hangs where a file of the test says so.
PYTHON = """#!/usr/bin/env bash
case "$*" in
    "-c "*_base_executable*) echo "{path}" ;;
    "-m venv "*)
        mkdir -p "$3/bin" "$3/lib/python3.12/site-packages/espnet-202611.dist-info"
        cp "{path}" "$3/bin/python3"
        ;;
    "-m pip "*)
        echo "$*" >> "{calls}"
        if [ -e "{folder}/pip_fails" ]; then echo "ERROR: no network"; exit 1; fi
        if [ -e "{folder}/pip_hangs" ]; then exec sleep 60; fi
        ;;
    "-m espnet_prune "*)
        shift 2
        printf '<%s>' "$@"
        ;;
esac
"""


class Checkout:
    """A checkout in which setup.sh finds the one interpreter that a test gives it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.root = folder / "checkout"
        self.tools = self.root / "tools"
        self.calls = folder / "calls"
        self.bin = folder / "bin"
        for made in (self.root / "egs2", self.root / "espnet_prune", self.bin):
            made.mkdir(parents=True)
        for script in ("setup.sh", "say.sh"):
            shutil.copy(EGS2 / script, self.root / "egs2")
        (self.root / "setup.py").write_text("setup()\n")
        (self.root / "espnet_prune" / "__init__.py").write_text('__version__ = "1"\n')
        espnet = folder / "espnet" / "egs2" / "TEMPLATE" / "tts1"
        espnet.mkdir(parents=True)
        (espnet / "tts.sh").touch()

    def program(self, name: str, script: str) -> Path:
        path = self.bin / name
        path.write_text(script)
        path.chmod(0o755)
        return path

    def python(self, name: str = "python3.12") -> Path:
        """Make a usable interpreter: a command on PATH, or a whole path."""
        path = self.bin / name
        path.parent.mkdir(parents=True, exist_ok=True)
        script = PYTHON.format(path=path, calls=self.calls, folder=self.folder)
        return self.program(name, script)

    def start(self, *args, script="setup.sh", **variables) -> subprocess.Popen:
        environment = {
            "HOME": str(self.folder),
            # Everything but the interpreters and pyenv of the machine.
            "PATH": f"{self.bin}:{self.system_programs()}",
            "ESPNET_ROOT": str(self.folder / "espnet"),
        }
        environment.update(variables)
        return subprocess.Popen(
            ["bash", str(self.root / "egs2" / script), *args],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def system_programs(self) -> Path:
        folder = self.folder / "system"
        if not folder.exists():
            folder.mkdir()
            for name in [
                "bash",
                "cat",
                "cksum",
                "cp",
                "cut",
                "date",
                "dirname",
                "env",
                "flock",
                "grep",
                "ls",
                "mkdir",
                "mv",
                "perl",
                "readlink",
                "rm",
                "sed",
                "sleep",
                "tail",
                "tar",
            ]:
                (folder / name).symlink_to(shutil.which(name))
        return folder

    def run(self, *args, **variables):
        process = self.start(*args, **variables)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def pip_calls(self) -> list:
        return self.calls.read_text().splitlines() if self.calls.exists() else []


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def refuses(result, *words):
    """The command ended with exit code 2 and one line that has all the words."""
    code, _, err = result
    assert code == 2
    assert err.startswith("setup.sh: error: ")
    assert err.count("\n") == 1, err
    for word in words:
        assert word in err


def test_makes_the_environment_and_then_has_nothing_to_do(checkout):
    python = checkout.python()
    code, out, err = checkout.run()
    assert (code, err) == (0, "")
    assert f"with {python}" in out
    assert any("[recipe]" in call for call in checkout.pip_calls())
    calls = len(checkout.pip_calls())

    code, out, err = checkout.run()
    assert (code, err) == (0, "")
    assert "nothing to do" in out
    assert len(checkout.pip_calls()) == calls


def test_env_sh_names_the_environment_and_keeps_a_chosen_espnet(checkout):
    checkout.python()
    checkout.run()
    env = checkout.tools / "env.sh"
    script = f". '{env}'; . '{env}'; echo \"${{ESPNET_ROOT}} ${{PATH}}\""
    run = subprocess.run(
        ["bash", "-euc", script],
        env={"PATH": "/bin", "ESPNET_ROOT": "/chosen"},
        capture_output=True,
        text=True,
    )
    assert run.stdout == f"/chosen {checkout.tools}/venv/bin:/bin\n"


def test_passes_over_shims_that_find_nothing_and_other_versions(checkout):
    checkout.program("python3.12", "#!/bin/sh\necho command not found >&2\nexit 127\n")
    old = "#!/bin/sh\necho it is Python 3.11 >&2\nexit 1\n"
    checkout.program("python3", old)
    checkout.program("python", old)
    good = checkout.python("python3.13")
    code, out, _ = checkout.run()
    assert code == 0
    assert f"with {good}" in out


def test_finds_a_version_of_pyenv(checkout):
    shim = "#!/bin/sh\necho 'pyenv: python3.12: command not found' >&2\nexit 127\n"
    checkout.program("python3.12", shim)
    python = checkout.python(checkout.folder / ".pyenv/versions/3.12.1/bin/python3")
    code, out, _ = checkout.run()
    assert code == 0
    assert f"with {python}" in out


def test_no_python_says_how_to_name_one(checkout):
    refuses(checkout.run(), "no usable Python 3.12 or 3.13", "PRUNE_PYTHON=")
    assert not (checkout.tools / "venv").exists()


@pytest.mark.parametrize(
    "script, reason",
    [
        ("#!/bin/sh\necho 'it is Python 3.11, not 3.12' >&2\nexit 1\n", "3.11"),
        ("#!/bin/sh\necho 'pyenv: x: command not found' >&2\nexit 127\n", "only says"),
    ],
)
def test_a_named_python_that_is_unusable(checkout, script, reason):
    checkout.python()
    bad = checkout.program("bad", script)
    refuses(checkout.run(PRUNE_PYTHON=str(bad)), "PRUNE_PYTHON", str(bad), reason)


def test_a_named_python_that_is_missing(checkout):
    checkout.python()
    refuses(checkout.run(PRUNE_PYTHON="/no/python"), "/no/python", "No such file")


def test_a_named_python_comes_first_and_replaces_another(checkout):
    checkout.python("python3.12")
    checkout.run()
    other = checkout.python("other")
    code, out, _ = checkout.run(PRUNE_PYTHON=str(other))
    assert code == 0
    assert f"with {other}" in out
    assert "nothing to do" in checkout.run()[1]


def test_a_failed_set_up_is_not_taken_for_a_finished_one(checkout):
    checkout.python()
    (checkout.folder / "pip_fails").touch()
    refuses(checkout.run(), "no network", "setup.log")
    assert not (checkout.tools / "env.sh").exists()
    refuses(checkout.run(), "no network")
    (checkout.folder / "pip_fails").unlink()
    code, out, _ = checkout.run()
    assert code == 0
    assert "making" in out


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_an_interrupted_set_up_is_made_anew(checkout, how):
    checkout.python()
    hangs = checkout.folder / "pip_hangs"
    hangs.touch()
    process = checkout.start()
    for _ in range(300):
        if checkout.calls.exists():
            break
        time.sleep(0.1)
    leftover = checkout.tools / "venv" / "half_written"
    leftover.touch()
    if how is signal.SIGKILL:
        os.killpg(process.pid, how)
    else:
        process.send_signal(how)
    _, err = process.communicate(timeout=60)
    if how is signal.SIGTERM:
        refuses((process.returncode, "", err), "run it again")
    hangs.unlink()
    assert not (checkout.tools / "env.sh").exists()

    code, out, _ = checkout.run()
    assert code == 0
    assert "making" in out
    assert not leftover.exists()


def test_two_at_once_make_one_environment(checkout):
    checkout.python()
    both = [checkout.start(), checkout.start()]
    outputs = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert len([call for call in checkout.pip_calls() if "[recipe]" in call]) == 1


def test_changed_requirements_are_installed_into_the_same_environment(checkout):
    checkout.python()
    checkout.run()
    kept = checkout.tools / "venv" / "kept"
    kept.touch()
    (checkout.root / "setup.py").write_text("setup(install_requires=['more'])\n")
    code, out, _ = checkout.run()
    assert code == 0
    assert "up to date" in out
    assert kept.exists()


def test_recipes_go_on_while_the_environment_is_brought_up_to_date(checkout):
    """They source env.sh whenever one of their scripts starts."""
    checkout.python()
    checkout.run()
    env = checkout.tools / "env.sh"
    before = env.read_text()
    (checkout.folder / "pip_hangs").touch()
    (checkout.root / "setup.py").write_text("setup(install_requires=['more'])\n")
    calls = len(checkout.pip_calls())
    process = checkout.start()
    while len(checkout.pip_calls()) == calls:
        assert process.poll() is None
        time.sleep(0.1)
    assert env.read_text() == before
    assert (checkout.tools / "venv" / "bin" / "python3").exists()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert env.read_text() == before
    # what is unfinished is not taken for finished all the same
    (checkout.folder / "pip_hangs").unlink()
    assert "up to date" in checkout.run()[1]


def test_a_tree_is_there_until_the_new_one_is(checkout):
    checkout.python()
    tree = checkout.tools / "espnet"
    (tree / "egs2").mkdir(parents=True)
    (checkout.folder / "pip_hangs").touch()
    process = checkout.start(ESPNET_ROOT="")
    while not checkout.pip_calls():
        assert process.poll() is None
        time.sleep(0.1)
    (checkout.folder / "pip_hangs").unlink()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    # the made-up pip fetches nothing to unpack
    code, _, err = checkout.run(ESPNET_ROOT="")
    assert code == 2 and "unpack" in err
    assert (tree / "egs2").exists()


def test_what_the_tests_need_is_added_once_and_then_kept(checkout):
    checkout.python()
    checkout.run()
    assert "up to date" in checkout.run("--test")[1]
    assert any("[recipe,test]" in call for call in checkout.pip_calls())
    assert "nothing to do" in checkout.run("--test")[1]
    assert "nothing to do" in checkout.run()[1]


def test_synthesis_needs_no_recipes(checkout):
    checkout.python()
    for name in ("perl", "tar"):
        (checkout.system_programs() / name).unlink()
    without_tree = {"ESPNET_ROOT": ""}
    code, out, err = checkout.run("--synthesis", **without_tree)
    assert (code, err) == (0, "")
    assert "recipes" not in out
    assert any(call.endswith("[hifigan]") for call in checkout.pip_calls())
    assert not [call for call in checkout.pip_calls() if " download " in call]
    assert "nothing to do" in checkout.run("--synthesis", **without_tree)[1]
    refuses(checkout.run(**without_tree), "'perl' is missing")


def test_the_full_set_up_completes_that_of_synthesis_and_then_serves_it(checkout):
    checkout.python()
    checkout.run("--synthesis")
    kept = checkout.tools / "venv" / "kept"
    kept.touch()
    code, out, _ = checkout.run()
    assert code == 0
    assert "up to date" in out and kept.exists()
    assert any("[recipe]" in call for call in checkout.pip_calls())
    for arguments in ((), ("--synthesis",)):
        assert "nothing to do" in checkout.run(*arguments)[1]
    # the set-up of synthesis leaves out nothing that was there
    (checkout.root / "setup.py").write_text("setup(install_requires=['more'])\n")
    assert checkout.run("--synthesis")[0] == 0
    *_, install, _ = checkout.pip_calls()  # the last one checks
    assert "[recipe]" in install


def test_say_sets_up_and_speaks(checkout):
    checkout.python()
    spoken = ("What is 2 * 3?", "--reference", "my voice.wav")
    code, out, err = checkout.run(*spoken, script="say.sh", ESPNET_ROOT="")
    assert code == 0
    assert out == "<say><What is 2 * 3?><--reference><my voice.wav>"
    assert "making" in err and "ready in" in err
    assert checkout.run(*spoken, script="say.sh")[1:] == (out, "")


def test_say_without_a_network_or_a_text(checkout):
    code, out, err = checkout.run(script="say.sh")
    assert (code, out) == (2, "")
    assert err.startswith("say.sh: error: no text is given") and err.count("\n") == 1
    assert "Usage" in checkout.run("--help", script="say.sh")[1]
    assert not checkout.tools.exists()
    checkout.python()
    (checkout.folder / "pip_fails").touch()
    code, out, err = checkout.run("hello", script="say.sh")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("setup.sh: error: could not install pip")


def test_a_moved_checkout_gets_a_new_environment(checkout):
    checkout.python()
    checkout.run()
    moved = checkout.folder / "moved"
    checkout.root.rename(moved)
    checkout.root, checkout.tools = moved, moved / "tools"
    code, out, _ = checkout.run()
    assert code == 0
    assert f"making {moved}" in out
    assert str(moved) in (moved / "tools" / "env.sh").read_text()


def test_the_environment_of_another_checkout_is_not_replaced(checkout):
    checkout.python()
    assert checkout.run()[0] == 0
    other = checkout.folder / "other"
    shutil.copytree(checkout.root, other, ignore=lambda *_: ["tools"])
    (other / "tools").symlink_to(checkout.tools)
    owner, checkout.root = checkout.root, other
    code, _, err = checkout.run()
    assert code == 2 and f"link to the environment of {owner}" in err
    assert (checkout.tools / "env.sh").exists()


@pytest.mark.parametrize(
    "arguments, ours",
    [
        ("torch==2.13.0", False),
        ("--extra-index-url https://download.pytorch.org/whl/cpu", True),
    ],
)
def test_pip_arguments_of_the_user_may_replace_our_torch(checkout, arguments, ours):
    """Another index may have another build, but the pair of versions stays."""
    checkout.python()
    checkout.run(PRUNE_PIP_ARGS=arguments)
    (install,) = [call for call in checkout.pip_calls() if "[recipe]" in call]
    assert arguments in install
    assert ("torch==2.11.0" in install) == ours
    assert ("torchaudio==2.11.0" in install) == ours


def test_espnet_root_that_is_no_espnet(checkout):
    checkout.python()
    refuses(checkout.run(ESPNET_ROOT="/nowhere"), "ESPNET_ROOT=/nowhere", "tts.sh")
    checkout.run()
    refuses(checkout.run(ESPNET_ROOT="/nowhere"), "ESPNET_ROOT=/nowhere", "tts.sh")


def test_a_folder_with_a_space_is_refused(checkout):
    checkout.python()
    spaced = checkout.folder / "my checkout"
    checkout.root.rename(spaced)
    checkout.root, checkout.tools = spaced, spaced / "tools"
    refuses(checkout.run(), "my checkout", "space")
    assert not checkout.tools.exists()


def test_unknown_option(checkout):
    refuses(checkout.run("--tests"), "--tests", "--help")
