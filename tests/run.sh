#!/usr/bin/env bash
# Sets up the environment of the tests and runs the quick ones; arguments go to pytest.
#   tests/run.sh                  the quick suite
#   tests/run.sh -m slow          the slow tests: training, whole recipes
#   tests/run.sh tests/test_masks.py

set -euo pipefail

root=$(cd "$(dirname "$(readlink -f "$0")")/.." && pwd -P)
"${root}/egs2/setup.sh" --test
. "${root}/tools/env.sh"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
cd "${root}"
exec python3 -m pytest "$@"
