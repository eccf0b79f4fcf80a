# Functions of all shell scripts of the recipes: messages, options, and ending child
# processes. Source it after `cd` to the recipe's folder; called_from is the folder
# before.

# The variables belong to the scripts that source this.
# shellcheck disable=SC2154
called_from=${called_from:-${PWD}}
case "$0" in
    /*) script=$0 ;;
    *) script="${called_from}/$0" ;;
esac

log() {
    echo "$(date '+%Y-%m-%dT%H:%M:%S') (${0##*/}) $*"
}
fail() {
    echo "${0##*/}: error: $*" >&2
    exit 2
}

# Print the comment at the head of the script.
show_help() {
    sed -n '2,/^$/s/^# \{0,1\}//p' "${script}"
}

# parse_options "$@": read options of the form --name value, where - is accepted for _
# in the name. These lists of names determine their use:
#   takes         the variable of this name is set
#   shares        it is set, and the option is passed on
#   flags         it is set; the value true may be left out
#   caller_paths  a path that is relative to the folder of the caller
#   found_paths   the same if it exists there, otherwise relative to the recipe's folder
# A function option_NAME is called with the value instead. All other options are put
# into the array `passed`, or refused if takes_all is false. No name or value is
# evaluated.
parse_options() {
    local name value
    passed=()
    while [ $# -gt 0 ]; do
        case "$1" in
            -h|--help)
                show_help
                exit 0 ;;
            --*)
                name="${1#--}"
                name="${name//-/_}" ;;
            *)
                fail "unexpected argument $1: every option is --name value; see --help" ;;
        esac
        [[ "${name}" =~ ^[A-Za-z][A-Za-z0-9_]*$ ]] \
            || fail "there is no option $1; see --help"
        if among "${name}" "${flags:-}" && [[ ! "${2:-}" =~ ^(true|false)$ ]]; then
            value=true
        else
            [ $# -ge 2 ] || fail "option $1 has no value; see --help"
            value="$2"
            shift
        fi
        shift
        if among "${name}" "${caller_paths:-}"; then
            case "${value}" in /*|'') ;; *) value="${called_from}/${value}" ;; esac
        elif among "${name}" "${found_paths:-}"; then
            value=$(seen_from_caller "${value}")
        fi
        if declare -F "option_${name}" > /dev/null; then
            "option_${name}" "${value}"
        elif among "${name}" "${takes:-} ${flags:-}"; then
            printf -v "${name}" '%s' "${value}"
        elif among "${name}" "${shares:-}"; then
            printf -v "${name}" '%s' "${value}"
            passed+=("--${name}" "${value}")
        elif "${takes_all:-true}"; then
            passed+=("--${name}" "${value}")
        else
            fail "unknown option --${name}; see --help"
        fi
    done
}

among() {  # whether word $1 is in the list $2
    local word
    for word in $2; do
        [ "${word}" != "$1" ] || return 0
    done
    return 1
}

# Print a path relative to the folder of the caller, if it exists there.
seen_from_caller() {
    local prefix=
    [[ "$1" = /* || ! -e "${called_from}/$1" ]] || prefix="${called_from}/"
    printf '%s\n' "${prefix}$1"  # echo would take -n for an option
}

is_one_of() {  # refuse the value of option $1 unless it is one of the other words
    local name=$1
    shift
    among "${!name}" "$*" || fail "--${name} is '${!name}': choose one of $*"
}
are_words() {  # refuse the value of option $1 unless it is words without quotes, *, $ ..
    [[ "${!1}" =~ ^[[:space:]A-Za-z0-9_.-]*$ ]] \
        || fail "--$1 is ${!1@Q}: give words of letters, digits, _ . and -"
}
is_whole() {  # refuse the value of option $1 unless it is a whole number from $2
    case "${!1}" in
        ''|*[!0-9]*|??????????*)  # bash cannot compare very large ones
            fail "--$1 is '${!1}': give a whole number below 10^9" ;;
        *) [ "${!1}" -ge "$2" ] || fail "--$1 is ${!1}: choose $2 or more" ;;
    esac
}
are_whole() {  # the same for the options $2 and further, which may be empty, from $1
    local name
    for name in "${@:2}"; do [ -z "${!name}" ] || is_whole "${name}" "$1"; done
}
runs() {  # whether stage $1 runs
    [ "${stage}" -le "$1" ] && [ "${stop_stage}" -ge "$1" ]
}
files_of() {  # names of the files in folder $1, without their endings
    find -L "$1" -name '*.*' -type f | sed 's|.*/||; s|\.[^.]*$||' | sort | xargs
}

# lock_folder FOLDER WHAT: refuse FOLDER if another process has locked it, and lock it
# until unlock_folder or the end of this script and of its child processes. Python's
# lock_folder in espnet_prune/files.py respects this lock.
lock_folder() {
    type flock > /dev/null 2>&1 || return 0
    { mkdir -p "$1" && [ -w "$1" ]; } 2> /dev/null \
        || fail "cannot write to the folder $1: choose another"
    exec {lock}> "$1/.lock"
    flock -n "${lock}" || fail "$1 is in use by" "$(python3 -c '
import pathlib, sys
from espnet_prune.files import read_owner
print(read_owner(pathlib.Path(sys.argv[1])))' "$1"): wait for it to end, end it, or" \
        "choose another folder"
    locked=$1
    python3 -c '
import pathlib, sys
from espnet_prune.files import write_owner
write_owner(pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))' "$1" "$2" "$$"
}
unlock_folder() {
    [ -n "${locked:-}" ] || return 0
    rm -f "${locked}/.lock.owner"
    exec {lock}>&-
    locked=
}

# end_with_children "$@": from here on, ending this script ends all its child processes.
# bash alone would wait for a training to end first, or leave it running. So the script
# starts itself again, and waits for that process.
end_with_children() {
    local child status=0
    [ "${PRUNE_GUARD:-}" != "${PPID}" ] || return 0
    (cd "${called_from}" && PRUNE_GUARD=$$ exec "${BASH}" "${script}" "$@") <&0 &
    child=$!
    trap 'stopped '"${child}"' 130' INT
    trap 'stopped '"${child}"' 143' TERM
    trap 'stopped '"${child}"' 129' HUP
    wait "${child}" || status=$?
    exit "${status}"
}
stopped() {
    trap '' INT TERM HUP
    end_tree "$1"
    echo "${0##*/}: stopped; call it again with the same options to continue" >&2
    exit "$2"
}
end_tree() {  # end process $1 and all its child processes
    local child
    kill -STOP "$1" 2> /dev/null || return 0  # so that it starts nothing more
    for child in $(pgrep -P "$1"); do
        end_tree "${child}"
    done
    kill -TERM "$1" 2> /dev/null || true
    kill -CONT "$1" 2> /dev/null || true
}
