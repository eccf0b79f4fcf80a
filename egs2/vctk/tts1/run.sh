#!/usr/bin/env bash
# Zero-shot evaluation: trained models speak in unseen voices; their speech is scored.
# Writes one table, and trains nothing.
#
# Usage: run.sh --corpus_dir FOLDER --model MODEL [--model MODEL ...] [options]
#
#   --model [NAME=]MODEL  an experiment folder, a packed zip, a tag of the model zoo, or
#                         english_small, the model of the package; with several, the
#                         table has differences to the first
#   --corpus vctk|librispeech|libritts
#                         VCTK (default), LibriSpeech test-other, or the seen speakers of
#                         LibriTTS train-clean-100
#   --corpus_dir FOLDER   folder of the unpacked corpus
#   --part NAME           another part of librispeech or libritts
#   --list FILE           your own list of speakers, texts and references (default: the
#                         fixed list of vctk, or a drawn one); see local/vctk_108.tsv.
#                         librispeech_pc: the 1,127 pairs of LibriSpeech test-clean that
#                         others use
#   --test_texts FILE     sentences that every speaker speaks, one per line; the table
#                         then has no ground truth
#   --num_speakers N      speakers to draw, 0 for all (default: 0; libritts: 100)
#   --texts_per_speaker N sentences per speaker of a drawn list (default: 3)
#   --seed N              for drawing speakers, texts and references (default: 0)
#   --skip_faulty true    skip speakers whose reference is missing or too short
#   --vocoder NAME        hifigan, hifigan_ljspeech, griffin_lim, the folder of a
#                         HiFi-GAN, or the .pkl of a ParallelWaveGAN (default: hifigan)
#   --inference_model FILE  weights in the experiment folders (default:
#                         train.loss.ave.pth)
#   --batch_size N        utterances that are computed together (default: 8)
#   --device cpu|cuda     device of synthesis (default: cpu)
#   --metrics "M ..."     columns (default: see espnet-prune score --help)
#   --nj N                processes of scoring (default: one per core, at most 8)
#   --tag NAME            of the folders (default: from corpus, part, list and texts)
#   --expdir FOLDER       folder of results (default: exp)
#   --stage N             first stage (default: 1)
#   --stop_stage N        last stage (default: 4)
#
# Stages:
#   1  the test set as a Kaldi folder                data/TAG
#   2  synthesis, each model in turn                 EXPDIR/TAG/NAME/wav
#   3  recordings of the texts through mel and vocoder
#                                                    EXPDIR/TAG/ground_truth_mel_*/wav
#   4  scores and table                              EXPDIR/TAG/scores/scores.md
# Each stage continues after an interruption and skips finished work.

# options.sh reads and sets variables by their names.
# shellcheck disable=SC2034,SC2154

set -euo pipefail

called_from=${PWD}
cd "$(dirname "$(readlink -f "$0")")"
. ../../TEMPLATE/prune_tts1/options.sh

# Options of local/prepare.py, which chooses the values of empty ones.
corpus=vctk
corpus_dir=
part=
list=
test_texts=
num_speakers=
texts_per_speaker=
seed=
skip_faulty=
# Options of this script.
models=()
vocoder=hifigan
inference_model=
batch_size=8
device=cpu
metrics=
nj=$(env -u OMP_NUM_THREADS nproc)
[ "${nj}" -le 8 ] || nj=8        # each needs up to 2 GB of memory
tag=
expdir=exp
stage=1
stop_stage=4

takes="corpus corpus_dir part list test_texts num_speakers texts_per_speaker seed skip_faulty
    vocoder inference_model batch_size device metrics nj tag expdir stage stop_stage"
found_paths="corpus_dir list test_texts vocoder"
takes_all=false
option_model() { models+=("$1"); }
parse_options "$@"
end_with_children "$@"

stem() {  # print the name of a file without folder and ending
    local file="${1##*/}"
    printf '%s\n' "${file%.*}"
}

if [ "${list##*/}" = librispeech_pc ] && [ ! -e "${list}" ]; then  # the known list
    list=librispeech_pc
    [ "${corpus}" != vctk ] || corpus=librispeech
    part=${part:-test-clean}
fi
is_one_of corpus vctk librispeech libritts
[ -z "${skip_faulty}" ] || is_one_of skip_faulty true false
for name in stage stop_stage batch_size nj; do is_whole "${name}" 1; done
are_whole 0 num_speakers texts_per_speaker seed
are_words metrics
[[ " ${metrics}" != *[[:space:]]-* ]] || fail "--metrics is ${metrics@Q}: give names of" \
    "metrics, not options"
if [ "${stage}" -gt "${stop_stage}" ] || [ "${stage}" -gt 4 ]; then
    fail "no stage is from --stage ${stage} to --stop_stage ${stop_stage}: there are" \
        "stages 1 to 4"
fi
[ -n "${corpus_dir}" ] || ! runs 1 || fail "--corpus_dir is missing: name the folder" \
    "that ${corpus} was unpacked in"
[ ${#models[@]} -gt 0 ] || [ "${stop_stage}" -lt 2 ] || fail "there is no --model: name" \
    "an experiment folder, a packed zip or a tag"

names=()
files=()
tags=()
for model in ${models[@]+"${models[@]}"}; do
    model_name="${model%%=*}"
    case "${model}" in
        *=*) case "${model_name}" in
                */*|'') model_name= ;;  # the = of a path
                *) model="${model#*=}" ;;
            esac ;;
        *) model_name= ;;
    esac
    model="$(seen_from_caller "${model%/}")"
    if [ -z "${model_name}" ]; then
        model_name="${model##*/}"
        model_name="${model_name%.zip}"
    fi
    case "${model_name}" in
        scores|ground_truth*|.*)
            fail "the name ${model_name} cannot be used: give --model NAME=MODEL" ;;
    esac
    for other in ${names[@]+"${names[@]}"}; do
        [ "${other}" != "${model_name}" ] || fail "two models are called ${other}: give" \
            "--model NAME=MODEL"
    done
    # Check this now, not after the other models have spoken for hours.
    if [ -d "${model}" ]; then
        [ -e "${model}/config.yaml" ] || fail "${model} has no config.yaml: name an" \
            "experiment folder (exp/tts_...), a packed zip or a tag"
    elif [ ! -e "${model}" ] &&
        [ ! -e "../../../espnet_prune/models/${model}/config.yaml" ]; then
        [[ "${model}" =~ ^https?://.+ ||
            ( "${model}" =~ ^[^/]+/[^/]+$ && "${model}" != *.zip ) ]] ||
            fail "there is no model ${model}: name an experiment folder, a packed zip" \
                "or a tag"
        tags+=("${model}")
    fi
    names+=("${model_name}")
    files+=("${model}")
done

if [ -z "${tag}" ]; then
    tag="${corpus}"
    for word in "${part}" "${list:+$(stem "${list#librispeech_}")}" \
        "${test_texts:+$(stem "${test_texts}")}"; do
        [ -z "${word}" ] || tag+="_${word}"
    done
fi
data="data/${tag}"
exp="${expdir}/${tag}"
vocoder="${vocoder%/}"
gt_name="ground_truth_mel_${vocoder##*/}"
for model_name in ${names[@]+"${names[@]}"} "${gt_name}"; do
    # they name folders and rows of tables, after hours of synthesis
    [[ "${model_name}" != *[=\|[:cntrl:]]* && ${#model_name} -le 100 ]] \
        || fail "the name ${model_name@Q} cannot be used: rename it, or give --model" \
            "NAME=MODEL"
done

../../setup.sh
. ./path.sh

if runs 2 && [ ${#tags[@]} -gt 0 ]; then
    log "Looking up ${tags[*]}"
    python3 - "${tags[@]}" << 'EOF'
import sys

from espnet_prune.errors import run
from espnet_prune.speech.pretrained import find_model

run(lambda: [find_model(tag) for tag in sys.argv[1:]])
EOF
fi

if runs 1; then
    log "Stage 1: the test set in ${data}"
    options=(--corpus "${corpus}" --corpus_dir "${corpus_dir}" --data_dir "${data}")
    for name in part list test_texts num_speakers texts_per_speaker seed skip_faulty; do
        [ -z "${!name}" ] || options+=("--${name}" "${!name}")
    done
    python3 local/prepare.py "${options[@]}"
fi
[ -e "${data}/text" ] || fail "${data} is missing; run stage 1 first"

# Options of the commands that make speech.
speech=(--data_dir "${data}" --vocoder "${vocoder}" --device "${device}")
[ -z "${inference_model}" ] || speech+=(--model_file "${inference_model}")

if runs 2; then
    for i in "${!names[@]}"; do
        log "Stage 2: ${names[i]} says it, on ${device}"
        python3 -m espnet_prune say "${speech[@]}" --model "${files[i]}" \
            -o "${exp}/${names[i]}/wav" --batch_size "${batch_size}"
    done
fi

gt_wavs="${exp}/${gt_name}/wav"
if runs 3; then
    if [ ! -e "${data}/gt_wav.scp" ]; then
        log "Stage 3: skipped, there are no recordings of these texts"
    elif [[ "${vocoder}" = *.pkl ]]; then
        log "Stage 3: skipped, ground truth does not go through a ParallelWaveGAN"
    else
        log "Stage 3: the recordings through the mel of ${names[0]} and ${vocoder}"
        python3 -m espnet_prune vocode "${speech[@]}" --model "${files[0]}" \
            -o "${gt_wavs}"
    fi
fi

if runs 4; then
    log "Stage 4: scores"
    options=()
    if [ -e "${data}/gt_wav.scp" ] && [ -e "${gt_wavs}/synthesis.jsonl" ]; then
        options+=(--system "${gt_name}=${gt_wavs}")
    fi
    for i in "${!names[@]}"; do
        [ -d "${exp}/${names[i]}/wav" ] || fail "${exp}/${names[i]}/wav is missing; run" \
            "stage 2 for --model ${names[i]}"
        options+=(--system "${names[i]}=${exp}/${names[i]}/wav")
    done
    # Two more papers have values for these speakers.
    if [ "${corpus}" = vctk ] && cut -d ' ' -f 2 "${data}/utt2spk" \
        | grep -xFf local/yourtts_11.txt > /dev/null; then  # to the end, for pipefail
        options+=(--subset "the 11 of YourTTS and SC-CNN=local/yourtts_11.txt")
    fi
    # shellcheck disable=SC2206  # a list of words
    [ -z "${metrics}" ] || options+=(--metrics ${metrics})
    python3 -m espnet_prune score --data_dir "${data}" --output_dir "${exp}/scores" \
        "${options[@]}" --nj "${nj}"
fi
log "Successfully finished. [elapsed=${SECONDS}s]"
