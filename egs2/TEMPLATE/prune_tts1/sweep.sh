#!/usr/bin/env bash
# Trains a recipe's model for every combination of settings and compares the results.
#
# Usage: sweep.sh [options]
#
# Called in the folder of any recipe whose stages 1 to 6 are done. Runs run.sh (or
# prune_tts.sh, if there is no run.sh) from stage 7 for every combination of:
#   --sparsity_ratios "R ..."  of differentiable pruning; none and vanilla are
#                              allowed too, without phase 1 (default: 0.50 0.45 0.40)
#   --systems "NAME ..."       other systems, files of conf/systems: mix_style, sc_cnn,
#                              less_capacity, more_dropout; none if not given
#   --phase1_epochs "N ..."    lengths of phase 1 in epochs (default: the recipe's)
#   --seeds "N ..."            seeds of training (default: 0)
#
#   --sweep_dir FOLDER         for all experiments and report/ (default: exp/sweep)
#   --stop_stage N             last stage of each point: 7 trains, 8 also speaks
#                              (default: 8)
#   --train_args "..."         options of training for all points
#   --test_data FOLDER         Kaldi folder of a zero-shot test set that stage 8 decodes,
#                              for attention maps and scores (default: the first one)
#   --score true|false         score the speech of the points (default: false)
#   --dry_run                  show the points, check their settings, and end
#
# All other options go to run.sh. Points that were finished with the same options and
# files in conf/ are skipped, interrupted ones continue, and you can add points in another
# call. A sweep with another rate, other data or another configuration needs its own
# --sweep_dir.
# Results, with mean and standard deviation over seeds, are in SWEEP_DIR/report.

# options.sh reads and sets variables by their names.
# shellcheck disable=SC2034,SC2154

set -euo pipefail

. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/options.sh"

sparsity_ratios="0.50 0.45 0.40"
systems=
shared_overlays=
phase1_epochs=
seeds=0
sweep_dir=exp/sweep
stop_stage=8
train_args=
test_data=
score=false
dry_run=false
dumpdir=dump
fs=

takes="sparsity_ratios systems phase1_epochs seeds sweep_dir stop_stage train_args test_data score"
shares="dumpdir fs"
flags=dry_run
option_stage() { fail "a sweep starts at stage 7: run stages 1 to 6 with run.sh"; }
option_tag() { fail "a sweep names its experiments itself: leave --tag out"; }
option_tts_exp() { fail "a sweep names its experiments itself: leave --tts_exp out"; }
option_train_overlays() {  # all points have them; the file of a system comes last
    shared_overlays="$1 "
    passed+=(--train_overlays "$1")
}
option_phase() { fail "a point of a sweep has all its phases: leave --phase out"; }
parse_options "$@"
end_with_children "$@"
for name in sparsity_ratios systems phase1_epochs seeds; do
    are_words "${name}"
    read -r -d '' -a words <<< "${!name}" || true
    printf -v "${name}" '%s' "${words[*]}"  # one space between values
done

script=./run.sh
[ -e "${script}" ] || script=./prune_tts.sh
[ -e "${script}" ] && [ -e path.sh ] \
    || fail "no run.sh and path.sh in ${PWD}: call sweep.sh in the folder of a recipe"

# require NAME VALUES PATTERN REMEDY: values of a list, each of one form and only once
require() {
    local value
    [ -n "$2" ] || fail "--$1 is empty: $4"
    for value in $2; do
        [[ "${value}" =~ ^($3)$ ]] || fail "--$1 has ${value}: $4"
    done
    value=$(tr ' ' '\n' <<< "$2" | sed '/^0\./s/0*$//' | sort | uniq -d)
    [ -z "${value}" ] || fail "--$1 has ${value%%$'\n'*} twice: leave one out"
}
require sparsity_ratios "${sparsity_ratios}" '0\.0*[1-9][0-9]*|none|vanilla' \
    "choose values between 0 and 1 such as 0.45, none or vanilla"
rivals="mix_style sc_cnn less_capacity more_dropout"
[ -z "${systems}" ] || require systems "${systems}" "${rivals// /|}" "choose from ${rivals}"
require seeds "${seeds}" '0|[1-9][0-9]*' "choose whole numbers"
[ -z "${phase1_epochs}" ] || require phase1_epochs "${phase1_epochs}" '[1-9][0-9]*' \
    "choose whole numbers of epochs, from 1"
[[ "${stop_stage}" =~ ^([789]|1[01])$ ]] \
    || fail "--stop_stage is ${stop_stage}: choose 7 (training) up to 11"
is_one_of score true false
[ "${score}" = false ] || [ "${stop_stage}" -ge 8 ] \
    || fail "--score needs the speech of stage 8: choose --stop_stage 8"
[ -z "${test_data}" ] || [ -e "${test_data}/text" ] \
    || fail "--test_data ${test_data} contains no text: give a Kaldi folder"

# The points. Seeds come last, so that an interrupted sweep has every R once.
points=()
for seed in ${seeds}; do
    for length in ${phase1_epochs:-default}; do
        for ratio in ${sparsity_ratios}; do
            case "${ratio}" in
                none|vanilla)
                    [ "${length}" = "${phase1_epochs%% *}" ] \
                        || [ "${length}" = default ] || continue
                    points+=("${ratio}_s${seed}") ;;
                *)
                    [ "${length}" = default ] && part= || part="_p${length}"
                    points+=("R${ratio}${part}_s${seed}") ;;
            esac
        done
    done
    for system in ${systems}; do points+=("${system}_s${seed}"); done
done
all_systems=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
all_systems=$(readlink -f "${all_systems}/../../../conf/systems")

options=()
describe() {  # set options, the command line of run.sh for point $1
    local name="$1" given="--seed ${1##*_s}" ratio length='' overlay=''
    case "${name}" in
        R*)
            ratio="${name#R}"
            given+=" --tts_conf pruning=differentiable"
            given+=" --tts_conf pruning_conf.sparsity_ratio=${ratio%%_*}"
            [[ "${name}" != *_p* ]] || length="${name##*_p}"
            length="${length%%_*}" ;;
        none_s*|vanilla_s*)
            given+=" --tts_conf pruning=${name%_s*}" ;;
        *)
            overlay=conf/systems/${name%_s*}.yaml
            [ -e "${overlay}" ] || overlay=${all_systems}/${name%_s*}.yaml ;;
    esac
    options=("${passed[@]}" --tts_exp "${sweep_dir}/${name}" \
        --train_args "${train_args:+${train_args} }${given}")
    [ -z "${length}" ] || options+=(--phase1_epochs "${length}")
    [ -z "${overlay}" ] || options+=(--train_overlays "${shared_overlays}${overlay}")
}
final() {  # print the folder of the trained model of point $1, if it exists
    local folder
    for folder in "${sweep_dir}/$1"_phase2 "${sweep_dir}/$1"_phase1 "${sweep_dir}/$1"; do
        [ ! -e "${folder}/config.yaml" ] || { echo "${folder}"; return; }
    done
}
record() {  # print folder, options and a checksum of the configurations of point $1
    local words file
    printf '%s\n' "$(final "$1")" --stop_stage "${stop_stage}" "${options[@]}"
    read -r -d '' -a words <<< "${options[*]}" || true
    for file in conf/*.yaml "${words[@]}"; do
        [[ "${file}" != *.yaml || ! -f "${file}" ]] || cat "${file}"
    done | cksum
}
state() {  # state of point $1
    describe "$1"
    if [ "$(cat "${sweep_dir}/$1.done" 2> /dev/null)" = "$(record "$1")" ]; then
        echo finished
    elif [ -e "${sweep_dir}/$1/checkpoint.pth" ] \
        || [ -e "${sweep_dir}/$1_phase1/checkpoint.pth" ]; then
        echo begun
    else
        echo new
    fi
}
model_options() {  # options of run.sh, except those that do not change the model
    local i kept
    # a longer training continues a shorter one
    kept=$(sed -E 's/--max_epoch[ =]+[0-9]+//; s/^ +| +$//g' <<< "${train_args}")
    [ -z "${kept}" ] || echo "--train_args ${kept}"
    for ((i = 0; i < ${#passed[@]}; i += 2)); do
        case "${passed[i]#--}" in
            ngpu|num_nodes|nj|gpu_inference|inference_*|vocoders|skip_*|card_args|python)
                ;;
            *) printf '%s %q\n' "${passed[@]:i:2}" ;;
        esac
    done | sort
}

# ESPnet would continue a model with options of another one.
if [ -e "${sweep_dir}/options" ] \
    && [ "$(cat "${sweep_dir}/options")" != "$(model_options)" ]; then
    begun_with=$(paste -sd " " "${sweep_dir}/options")
    fail "${sweep_dir} was begun with ${begun_with:-no other options}: give the same" \
        "again, or choose another --sweep_dir"
fi

log "${#points[@]} points in ${sweep_dir}, each by ${script}, stages 7 to" \
    "${stop_stage}:"
left=0
for point in "${points[@]}"; do
    found=$(state "${point}")
    [ "${found}" = finished ] || left=$((left + 1))
    describe "${point}"
    printf '    %-8s  %-18s  %s\n' "${found}" "${point}" \
        "$(printf '%q ' "${options[@]:${#passed[@]}+2}")"
done
[ "${#passed[@]}" -eq 0 ] || log "All with $(printf '%q ' "${passed[@]}")"

. ./path.sh

if [ "${left}" -gt 0 ]; then
    # No stage has this number, so run.sh only checks its settings. Of the settings in
    # which points differ, only the length of phase 1 can be refused.
    checked=()
    ends=$(tr ' ' '\n' <<< "${phase1_epochs}" | sort -n | sed -n '1p;$p' | uniq)
    for length in ${ends}; do
        for point in "${points[@]}"; do
            [[ "${point}" != *_p"${length}"_s* ]] || { checked+=("${point}"); break; }
        done
    done
    [ "${#checked[@]}" -gt 0 ] || checked=("${points[-1]}")
    for point in "${checked[@]}"; do
        describe "${point}"
        "${script}" "${options[@]}" --stage 99 --stop_stage 99 > /dev/null \
            || fail "the settings of ${point} are refused, see above"
    done
fi
if "${dry_run}"; then
    log "Dry run: ${left} of ${#points[@]} points would run"
    exit 0
fi

mkdir -p "${sweep_dir}"
if [ ! -e "${sweep_dir}/options" ]; then  # completely or not at all
    model_options > "${sweep_dir}/.options.$$"
    mv "${sweep_dir}/.options.$$" "${sweep_dir}/options"
fi
number=0
for point in "${points[@]}"; do
    number=$((number + 1))
    if [ "$(state "${point}")" = finished ]; then
        log "Point ${number}/${#points[@]}: ${point}: skipped, finished before"
        continue
    fi
    log "Point ${number}/${#points[@]}: ${point}"
    describe "${point}"
    status=0
    "${script}" "${options[@]}" --stage 7 --stop_stage "${stop_stage}" || status=$?
    if [ "${status}" -ne 0 ]; then
        log "Point ${point} has ended with an error, see above and" \
            "${sweep_dir}/${point}*/train.log; call sweep.sh again to continue" >&2
        exit "${status}"
    fi
    record "${point}" > "${sweep_dir}/${point}.done"
done

first=$(final "${points[0]}")
if [ -z "${test_data}" ] && [ "${stop_stage}" -ge 8 ]; then
    # the first set that was decoded, as ESPnet's stage 2 wrote it
    for wavs in "${first}"/*/*/wav; do
        dset=$(basename "$(dirname "${wavs}")")
        for text in "${dumpdir}"/${fs:-*}/raw/"${dset}"/text \
            "${dumpdir}/raw/${dset}/text"; do
            [ ! -e "${text}" ] || { test_data=$(dirname "${text}"); break; }
        done
        [ -z "${test_data}" ] || break
    done
fi
if "${score}"; then
    [ -n "${test_data}" ] || fail "no test set for scores: name it with --test_data"
    systems=()
    for point in "${points[@]}"; do
        wavs=("$(final "${point}")"/*/"$(basename "${test_data}")"/wav)
        [ -d "${wavs[0]}" ] || fail "${wavs[0]} is missing: decode it with stage 8"
        [ "${#wavs[@]}" -eq 1 ] || log "scoring ${wavs[-1]}, one vocoder of several"
        systems+=(--system "${point}=${wavs[-1]}")
    done
    log "Scoring the speech of ${#points[@]} points on ${test_data}"
    python3 -m espnet_prune score --data_dir "${test_data}" \
        --output_dir "${sweep_dir}/scores" "${systems[@]}"
fi

log "Report"
scores=()
! "${score}" || scores=(--scores "${sweep_dir}/scores/scores.csv")
python3 -m espnet_prune sweep "${sweep_dir}" ${scores[@]+"${scores[@]}"} \
    --output_dir "${sweep_dir}/report"
if [ -n "${test_data}" ]; then
    shown=()
    for point in "${points[@]}"; do  # with the first seed and length
        [ "${point##*_s}" = "${seeds%% *}" ] || continue
        [[ "${point}" != *_p* || "${point}" == *_p"${phase1_epochs%% *}"_* ]] || continue
        shown+=("$(final "${point}")")
    done
    python3 -m espnet_prune attention "${shown[@]}" \
        --data_dir "${test_data}" --output_dir "${sweep_dir}/report" \
        || log "no attention maps, see above; the rest of the report is whole" >&2
fi
log "Successfully finished. [elapsed=${SECONDS}s]"
