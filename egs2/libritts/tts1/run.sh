#!/usr/bin/env bash
# The paper's experiment: trains one of its systems on LibriTTS (train-clean-100 and
# train-clean-360) and speaks in the voices of test-clean, who are not in training.
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
#   --fs HZ            a file of conf/features (default: 16000):
#                        16000                  as in the paper
#                        22050                  for the public HiFi-GAN
#                        24000                  for ESPnet's ParallelWaveGAN models
#   --durations KIND   given: by the labels of kan-bayashi/LibriTTSLabel (default), or
#                      learned inside the model, for which no labels are needed
#
# Where the corpora are is said in db.sh; by default LibriTTS is downloaded, 38 GB.
# Everything else goes to prune_tts.sh, see prune_tts.sh --help; for instance --stage,
# --ngpu, --num_nodes, --nj, --vocoders, --train_args. data/ is for all systems and
# rates, dump/HZ and exp/HZ for all systems of a rate.

set -e
set -u
set -o pipefail

fail() {
    echo "run.sh: error: $*" >&2
    exit 2
}

cd "$(dirname "$(readlink -f "$0")")"
case "${1:-}" in
    -h|--help)
        sed -n '2,/^$/s/^# \{0,1\}//p' run.sh
        exit 0 ;;
esac

system=dp_r0.45
fs=16000
durations=given
nj=$(env -u OMP_NUM_THREADS nproc)
local_data_opts=
dumpdir=
expdir=
train_overlays=
vocoders=
passed=()
while [ $# -gt 0 ]; do
    case "$1" in
        --*) name="${1#--}" ;;
        *) fail "unexpected argument $1: every option is --name value; see --help" ;;
    esac
    name="${name//-/_}"
    [ $# -ge 2 ] || fail "option $1 has no value; see --help"
    case "${name}" in
        system|fs|durations|nj|local_data_opts|dumpdir|expdir|train_overlays|vocoders)
            printf -v "${name}" '%s' "$2" ;;
        *)
            passed+=("--${name}" "$2") ;;
    esac
    shift 2
done

choices() {  # names of the files in folder $1
    find -L "$1" -name '*.*' -type f | sed 's|.*/||; s|\.[^.]*$||' | sort | xargs
}
[ -e "conf/systems/${system}.yaml" ] \
    || fail "--system is ${system}: choose one of $(choices conf/systems)"
[ -e "conf/features/${fs}.conf" ] \
    || fail "--fs is ${fs}: choose one of $(choices conf/features)"
. "conf/features/${fs}.conf"
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
    *) fail "--durations is ${durations}: choose given or learned" ;;
esac

../../setup.sh

./prune_tts.sh \
    --ngpu 1 \
    --nj "${nj}" \
    --inference_nj "${nj}" \
    --lang en \
    --local_data_opts "--durations ${durations} --nj ${nj} ${local_data_opts}" \
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
    --write_collected_feats true \
    --vocoders "${vocoders}" \
    --train_set "train-clean-460${suffix}" \
    --valid_set "dev-clean${suffix}" \
    --test_sets "test_unseen test_seen" \
    --srctexts data/arpabet/text \
    "${passed[@]}"
