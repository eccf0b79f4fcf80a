#!/usr/bin/env bash
# Checks the user's recordings and writes data/train, data/dev and the test sets.
# Takes the options of prepare.py; those of run.sh are in custom_data_opts, quoted, for
# tts.sh hands options on in a way that would break names with spaces.
set -euo pipefail

. ./path.sh

eval "set -- ${custom_data_opts:-} ${*@Q}"
python3 local/prepare.py --data_dir data "$@"

if [ -n "${custom_align_opts:-}" ]; then
    eval "set -- ${custom_align_opts}"
    python3 -m espnet_prune align train dev "$@"
    for name in train dev; do
        utils/fix_data_dir.sh "data/${name}"
    done
fi
