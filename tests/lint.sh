#!/usr/bin/env bash
# Checks how the code is written: ruff, mypy and shellcheck. It makes no change unless
# --fix is given, which lets ruff repair what it can.
#   tests/lint.sh
#   tests/lint.sh --fix

set -euo pipefail

root=$(cd "$(dirname "$(readlink -f "$0")")/.." && pwd -P)
case "$*" in
    "") check=(ruff check) format=(ruff format --check) ;;
    --fix) check=(ruff check --fix) format=(ruff format) ;;
    *)
        echo "lint.sh: error: unknown arguments '$*'; the only option is --fix" >&2
        exit 2
        ;;
esac
"${root}/egs2/setup.sh" --test
. "${root}/tools/env.sh"
cd "${root}"

# Links to scripts would be checked twice; scripts without an ending are named here.
mapfile -t scripts < <(git ls-files -s '*.sh' .ci/run | sed -n 's/^100[0-9]* .*\t//p')
failed=()
for tool in check format mypy shellcheck; do
    case ${tool} in
        check) command=("${check[@]}") ;;
        format) command=("${format[@]}") ;;
        mypy) command=(mypy) ;;
        # SC1091: path.sh and cmd.sh are read in the folder of a recipe.
        shellcheck) command=(shellcheck --shell=bash --exclude=SC1091 "${scripts[@]}") ;;
    esac
    echo "lint: ${command[*]:0:3}"
    "${command[@]}" || failed+=("${command[*]:0:2}")
done
if [ ${#failed[@]} -gt 0 ]; then
    printf 'lint: %s found faults\n' "${failed[@]}" >&2
    exit 1
fi
