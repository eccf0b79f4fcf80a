#!/usr/bin/env bash
# Checks the user's recordings and writes data/train, data/dev and the test sets.
# Takes the options of prepare.py. Those of run.sh are in custom_data_opts, and those of
# alignment in custom_align_opts, each a JSON array of strings: tts.sh passes options in
# a way that would break names with spaces.
set -euo pipefail

. ./path.sh

# Set the array "options" to the strings of a JSON array.
read_options() {
    mapfile -d '' -t options < <(python3 -c '
import json, os, sys
for option in json.loads(sys.argv[1]):
    sys.stdout.buffer.write(os.fsencode(option) + b"\0")
' "$1")
    wait "$!"  # ends here if that was not such an array
}

read_options "${custom_data_opts:-[]}"
python3 local/prepare.py --data_dir data "${options[@]}" "$@"

if [ -n "${custom_align_opts:-}" ]; then
    read_options "${custom_align_opts}"
    python3 -m espnet_prune align train dev "${options[@]}"
    for name in train dev; do
        utils/fix_data_dir.sh "data/${name}"
    done
fi
