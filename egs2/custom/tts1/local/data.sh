#!/usr/bin/env bash
# Checks the user's recordings and writes data/train, data/dev and the test sets.
# Takes the options of prepare.py. Those of run.sh are in custom_data_opts, and those of
# alignment in custom_align_opts, one word per line: tts.sh passes options in a way that
# would break names with spaces.
set -euo pipefail

. ./path.sh

options=()
[ -z "${custom_data_opts:-}" ] || mapfile -t options <<< "${custom_data_opts}"
python3 local/prepare.py --data_dir data "${options[@]}" "$@"

if [ -n "${custom_align_opts:-}" ]; then
    mapfile -t options <<< "${custom_align_opts}"
    python3 -m espnet_prune align train dev "${options[@]}"
    for name in train dev; do
        utils/fix_data_dir.sh "data/${name}"
    done
fi
