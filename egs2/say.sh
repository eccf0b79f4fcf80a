#!/usr/bin/env bash
# Speaks a text and prints the name of the file. The first call sets up what speaking
# needs. See the help below.
set -euo pipefail

help="Usage: $0 TEXT [options of espnet-prune say]

Speaks a text with the model of the package, or with another one:

  $0 'Any text'
  $0 'Any text' --reference me.wav     in the voice of a recording
  $0 'Any text' --voice NAME           in a voice of the model
  $0 --list_voices
  $0 'Any text' --model MODEL --reference me.wav -o out.wav

The first call downloads gigabytes. egs2/setup.sh --help says how to choose the Python
and the build of torch. docs/synthesis.md has all options."

case ${1:-} in
    -h | --help)
        echo "${help}"
        exit 0
        ;;
    "")
        echo "say.sh: error: no text is given; see $0 --help" >&2
        exit 2
        ;;
esac

egs2=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
# The standard output is left to the speech.
"${egs2}/setup.sh" --synthesis | sed -u '/: nothing to do: /d' >&2
. "${egs2}/../tools/env.sh"
exec python3 -m espnet_prune say "$@"
