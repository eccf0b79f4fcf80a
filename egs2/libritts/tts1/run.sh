#!/usr/bin/env bash
# The paper's experiment: trains one of its systems on LibriTTS (train-clean-100 and
# train-clean-360) and speaks in the voices of test-clean, which are not in training.
#
# Usage: run.sh [options]
#
#   --system NAME      a file of conf/systems (default: dp_r0.45):
#                        baseline               no pruning
#                        vp                     fixed thresholds
#                        dp_r0.50 dp_r0.45 dp_r0.40
#                                               learned thresholds
#                        dp_r0.45_wo_hard       ablation w/o SM_hard
#                        dp_r0.45_wo_sparsity   ablation w/o L_sp
#                        mix_style sc_cnn less_capacity more_dropout
#                                               rivals without pruning
#   --fs HZ            a file of conf/features (default: 16000):
#                        16000                  as in the paper
#                        22050                  for the public HiFi-GAN
#                        24000                  for ESPnet's ParallelWaveGAN models
#   --durations KIND   given by the labels of kan-bayashi/LibriTTSLabel (default), or
#                      learned inside the model, which needs no labels
#
# db.sh names the folders of the corpora. By default, LibriTTS is downloaded (38 GB).
# All other options go to prune_tts.sh, see prune_tts.sh --help; for instance --stage,
# --ngpu, --num_nodes, --nj, --vocoders, --train_args. All systems and rates share
# data/. All systems of one rate share dump/HZ and exp/HZ.

# options.sh reads and sets variables by their names.
# shellcheck disable=SC2034,SC2154

set -euo pipefail

called_from=${PWD}
cd "$(dirname "$(readlink -f "$0")")"
. ../../TEMPLATE/prune_tts1/options.sh

system=dp_r0.45
fs=16000
durations=given
nj=$(env -u OMP_NUM_THREADS nproc)
local_data_opts=
dumpdir=
expdir=
train_overlays=
vocoders=

takes="system fs durations nj local_data_opts dumpdir expdir train_overlays vocoders"
found_paths="train_config inference_config"
parse_options "$@"

# shellcheck disable=SC2046  # lists of words
is_one_of system $(files_of conf/systems)
# shellcheck disable=SC2046
is_one_of fs $(files_of conf/features)
is_one_of durations given learned
is_whole nj 1
# shellcheck source=/dev/null
. "conf/features/${fs}.conf"
models=${expdir:-exp}  # all rates share data/
: "${dumpdir:=dump/${fs}}" "${expdir:=exp/${fs}}"
if [ -z "${vocoders}" ]; then
    vocoders=griffin_lim
    [ "${fs}" != 22050 ] || vocoders=hifigan
fi

overlays="conf/systems/${system}.yaml"
case "${durations}" in
    given)
        suffix=_phn
        passed=(--teacher_dumpdir "${dumpdir}/durations" "${passed[@]}") ;;
    learned)
        suffix=
        overlays+=" conf/learned.yaml"
        passed=(--tts_stats_dir "${expdir}/tts_stats_learned" "${passed[@]}") ;;
esac

../../setup.sh

exec ./prune_tts.sh \
    --ngpu 1 \
    --nj "${nj}" \
    --inference_nj "${nj}" \
    --lang en \
    --local_data_opts "--exp_dir ${models} --durations ${durations} --nj ${nj} ${local_data_opts}" \
    --fs "${fs}" \
    --n_fft "${n_fft}" \
    --win_length "${win_length}" \
    --n_shift "${n_shift}" \
    --fmin "${fmin}" \
    --fmax "${fmax}" \
    --audio_format "${audio_format}" \
    --token_type phn \
    --g2p arpabet \
    --cleaner none \
    --dumpdir "${dumpdir}" \
    --expdir "${expdir}" \
    --train_config conf/train.yaml \
    --train_overlays "${overlays} ${train_overlays}" \
    --inference_config conf/decode.yaml \
    --skip_packing false \
    --write_collected_feats true \
    --vocoders "${vocoders}" \
    --train_set "train-clean-460${suffix}" \
    --valid_set "dev-clean${suffix}" \
    --test_sets "test_unseen test_seen" \
    --srctexts data/arpabet/text \
    "${passed[@]}"
