#!/usr/bin/env bash
# Your own corpus: checks a folder of speech, trains on it, and speaks in voices that
# are not in training.
#
# Usage: run.sh --train_data FOLDER [options]
#
#   --train_data FOLDER  recordings and texts: wav.scp, utt2spk and text (Kaldi),
#                        SPEAKER/NAME.wav (or .flac) with SPEAKER/NAME.txt, or
#                        SPEAKER/metadata.csv with SPEAKER/wavs/NAME.wav
#   --eval_data FOLDER   the same, with the speakers to imitate; they must not be in
#                        --train_data. Texts are not needed (default: speakers of
#                        --train_data, held out)
#   --eval_speakers N    unseen speakers to evaluate (default: all of --eval_data, at
#                        most 10; without it a tenth of the speakers, 2 to 10)
#   --seen_speakers N    training speakers to evaluate, 0 for none (default: as many)
#   --test_texts FILE    sentences to speak, one per line (default: local/sentences.txt)
#   --num_texts N        sentences per speaker, 0 for all (default: 20)
#   --split_seed N       for the draw of speakers, dev and references (default: 0)
#   --preset small|full  conf/train_small.yaml, for a CPU or an hour of speech, or
#                        conf/train.yaml, the paper's dimensions, with learned durations
#                        and mixed precision, for a GPU (default: small)
#   --system NAME        a file of conf/systems, one of the paper's: baseline, vp,
#                        dp_r0.50, dp_r0.45, dp_r0.40, dp_r0.45_wo_hard,
#                        dp_r0.45_wo_sparsity; or a rival: mix_style, sc_cnn,
#                        less_capacity, more_dropout (default: that of the preset,
#                        dp_r0.45)
#   --durations learned|aligned
#                        learned inside the model, or found before by PocketSphinx, for
#                        English phonemes only (default: learned)
#
# All other options go to prune_tts.sh, see prune_tts.sh --help; for instance --stage,
# --ngpu, --token_type, --g2p, --lang, --fs, --max_wav_duration, --train_args. Files and
# folders are searched in the folder from which you call; those of --train_config and
# --inference_config then also in this folder, those of --train_overlays and --vocoders
# only in this folder. data/, dump/ and exp/ are written here.

# options.sh reads and sets variables by their names.
# shellcheck disable=SC2034,SC2154

set -euo pipefail

called_from=${PWD}
cd "$(dirname "$(readlink -f "$0")")"
. ../../TEMPLATE/prune_tts1/options.sh

# Options of local/prepare.py, which chooses the values of empty ones.
train_data=
eval_data=
eval_speakers=
seen_speakers=
test_texts=
num_texts=
split_seed=
# Options of both local/prepare.py and the pipeline.
nj=$(env -u OMP_NUM_THREADS nproc)
lang=en
fs=22050
n_shift=256
min_wav_duration=0.5
max_wav_duration=20
token_type=phn
g2p=espeak_ng_english_us_vits
cleaner=none
expdir=exp
# Options of this script.
preset=small
system=
durations=learned
dumpdir=dump
train_overlays=

takes="train_data eval_data eval_speakers seen_speakers test_texts num_texts split_seed nj
    lang fs n_shift min_wav_duration max_wav_duration token_type g2p cleaner expdir preset
    system durations dumpdir train_overlays"
caller_paths="train_data eval_data test_texts"
found_paths="train_config inference_config versa_config"
parse_options "$@"

are_whole 1 nj fs n_shift eval_speakers
are_whole 0 seen_speakers num_texts split_seed
for name in min_wav_duration max_wav_duration; do
    [[ "${!name}" =~ ^([0-9]+\.?[0-9]*|\.[0-9]+)$ ]] || fail "--${name} is '${!name}': give seconds"
done
for name in train_data eval_data test_texts; do
    [[ "${!name}" != *$'\n'* ]] || fail "the name in --${name} has a new line: rename it"
done
is_one_of preset small full
is_one_of durations learned aligned
# The paper's configuration, which has given durations and no mixed precision, and its
# changes for your own corpus.
case "${preset}" in
    small)
        ngpu=0
        train_config=conf/train_small.yaml
        overlays= ;;
    full)
        ngpu=1
        train_config=conf/train.yaml
        overlays="conf/learned.yaml conf/amp.yaml" ;;
esac
if [ -n "${system}" ]; then
    # shellcheck disable=SC2046
    is_one_of system $(files_of conf/systems)
    overlays+=" conf/systems/${system}.yaml"
fi
custom_align_opts=
case "${durations}" in
    learned) ;;
    aligned)
        [ "${token_type}" = phn ] || fail "--durations aligned needs phonemes, not" \
            "--token_type ${token_type}: choose phn, or --durations learned"
        overlays+=" conf/aligned.yaml"
        passed=(--teacher_dumpdir "${dumpdir}/durations" \
            --tts_stats_dir "${expdir}/tts_stats_aligned" "${passed[@]}")
        custom_align_opts=$(printf '%s\n' --g2p "${g2p}" --cleaner "${cleaner}" \
            --nj "${nj}") ;;
esac
test_sets=test_unseen
[ "${seen_speakers:-1}" = 0 ] || test_sets+=" test_seen"

../../setup.sh

data_opts=(--base_dir "${called_from}" --exp_dir "${expdir}")
for name in train_data eval_data eval_speakers seen_speakers test_texts num_texts \
    split_seed nj lang fs n_shift min_wav_duration max_wav_duration token_type g2p \
    cleaner; do
    [ -z "${!name}" ] || data_opts+=("--${name}" "${!name}")
done
custom_data_opts=$(printf '%s\n' "${data_opts[@]}")
export custom_data_opts custom_align_opts

exec ./prune_tts.sh \
    --ngpu "${ngpu}" \
    --nj "${nj}" \
    --inference_nj "${nj}" \
    --lang "${lang}" \
    --fs "${fs}" \
    --n_fft 1024 \
    --n_shift "${n_shift}" \
    --fmin 0 \
    --fmax 8000 \
    --min_wav_duration "${min_wav_duration}" \
    --max_wav_duration "${max_wav_duration}" \
    --token_type "${token_type}" \
    --g2p "${g2p}" \
    --cleaner "${cleaner}" \
    --expdir "${expdir}" \
    --dumpdir "${dumpdir}" \
    --train_config "${train_config}" \
    --train_overlays "${overlays} ${train_overlays}" \
    --inference_config conf/decode.yaml \
    --skip_packing false \
    --write_collected_feats true \
    --vocoders hifigan \
    --train_set train \
    --valid_set dev \
    --test_sets "${test_sets}" \
    --srctexts "data/train/text data/dev/text" \
    "${passed[@]}"
