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
    # If ESPNET_ROOT is set, the package must be installed for the python3 on PATH.
    echo "path.sh: error: nothing is set up here; run egs2/setup.sh first" >&2
    return 2
fi

# ESPnet's scripts expect these next to path.sh. The links are not committed, because
# they differ between machines.
for _name in utils steps scripts pyscripts; do
    _target=${ESPNET_ROOT}/egs2/TEMPLATE/asr1/${_name}
    if [ ! -d "${_target}" ]; then
        echo "path.sh: error: no ${_target}; run egs2/setup.sh, or point ESPNET_ROOT" \
            "to an ESPnet clone" >&2
        return 2
    fi
    if [ ! -e "${_name}" ] || [ -L "${_name}" ]; then
        [ "$(readlink "${_name}")" = "${_target}" ] || ln -sfn "${_target}" "${_name}"
    fi
done
unset _checkout _name _target

export LC_ALL=C
# Read and write non-ASCII text.
export PYTHONIOENCODING=UTF-8
# Several jobs share a machine, and more threads hardly speed up small models; increase
# it to train a large model on a CPU.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# ESPnet's default; change it if the cluster's network devices have other names.
export NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-^lo,docker,virbr,vmnet,vboxnet}

# The recipe can override these settings.
if [ -e local/path.sh ]; then . local/path.sh; fi
