#!/usr/bin/env bash
set -euo pipefail
called_from=$PWD
. /work/wt/sound-2/egs2/TEMPLATE/prune_tts1/options.sh
lock_folder "$1" "data stages"
echo locked; cat "$1/.lock.owner"; sleep "$2"; unlock_folder; ls -A "$1"; echo unlocked; sleep 1
