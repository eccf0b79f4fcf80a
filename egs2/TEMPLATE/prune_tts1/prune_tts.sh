#!/usr/bin/env bash
# Pruned-attention TTS: ESPnet's tts.sh with two phases of training, scores and reports.
#
# Usage: prune_tts.sh [options]
#
# Accepts every option of ESPnet's tts.sh except --config and --vocoder_file, and these:
#   --stage N          first stage to run (default: 1)
#   --stop_stage N     last stage to run (default: 10000)
#   --phase 1|2|both   phases that stage 7 trains (default: both)
#   --phase1_epochs N  epochs of phase 1, out of the max_epoch of the training
#                      configuration (default: 40/300 of them, as in the paper);
#                      ignored for models with one phase
#   --vocoders "V ..." vocoders to use, separated by spaces: griffin_lim, hifigan,
#                      hifigan_ljspeech, the folder of a HiFi-GAN, or the .pkl of a
#                      ParallelWaveGAN (default: griffin_lim)
#   --nbpe N           number of BPE tokens, with --token_type bpe (default: 100)
#   --train_overlays "FILE ..."
#                      YAML files of settings that differ from --train_config, merged
#                      over it into EXPDIR/configs/NAME_OVERLAYS.yaml, which gives the
#                      experiment its name
#   --skip_scoring true|false
#                      leave out the scores of stage 9 (default: true, because set-up
#                      does not install the scorers; tts.sh has false)
#   --skip_packing true|false
#                      leave out stage 10 (default: true, as in tts.sh)
#   --card_args "..."  more options of `espnet-prune card`, for instance
#                      "--license cc-by-4.0 --scores scores"
#
# Stages, the same as those of tts.sh:
#    1  data preparation by local/data.sh
#    2  format wav.scp to one sampling rate
#    3  speaker embeddings, with --use_spk_embed true
#    4  remove long and short data; with --teacher_dumpdir, durations in frames of sets
#       that have them in seconds (data/SET/token_ends)
#    5  token list
#    6  statistics
#    7  training: phase 1 with soft masks, then phase 2 with hard masks from the weights,
#       optimiser and schedule of phase 1; or the only phase of a model whose pruning is
#       none or vanilla
#    8  decoding of --test_sets with each of --vocoders
#    9  scores of that speech (--skip_scoring false), and reports: thresholds, kept share
#       and attention maps as tables and pictures
#   10  packing, model card, and a check that the packed model produces the same samples
#       (--skip_packing false)
#   11  upload, with --skip_upload_hf false
#
# Folders: phase 1 is EXP_phase1, phase 2 is EXP_phase2; a model of one phase is EXP,
# which is --tts_exp or EXPDIR/tts_TAG; TAG is --tag, or made from --train_config,
# --token_type, --cleaner, --g2p and --train_args. To continue an interrupted training,
# run its stage again with the same options.

# options.sh reads and sets variables by their names.
# shellcheck disable=SC2034,SC2154

set -euo pipefail

. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/options.sh"

# Options of this script, and those of tts.sh that it also needs.
stage=1
stop_stage=10000
phase=both
phase1_epochs=
vocoders=griffin_lim
nbpe=100
srctexts=
python="python3 -m espnet_prune"
expdir=exp
dumpdir=dump
train_config=
train_overlays=
train_args=
tag=
tts_exp=
train_set=
valid_set=
test_sets=
teacher_dumpdir=
fs=16000
n_fft=1024
n_shift=256
win_length=null
fmin=80
fmax=7600
n_mels=80
num_nodes=1
token_type=phn
cleaner=tacotron
g2p=g2p_en
feats_type=raw
feats_extract=fbank
inference_config=
inference_args=
inference_tag=
inference_model=train.loss.ave.pth
gpu_inference=false
skip_train=false
skip_eval=false
skip_packing=true
skip_scoring=true
skip_upload_hf=true
hf_repo=
lang=noinfo
card_args=
use_spk_embed=false
spk_embed_tag=espnet_spk

# Options that this script passes to single stages, or uses itself.
takes="stage stop_stage phase phase1_epochs vocoders nbpe train_overlays python train_args
    tag tts_exp test_sets teacher_dumpdir inference_tag skip_packing skip_scoring card_args"
shares="srctexts expdir dumpdir train_config train_set valid_set fs n_fft n_shift win_length
    fmin fmax n_mels num_nodes token_type cleaner g2p feats_type feats_extract
    inference_config inference_args inference_model gpu_inference skip_train skip_eval
    skip_upload_hf hf_repo lang use_spk_embed spk_embed_tag"
option_vocoder_file() { fail "--vocoder_file is --vocoders here, which takes several"; }
option_config() { fail "--config would run a file as a script: give its options here"; }
parse_options "$@"
end_with_children "$@"

# tts.sh evaluates its options, and its job starter passes them to a shell.
values=("${passed[@]}")
for name in ${takes}; do
    [ "${name}" = card_args ] || values+=("--${name}" "${!name}")
done
for ((i = 0; i < ${#values[@]}; i += 2)); do
    [[ "${values[i + 1]}" != *[\$\`\"\\\;\|\&\(\)]* && "${values[i + 1]}" != *$'\n'* ]] \
        || fail "${values[i]} has a character that a shell would act on (one of \$ \` \"" \
            "\\ ; | & ( ) or a new line): leave it out"
done
is_one_of phase 1 2 both
for name in skip_train skip_eval skip_packing skip_scoring skip_upload_hf gpu_inference \
    use_spk_embed; do is_one_of "${name}" true false; done
for name in stage stop_stage; do is_whole "${name}" 0; done
are_whole 1 phase1_epochs nbpe n_fft n_shift n_mels num_nodes
[ "${stage}" -le "${stop_stage}" ] || fail "--stage is ${stage} and --stop_stage" \
    "${stop_stage}, so no stage would run: choose a later last stage"
in_names=train_config
[ -z "${train_overlays}" ] || in_names=  # ESPnet gets the merged file instead
for name in expdir dumpdir tts_exp tag train_set valid_set teacher_dumpdir \
    inference_config inference_tag inference_model ${in_names}; do
    [[ "${!name}" != *[[:space:]*?[]* ]] || fail "--${name} is '${!name}', but ESPnet's" \
        "scripts take no space, *, ? or [ in a name: rename it"
done
[ -e path.sh ] && [ -e cmd.sh ] \
    || fail "no path.sh and cmd.sh in ${PWD}: call ${0##*/} in the folder of a recipe"
log "$0 $*"

. ./path.sh
. ./cmd.sh
# ESPnet's scripts look for C.UTF-8, which newer systems list as C.utf8; without it they
# refuse texts with non-ASCII letters.
locale() { command locale "$@" | sed 's/^C\.utf8$/C.UTF-8/'; }
export -f locale
case "${num_nodes}:${cmd_backend:-}" in
    1:*) ;;
    *:local|*:stdout) fail "--num_nodes is ${num_nodes}, but jobs run on this machine:" \
        "set cmd_backend=slurm, sge or pbs" ;;
esac
tts_sh="${ESPNET_ROOT}/egs2/TEMPLATE/tts1/tts.sh"
[ -f "${tts_sh}" ] || fail "no tts.sh in ESPNET_ROOT=${ESPNET_ROOT}; run egs2/setup.sh"
for ((i = 0; i < ${#passed[@]}; i += 2)); do
    grep -q "^${passed[i]#--}=" "${tts_sh}" || fail "unknown option ${passed[i]}; see --help"
done

run_tts() {  # run_tts STAGE_OF_TTS_SH OPTIONS...
    "${tts_sh}" --stage "$1" --stop_stage "$1" --python "${python}" \
        --test_sets "${test_sets}" --skip_scoring true --skip_packing true \
        "${passed[@]}" "${@:2}"
}

if [ -n "${train_overlays}" ]; then
    # shellcheck disable=SC2086
    train_config=$(python3 -m espnet_prune merge \
        --output_dir "${expdir}/configs" "${train_config}" ${train_overlays}) || exit 2
    passed+=(--train_config "${train_config}")
fi

# Check all settings before any stage runs.
to_check=(--train_config "${train_config}" --teacher_dumpdir "${teacher_dumpdir}")
[ -z "${phase1_epochs}" ] || to_check+=(--phase1_epochs "${phase1_epochs}")
features=  # the features, as tts.sh passes them to training
if runs 8 && [ "${feats_type}:${feats_extract}" = raw:fbank ]; then
    to_check+=(--vocoders "${vocoders}")
    for setting in fs="${fs}" n_fft="${n_fft}" hop_length="${n_shift}" \
        win_length="${win_length}" fmin="${fmin}" fmax="${fmax}" n_mels="${n_mels}"; do
        features+="--feats_extract_conf ${setting} "
    done
fi
plan=$(python3 -m espnet_prune plan "${to_check[@]}" \
    --train_args "${features}${train_args}") || exit 2
pruning=
epochs=
phase2_epochs=0
while IFS='=' read -r name value; do  # these are lines of text, which are not evaluated
    case "${name}" in
        pruning|epochs|phase1_epochs|phase2_epochs) printf -v "${name}" '%s' "${value}" ;;
    esac
done <<< "${plan}"

# The name of the experiment in tts.sh.
if [ -z "${tts_exp}" ]; then
    if [ -z "${tag}" ]; then
        tag="$(basename "${train_config:-train}" .yaml)_${feats_type}_${token_type}"
        [ "${cleaner}" = none ] || tag+="_${cleaner}"
        [ "${token_type}" != phn ] || tag+="_${g2p}"
        tag+="$(echo "${train_args}" | sed -e "s/--/\_/g" -e "s/[ |=]//g")"
    fi
    tts_exp="${expdir}/tts_${tag}"
fi
if [ "${pruning}" = differentiable ]; then
    first_exp="${tts_exp}_phase1"
    first_epochs="${phase1_epochs}"
else
    first_exp="${tts_exp}"
    first_epochs="${epochs}"
fi
final_exp="${first_exp}"
[ "${phase2_epochs}" -eq 0 ] || final_exp="${tts_exp}_phase2"

# Print the epochs of a training as ESPnet logs them, until this script ends.
show_progress() {
    tail -n 0 --pid=$$ -F "$1/train.log" 2> /dev/null \
        | sed -un -e 's/, \[valid\].*//' \
            -e 's/.* INFO: \([0-9]*\/[0-9]*epoch started.*\)/    \1/p' \
            -e 's/.*espnet_prune: \(warning: .*\)/    \1/p' \
            -e 's/.* INFO: \([0-9]*epoch\) results: .*[ ,]loss=\([^,]*\),.*/    \1: training loss \2/p'
}
train() {  # train EXP OPTIONS...
    local progress status=0
    mkdir -p "$1"
    show_progress "$1" &
    progress=$!
    disown "${progress}"  # otherwise bash would report that it was ended
    run_tts 7 --tts_exp "$1" --teacher_dumpdir "${teacher_dumpdir}" \
        --train_args "${train_args} ${*:2}" || status=$?
    end_tree "${progress}"
    return "${status}"
}

for number in 2 3 4 5 6; do
    if runs "${number}"; then
        lock_folder "${dumpdir}" "data stages"
        break
    fi
done
for number in 1 2 3 4; do
    ! runs "${number}" || run_tts "${number}"
done
if runs 4 && [ -n "${teacher_dumpdir}" ] && [ -e "data/${train_set}/token_ends" ]; then
    log "Stage 4: durations in frames: data/*/token_ends -> ${teacher_dumpdir}"
    python3 -m espnet_prune durations "${train_set}" "${valid_set}" \
        --dump_dir "${dumpdir}/${feats_type}" --fs "${fs}" --n_shift "${n_shift}" \
        --output_dir "${teacher_dumpdir}"
fi

bpemodel=
if [ "${token_type}" = bpe ]; then
    token_listdir="${dumpdir}/token_list/bpe"
    [ "${cleaner}" = none ] || token_listdir+="_${cleaner}"
    bpemodel="${token_listdir}/bpe.model"
    train_args+=" --bpemodel ${bpemodel}"
fi
# The texts of a corpus in capitals are in lower case; the model must do the same.
if grep -qsx lower_case "data/${train_set}/cleaner"; then
    train_args+=" --cleaner lower_case"
fi
if runs 5; then
    if [ -n "${bpemodel}" ]; then
        # shellcheck disable=SC2086
        python3 -m espnet_prune bpe ${srctexts} --nbpe "${nbpe}" \
            --cleaner "${cleaner}" --output_dir "${token_listdir}" || exit
    else
        run_tts 5
    fi
fi
if runs 6; then
    run_tts 6 --teacher_dumpdir "${teacher_dumpdir}" --train_args "${train_args}"
fi

unlock_folder

if runs 7 && ! "${skip_train}"; then
    if [ "${phase}" != 2 ]; then
        log "Stage 7: pruning: ${pruning}, ${first_epochs} epochs in ${first_exp}"
        train "${first_exp}" --max_epoch "${first_epochs}"
    fi
    if [ "${phase2_epochs}" -eq 0 ]; then
        [ "${phase}" != 2 ] || log "Stage 7: skipped, ${first_exp} has one phase"
    elif [ "${phase}" != 1 ]; then
        log "Stage 7: phase 2, ${phase2_epochs} epochs in ${final_exp}"
        [ -e "${first_exp}/checkpoint.pth" ] || fail "phase 2 found no phase-1" \
            "checkpoint in ${first_exp}; run stage 7 with --phase 1 or both"
        train "${final_exp}" --max_epoch "${phase2_epochs}" \
            --tts_conf pruning_conf.phase=2 --phase1_dir "${first_exp}"
    fi
fi

if [ -z "${inference_tag}" ]; then
    inference_tag="$(basename "${inference_config:-inference}" .yaml)"
    inference_tag+="$(echo "${inference_args}" | sed -e "s/--/\_/g" -e "s/[ |=]//g")"
    inference_tag+="_$(echo "${inference_model}" | sed -e "s/\//_/g" -e "s/\.[^.]*$//g")"
fi
decoded_tag() {  # name of the folder with the speech of vocoder $1
    case "$1" in
        griffin_lim) echo "${inference_tag}" ;;
        *) echo "${inference_tag}_$(basename "$1" .pkl)" ;;  # a name, or a file
    esac
}

if runs 8 && ! "${skip_eval}"; then
    [ -e "${final_exp}/${inference_model}" ] || among --download_model "${passed[*]}" \
        || fail "there is no ${final_exp}/${inference_model}; run stage 7 first"
    for vocoder in ${vocoders}; do
        log "Stage 8: decoding ${final_exp}, vocoder ${vocoder}"
        run_tts 8 --tts_exp "${final_exp}" --vocoder_file "${vocoder}" \
            --inference_tag "$(decoded_tag "${vocoder}")"
    done
fi

if runs 9; then
    if "${skip_scoring}"; then
        log "Stage 9: no scores; --skip_scoring false scores the speech"
    else
        for dset in ${test_sets}; do
            log "Stage 9: scores on ${dset}"
            systems=()
            for vocoder in ${vocoders}; do
                wavs="${final_exp}/$(decoded_tag "${vocoder}")/${dset}/wav"
                systems+=(--system "$(basename "${vocoder}" .pkl)=${wavs}")
            done
            python3 -m espnet_prune score --data_dir "data/${dset}" "${systems[@]}" \
                --output_dir "${final_exp}/scores/${dset}"
        done
    fi
fi

spembs() {  # the option for the speaker embeddings of test set $1, if there are any
    ! "${use_spk_embed}" \
        || echo "--spembs ${dumpdir}/${spk_embed_tag}/$1/${spk_embed_tag}.scp"
}

if runs 9 && ! "${skip_eval}"; then
    log "Stage 9: reports"
    experiments=("${first_exp}")
    [ "${final_exp}" = "${first_exp}" ] || experiments+=("${final_exp}")
    if [ "${pruning}" != none ]; then
        dset="${test_sets%% *}"
        # shellcheck disable=SC2046
        python3 -m espnet_prune attention "${experiments[@]}" \
            --data_dir "${dumpdir}/raw/${dset}" $(spembs "${dset}") \
            --inference_model "${inference_model}" \
            --output_dir "${final_exp}/report"
    fi
    scores=(--scores)
    for dset in ${test_sets}; do
        tables="${final_exp}/scores/${dset}"
        [ ! -e "${tables}/scores.md" ] || scores+=("${tables}")  # complete if it exists
    done
    # shellcheck disable=SC2046,SC2086
    python3 -m espnet_prune report "${experiments[@]}" "${scores[@]}" \
        --data_dir $(printf -- "${dumpdir}/raw/%s " ${test_sets}) \
        --output_dir "${final_exp}/report"
fi

model_card() {  # model_card OPTIONS...
    # shellcheck disable=SC2086
    python3 -m espnet_prune card "${final_exp}" --language "${lang}" \
        --corpus "$(basename "$(dirname "${PWD}")")" --vocoder "${vocoders##* }" \
        ${hf_repo:+--tag "${hf_repo}"} ${card_args} "$@"
}

if runs 10 && ! "${skip_packing}"; then
    packed="${final_exp}/${final_exp##*/}_${inference_model%.*}.zip"
    mkdir -p "${final_exp}/images"  # tts.sh packs this folder, so it must exist
    run_tts 10 --tts_exp "${final_exp}" --skip_packing false
    # tts.sh does not know of this file; in the archive, ESPnet finds it by its name
    [ -z "${bpemodel}" ] || python3 -c "import sys, zipfile
zipfile.ZipFile(sys.argv[1], 'a').write(sys.argv[2])" "${packed}" "${bpemodel}"
    model_card --archive "${packed}"
    vocoder="${vocoders##* }"
    dset="${test_sets%% *}"
    said="${final_exp}/$(decoded_tag "${vocoder}")/${dset}/wav"
    ! "${gpu_inference}" || said="${final_exp}/${inference_model}"
    # shellcheck disable=SC2046
    python3 -m espnet_prune check "${packed}" --said "${said}" \
        --data_dir "${dumpdir}/raw/${dset}" $(spembs "${dset}") \
        --vocoder "${vocoder}" --inference_args "${inference_args}" \
        ${inference_config:+--config "${inference_config}"}
fi

if runs 11; then
    run_tts 11 --tts_exp "${final_exp}"
    if ! "${skip_upload_hf}"; then
        # ESPnet's own card names neither the plugin nor how to load the model
        repository="${expdir}/hf_${hf_repo//"/"/"_"}"
        model_card --output "${repository}/README.md"
        git -C "${repository}" commit --quiet --all --message "Model card"
        git -C "${repository}" push --quiet
    fi
fi

if runs 8 || runs 9; then
    log "Results:"
    [ ! -e "${final_exp}/report/thresholds.md" ] \
        || grep '^|' "${final_exp}/report/thresholds.md"
    for file in "${final_exp}"/report/* "${final_exp}"/scores/*/scores.md; do
        [ ! -e "${file}" ] || echo "    ${file}"
    done
    for vocoder in ${vocoders}; do
        for dset in ${test_sets}; do
            wavs="${final_exp}/$(decoded_tag "${vocoder}")/${dset}/wav"
            [ ! -d "${wavs}" ] || echo "    ${wavs}: $(find "${wavs}" -name '*.wav' | wc -l) wav files"
        done
    done
fi
log "Successfully finished. [elapsed=${SECONDS}s]"
