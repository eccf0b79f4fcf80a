#!/usr/bin/env bash
# Runs every part of the project on seven real recordings, in minutes, on a CPU. Speaks
# in the voices of the two test speakers, who are not in the training data.
#
# Usage: run.sh [options]
#
# All options go to prune_tts.sh, see prune_tts.sh --help.

# options.sh reads and sets variables by their names.
# shellcheck disable=SC2034,SC2154

set -euo pipefail

called_from=${PWD}
cd "$(dirname "$(readlink -f "$0")")"
. ../../TEMPLATE/prune_tts1/options.sh

found_paths="train_config inference_config"
parse_options "$@"

../../setup.sh

exec ./prune_tts.sh \
    --ngpu 0 \
    --nj 2 \
    --inference_nj 2 \
    --lang en \
    --fs 22050 \
    --n_fft 1024 \
    --n_shift 256 \
    --fmin 0 \
    --fmax 8000 \
    --token_type phn \
    --g2p espeak_ng_english_us_vits \
    --cleaner none \
    --train_config conf/train.yaml \
    --inference_config conf/decode.yaml \
    --phase1_epochs 5 \
    --skip_packing false \
    --write_collected_feats true \
    --vocoders "griffin_lim hifigan" \
    --train_set train \
    --valid_set dev \
    --test_sets test \
    --srctexts "data/train/text data/dev/text data/test/text" \
    "${passed[@]}"
