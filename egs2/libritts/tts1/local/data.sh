#!/usr/bin/env bash
# LibriTTS and its labels: downloaded or found (db.sh), checked, written to data/.
# Takes the options of prepare.py, see there for the folders.
set -euo pipefail

. ./path.sh
. ./db.sh

fail() {
    echo "data.sh: error: $*" >&2
    exit 2
}

labels=${LIBRITTS_LABEL}
labelled=true
[[ " $* " != *" --durations learned "* ]] || labelled=false
# Check this before hours of download.
! "${labelled}" || [ -d "${labels}" ] || fail "no labels in ${labels}; get them by" \
    "\`git clone https://github.com/kan-bayashi/LibriTTSLabel.git ${labels}\`, or name a" \
    "copy by LIBRITTS_LABEL in db.sh, or run with --durations learned"

parts="train-clean-100 train-clean-360 dev-clean test-clean"
url=https://www.openslr.org/resources/60
if [ "${LIBRITTS}" = downloads ]; then
    # ESPnet's data.sh would fetch all seven parts, of which 45 GB are not needed, and
    # its data_prep.sh makes each chapter a speaker; this script is suitable.
    fetch=${ESPNET_ROOT}/egs2/libritts/tts1/local/download_and_untar.sh
    [ -e "${fetch}" ] || fail "no ${fetch}; point ESPNET_ROOT to an ESPnet clone"
    mkdir -p downloads data/local
    for part in ${parts}; do
        [ ! -e "downloads/LibriTTS/${part}/.complete" ] || continue
        echo "Downloading ${part} of LibriTTS to ${PWD}/downloads"
        # it starts a broken download again, but wget -c continues it
        wget -c --progress=dot:giga -P downloads "${url}/${part}.tar.gz" \
            || fail "cannot download ${url}/${part}.tar.gz; run again to continue, or" \
                "name an existing copy by LIBRITTS in db.sh"
        bash "${fetch}" downloads "${url}" "${part}" > "data/local/untar_${part}.log" \
            || fail "cannot unpack downloads/${part}.tar.gz; see" \
                "data/local/untar_${part}.log"
    done
fi

# The labels are one archive, which is split into pieces.
if "${labelled}"; then
    pieces=("${labels}"/lab.tar.gz*)
    if [ ! -d "${labels}/lab/phone" ] && [ -e "${pieces[0]}" ]; then
        labels=data/local/labels
        state=$(stat -L -c '%n %s %y' "${pieces[@]}")
        if [ "$(cat "${labels}/.complete" 2> /dev/null)" != "${state}" ]; then
            echo "Unpacking ${pieces[0]} and the other pieces"
            rm -rf "${labels}"
            mkdir -p "${labels}"
            # shellcheck disable=SC2046  # three words
            cat "${pieces[@]}" | tar -xz -C "${labels}" \
                $(printf 'lab/phone/%s ' train-clean-100 train-clean-360 dev-clean) \
                2> data/local/untar_labels.log \
                || fail "cannot unpack ${pieces[0]} and the other pieces;" \
                    "get the labels again," \
                    "or see data/local/untar_labels.log"
            echo "${state}" > "${labels}/.complete"
        fi
    fi
fi

python3 local/prepare.py --corpus "${LIBRITTS}" --labels "${labels}" "$@"
