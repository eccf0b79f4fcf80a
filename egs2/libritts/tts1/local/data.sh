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
# Before the hours of a download.
! "${labelled}" || [ -d "${labels}" ] || fail "no labels in ${labels}; get them by" \
    "\`git clone https://github.com/kan-bayashi/LibriTTSLabel.git ${labels}\`, or name a" \
    "copy by LIBRITTS_LABEL in db.sh, or run with --durations learned"

parts="train-clean-100 train-clean-360 dev-clean test-clean"
url=https://www.openslr.org/resources/60
if [ "${LIBRITTS}" = downloads ]; then
    # ESPnet's data.sh would fetch all seven parts, 45 GB of them not needed here, and
    # its data_prep.sh makes a speaker of each chapter; this script of it does fit.
    fetch=${ESPNET_ROOT}/egs2/libritts/tts1/local/download_and_untar.sh
    [ -e "${fetch}" ] || fail "no ${fetch}; point ESPNET_ROOT to an ESPnet clone"
    mkdir -p downloads data/local
    for part in ${parts}; do
        [ ! -e "downloads/LibriTTS/${part}/.complete" ] || continue
        echo "Downloading ${part} of LibriTTS to ${PWD}/downloads"
        # it starts a broken download anew, wget -c goes on
        wget -c --progress=dot:giga -P downloads "${url}/${part}.tar.gz" \
            || fail "cannot download ${url}/${part}.tar.gz; run again to go on, or" \
                "name an existing copy by LIBRITTS in db.sh"
        bash "${fetch}" downloads "${url}" "${part}" > "data/local/untar_${part}.log" \
            || fail "cannot unpack downloads/${part}.tar.gz; see" \
                "data/local/untar_${part}.log"
    done
fi

# The labels are kept as one archive, cut into pieces.
if "${labelled}"; then
    pieces=("${labels}"/lab.tar.gz*)
    if [ ! -d "${labels}/lab/phone" ] && [ -e "${pieces[0]}" ]; then
        labels=data/local/labels
        if [ ! -e "${labels}/.complete" ]; then
            echo "Unpacking ${pieces[0]} and its like"
            mkdir -p "${labels}"
            # shellcheck disable=SC2046  # three words
            cat "${pieces[@]}" | tar -xz -C "${labels}" \
                $(printf 'lab/phone/%s ' train-clean-100 train-clean-360 dev-clean) \
                2> data/local/untar_labels.log \
                || fail "cannot unpack ${pieces[0]} and its like; get the labels anew," \
                    "or see data/local/untar_labels.log"
            touch "${labels}/.complete"
        fi
    fi
fi

python3 local/prepare.py --corpus "${LIBRITTS}" --labels "${labels}" "$@"
