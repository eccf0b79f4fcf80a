# Sourced in a recipe's folder, by our scripts and by those of ESPnet's tts.sh.
# Gives them the Python environment, ESPnet's Kaldi-style scripts and their settings.

case :${PATH}: in
    *:"${PWD}/utils":*) ;;
    *) export PATH=${PWD}/utils:${PATH} ;;
esac

_checkout=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../../..
if [ -e "${_checkout}/tools/env.sh" ]; then
    . "${_checkout}/tools/env.sh"
elif [ -z "${ESPNET_ROOT:-}" ]; then
    # With ESPNET_ROOT set, the python3 on PATH is taken to have the package.
    echo "path.sh: error: nothing is set up here; run egs2/setup.sh first" >&2
    return 2
fi

# ESPnet's scripts expect these beside path.sh; links to folders elsewhere are not
# committed, for they differ from machine to machine.
for _name in utils steps scripts pyscripts; do
    _target=${ESPNET_ROOT}/egs2/TEMPLATE/asr1/${_name}
    if [ ! -d "${_target}" ]; then
        echo "path.sh: error: no ${_target}; point ESPNET_ROOT to an ESPnet clone" >&2
        return 2
    fi
    if [ ! -e "${_name}" ] || [ -L "${_name}" ]; then
        [ "$(readlink "${_name}")" = "${_target}" ] || ln -sfn "${_target}" "${_name}"
    fi
done
unset _checkout _name _target

export LC_ALL=C
# Non-ASCII text is read and written all the same.
export PYTHONIOENCODING=UTF-8
# Several jobs share a machine, and threads of small models wait more than they work;
# set it higher to train a large model on a CPU.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# As ESPnet: set it where the network of a cluster has other names.
export NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-^lo,docker,virbr,vmnet,vboxnet}

# The last word is the recipe's.
if [ -e local/path.sh ]; then . local/path.sh; fi
