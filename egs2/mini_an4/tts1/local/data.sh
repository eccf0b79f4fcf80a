#!/usr/bin/env bash
# AN4 recordings as Kaldi folders: data/train, data/dev and the zero-shot data/test.
set -euo pipefail

if [ $# -ne 0 ]; then
    echo "Usage: $0 (it has no options; run it in the recipe's folder)" >&2
    exit 2
fi

. ./path.sh

# The few AN4 files that ESPnet ships for its own debug recipes (NIST SPHERE, 16 kHz).
archive=${ESPNET_ROOT}/egs2/mini_an4/asr1/downloads.tar.gz
if [ ! -e downloads/an4 ]; then
    if [ ! -e "${archive}" ]; then
        echo "data.sh: error: no ${archive}; point ESPNET_ROOT to an ESPnet clone" >&2
        exit 2
    fi
    # Unpack under another name first, so that the folder is complete if it exists.
    rm -rf downloads.new
    mkdir downloads.new
    tar -xzf "${archive}" -C downloads.new
    rm -rf downloads
    mv downloads.new/downloads downloads
    rmdir downloads.new
fi

python3 local/prepare.py --an4_dir downloads/an4 --data_dir data
