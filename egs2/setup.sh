#!/usr/bin/env bash
# Makes the environment of the recipes and tests: a virtual environment with this
# package (tools/venv), ESPnet's source tree (tools/espnet) if ESPNET_ROOT is unset, and
# tools/env.sh, which path.sh sources. See the help below.
set -euo pipefail

help="Usage: $0 [--synthesis | --test]

Makes the Python environment of this checkout and unpacks ESPnet's recipes into tools/.
You can run it again: finished parts are kept, unfinished ones are repeated.

  --synthesis  install only what speaking needs, without ESPnet's recipes. A later call
               without this option adds the rest
  --test       also install the packages of the tests

Environment variables:
  PRUNE_PYTHON    the Python 3.12 or 3.13 to use
                  (default: the first usable one on PATH, then among pyenv's versions)
  PRUNE_PIP_ARGS  more arguments for 'pip install', for instance an index with a CPU
                  build of torch (default: none; torch comes with its CUDA libraries)
  ESPNET_ROOT     an ESPnet clone whose egs2/ is used in place of tools/espnet"

# torch and torchaudio fit together up to this version.
torch_versions="torch==2.11.0 torchaudio==2.11.0"
# Increase it when repair_tree changes; older trees are then unpacked again.
tree_layout=1

root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd -P)
tools=${root}/tools
venv=${tools}/venv
tree=${tools}/espnet
log=${tools}/setup.log
child=

say() { echo "$(date '+%H:%M:%S') setup: $*"; }
die() {
    echo "setup.sh: error: $*" >&2
    exit 2
}
stopped() {
    if [ -n "${child}" ]; then kill "${child}" 2> /dev/null || true; fi
    die "interrupted: run it again to continue; unfinished parts are made again"
}

# Extras of setup.py: hifigan is part of recipe.
extras=recipe
for arg in "$@"; do
    case ${arg} in
        --synthesis) extras=hifigan ;;
        --test) extras=recipe,test ;;
        -h | --help)
            echo "${help}"
            exit 0
            ;;
        *) die "unknown option '${arg}'; see $0 --help" ;;
    esac
done

for_recipes=true
if [ "${extras}" = hifigan ]; then for_recipes=false; fi

# ---------------------------------------------------------------- the interpreter

# Prints the real interpreter behind a command, a pyenv shim or a virtual environment.
probe='
import sys
if not (3, 12) <= sys.version_info[:2] <= (3, 13):
    sys.exit("it is Python %d.%d, not 3.12 or 3.13" % sys.version_info[:2])
import ctypes, ensurepip, ssl, venv
print(getattr(sys, "_base_executable", "") or sys.executable)
'

interpreter_of() { # <command>
    "$1" -c "${probe}" < /dev/null
}

candidates() {
    local name folder
    # -a: after a shim that finds nothing, there may be one that works.
    for name in python3.12 python3.13 python3 python; do
        type -aP "${name}" || true
    done
    for folder in "$(pyenv root 2> /dev/null || true)" "${PYENV_ROOT:-}" ~/.pyenv; do
        [ -z "${folder}" ] || ls -d "${folder}"/versions/3.1[23]*/bin/python3 || true
    done
}

# The interpreter that the user named, or an empty value.
named_python() {
    local answer
    [ -n "${PRUNE_PYTHON:-}" ] || return 0
    if answer=$(interpreter_of "${PRUNE_PYTHON}" 2>&1); then
        interpreter_of "${PRUNE_PYTHON}" 2> /dev/null
        return
    fi
    case ${answer} in
        *"command not found"*) answer="it only says 'command not found'" ;;
        *) answer=${answer##*$'\n'} ;;
    esac
    die "PRUNE_PYTHON=${PRUNE_PYTHON} is not usable: ${answer##*: };" \
        "name a Python 3.12 or 3.13 that has venv and ensurepip"
}

find_python() {
    local candidate
    while read -r candidate; do
        if interpreter_of "${candidate}" 2> /dev/null; then return; fi
    done < <(candidates 2> /dev/null)
    die "no usable Python 3.12 or 3.13 (with venv and ensurepip) on PATH or in pyenv;" \
        "name one: PRUNE_PYTHON=/path/to/python3.12 $0"
}

# ------------------------------------------------------- what is finished already

package_version() {
    sed -n 's/^__version__ = "\(.*\)"/\1/p' "${root}/espnet_prune/__init__.py"
}

# Print everything that the environment depends on. This is the last file that is
# written into it.
describe_venv() { # <extras> <interpreter>
    echo "checkout=${root}"
    echo "setup=$(cat "${root}/setup.py" "${BASH_SOURCE[0]}" | cksum)"
    echo "version=$(package_version)"
    echo "extras=$1"
    echo "python=$2"
}

venv_fact() { sed -n "s/^$1=//p" "${venv}/.done" 2> /dev/null || true; } # <name>

venv_is_ready() {
    local python had
    python=$(venv_fact python)
    had=$(venv_fact extras)
    # What has been installed is kept.
    case ${had}+${extras} in
        recipe+hifigan | recipe,test+*) extras=${had} ;;
    esac
    [ -n "${python}" ] || return 1
    [ "${named:-${python}}" = "${python}" ] || return 1
    [ "$(cat "${venv}/.done")" = "$(describe_venv "${extras}" "${python}")" ] ||
        return 1
    # Its interpreter may have been removed.
    "${venv}/bin/python3" -c '' 2> /dev/null
}

# This does not start Python, because it runs at every call.
espnet_version() {
    local found
    found=$(ls -d "${venv}"/lib/python3.*/site-packages/espnet-*.dist-info)
    found=${found##*/espnet-}
    echo "${found%.dist-info}"
}

describe_tree() { echo "espnet $(espnet_version), layout ${tree_layout}, in ${root}"; }

tree_is_ready() {
    ! ${for_recipes} || [ -n "${ESPNET_ROOT:-}" ] ||
        [ "$(cat "${tree}/.done" 2> /dev/null)" = "$(describe_tree)" ]
}

all_is_ready() { [ -e "${tools}/env.sh" ] && venv_is_ready && tree_is_ready; }

# ------------------------------------------------------------------- the two parts

# Print pip's last line that is not a warning.
latest_step() {
    grep -oE '^ *(Collecting|Using cached|Downloading|Building|Installing) [^:(]+' \
        "${log}" | tail -n 1 | cut -c 1-60
}

# Run a command and write its output to the log. Print progress twice a minute.
quietly() { # <command>
    local ticks=0
    "$@" >> "${log}" 2>&1 < /dev/null &
    child=$!
    while kill -0 "${child}" 2> /dev/null; do
        sleep 0.1
        ticks=$((ticks + 1))
        if [ $((ticks % 300)) = 0 ]; then
            say "  ... $((ticks / 10)) s: $(latest_step)"
        fi
    done
    wait "${child}" || return 1
    child=
}

pip() {
    # pip writes gigabytes to TMPDIR, and /tmp is small on many machines.
    TMPDIR=${tools}/tmp quietly "${venv}/bin/python3" -m pip \
        --disable-pip-version-check --no-input "$@"
}

die_of_pip() { # <what it could not do>
    local reason
    reason=$(grep '^ERROR' "${log}" | tail -n 1 || true)
    die "could not $1: ${reason:-no reason given}; all of it is in ${log}"
}

make_venv() {
    local python owner misfit torch=${torch_versions}
    local modules="espnet2.tasks.tts, phonemizer, pyworld, torchaudio"
    if [ "${extras}" != hifigan ]; then modules+=", resampy"; fi
    mkdir -p "${tools}/tmp"
    python=$(venv_fact python)
    if [ -n "${python}" ] && [ "${named:-${python}}" = "${python}" ] &&
        [ "$(venv_fact checkout)" = "${root}" ] &&
        "${venv}/bin/python3" -c '' 2> /dev/null; then
        # Running recipes still use it, so env.sh is kept.
        say "bringing ${venv} up to date"
        sed -i 's/^setup=.*/setup=unfinished/' "${venv}/.done"
    else
        owner=$(venv_fact checkout)
        if [ "${owner:-${root}}" != "${root}" ] && [ "${owner}/tools" -ef "${tools}" ]; then
            die "${tools} is a link to the environment of ${owner}: remove the link"
        fi
        python=${named:-$(find_python)}
        say "making ${venv} with ${python}"
        rm -rf "${tools}/env.sh" "${venv}"
        quietly "${python}" -m venv "${venv}" ||
            die "${python} cannot make a virtual environment; see ${log}"
    fi
    # Unpacking ESPnet needs these. ESPnet sets the range of setuptools.
    pip install --upgrade pip wheel 'setuptools>=77.0.3,<82' 'setuptools-scm>=8,<9' ||
        die_of_pip "install pip itself"
    # The user chose another build or version of torch.
    case " ${PRUNE_PIP_ARGS:-}" in *" torch"*) torch= ;; esac
    say "installing espnet_prune[${extras}] and torch: gigabytes, some minutes"
    # shellcheck disable=SC2086  # lists of words
    pip install ${PRUNE_PIP_ARGS:-} ${torch} --editable "${root}[${extras}]" ||
        die_of_pip "install espnet_prune[${extras}]"
    # The scorers declare requirements that they do not need.
    misfit=$("${venv}/bin/python3" -m pip check 2>&1 |
        grep -v -e '^No broken' -e '^resemblyzer ' -e '^xls-r-sqa ' -e '^distillmos ' || true)
    [ -z "${misfit}" ] || die "packages do not fit together: ${misfit}"
    quietly "${venv}/bin/python3" -c "import ${modules}" ||
        die "installed, but cannot be imported: $(tail -n 1 "${log}"); see ${log}"
    describe_venv "${extras}" "${python}" > "${venv}/.done"
}

# ESPnet's release lacks links to folders of its repository, and files that ESPnet's
# installers make.
repair_tree() { # <folder>
    "${venv}/bin/python3" - "$1/egs2" << 'EOF'
import sys
from pathlib import Path

egs2 = Path(sys.argv[1])
shared = ("utils", "steps", "scripts", "pyscripts")
for recipe in egs2.glob("*/*/"):
    if not (recipe / "path.sh").exists():
        continue
    links = {name: f"../../TEMPLATE/asr1/{name}" for name in shared}
    if recipe.name == "tts1":
        links["sid"] = "../../TEMPLATE/tts1/sid"
        if (recipe.parent / "asr1" / "local").exists():
            links["local"] = "../asr1/local"
    for name, target in links.items():
        if not (recipe / name).exists():
            (recipe / name).symlink_to(target)

for name in shared:
    for script in (egs2 / "TEMPLATE" / "asr1" / name).rglob("*"):
        if script.is_file() and script.open("rb").read(2) == b"#!":
            script.chmod(script.stat().st_mode | 0o111)
EOF
    # ESPnet's path.sh sources it.
    echo ". '${tools}/env.sh'" > "$1/tools/activate_python.sh"
    # ESPnet's AN4 recipes call it; soundfile reads the same files.
    mkdir -p "$1/tools/sph2pipe"
    cat > "$1/tools/sph2pipe/sph2pipe" << 'EOF'
#!/usr/bin/env python3
"""Stands in for `sph2pipe -f wav -p -c 1 FILE`, as ESPnet's recipes call it."""
import io
import sys

import soundfile

samples, rate = soundfile.read(sys.argv[-1], dtype="int16", always_2d=True)
wav = io.BytesIO()
soundfile.write(wav, samples[:, 0], rate, format="WAV")
sys.stdout.buffer.write(wav.getvalue())
EOF
    chmod +x "$1/tools/sph2pipe/sph2pipe"
}

make_tree() {
    local version new=${tools}/espnet.new old=${tools}/espnet.old
    version=$(espnet_version)
    say "unpacking the source of ESPnet ${version} into ${tree} (36 MB)"
    rm -rf "${new}" "${old}"
    mkdir -p "${new}" "${tools}/tmp"
    pip download --no-deps --no-binary :all: --no-build-isolation --dest "${new}" \
        "espnet==${version}" || die_of_pip "fetch the source of ESPnet ${version}"
    quietly tar -xzf "${new}/espnet-${version}.tar.gz" -C "${new}" ||
        die "could not unpack the source of ESPnet; see ${log}"
    repair_tree "${new}/espnet-${version}"
    describe_tree > "${new}/espnet-${version}/.done"
    # Running recipes find a tree at all times, except between these two moves.
    [ ! -e "${tree}" ] || mv "${tree}" "${old}"
    mv "${new}/espnet-${version}" "${tree}"
    rm -rf "${new}" "${old}"
}

# ------------------------------------------------------------------------- the run

# Settings of another Python would change this one.
unset PYTHONHOME PYTHONPATH
export PIP_USER=0

named=$(named_python)
if ${for_recipes} && [ -n "${ESPNET_ROOT:-}" ] &&
    [ ! -e "${ESPNET_ROOT}/egs2/TEMPLATE/tts1/tts.sh" ]; then
    die "ESPNET_ROOT=${ESPNET_ROOT} has no egs2/TEMPLATE/tts1/tts.sh;" \
        "name an ESPnet clone, or unset it to have one unpacked"
fi
made=${venv}
if ${for_recipes}; then made+=", ESPnet's recipes in ${ESPNET_ROOT:-${tree}}"; fi
if all_is_ready; then
    say "nothing to do: ${made}"
    exit 0
fi

if ${for_recipes}; then
    case ${root} in
        *[[:space:]]*)
            die "ESPnet's scripts cannot work in '${root}': it has a space"
            ;;
    esac
    for program in perl tar; do
        type "${program}" > /dev/null 2>&1 || die "'${program}' is missing; install it"
    done
fi
mkdir -p "${tools}"
trap stopped INT TERM HUP
if type flock > /dev/null 2>&1; then
    exec 9> "${tools}/.lock"
    flock -n 9 || {
        say "waiting for another set-up of this checkout"
        flock 9
    }
fi

: > "${log}"
venv_is_ready || make_venv
tree_is_ready || make_tree
rm -rf "${tools}/tmp"
cat > "${tools}/env.sh.new" << EOF
# Made by egs2/setup.sh; sourced by path.sh and by ESPnet's recipes in tools/espnet.
export VIRTUAL_ENV='${venv}'
case \${PATH} in
    "\${VIRTUAL_ENV}/bin":*) ;;
    *) export PATH=\${VIRTUAL_ENV}/bin:\${PATH} ;;
esac
export ESPNET_ROOT=\${ESPNET_ROOT:-${tree}}
EOF
mv "${tools}/env.sh.new" "${tools}/env.sh"
say "ready in ${SECONDS} s: ${made}"
say "to use it by hand: . ${tools}/env.sh"
