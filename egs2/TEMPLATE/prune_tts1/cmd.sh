# How jobs are started: sourced by prune_tts.sh and by ESPnet's tts.sh.
#
#   train_cmd    data preparation and statistics
#   cuda_cmd     training (tts.sh appends --gpu)
#   decode_cmd   decoding
#
# Each names one of ESPnet's job starters, with the same usage:
#   <cmd>.pl [options] JOB=1:<jobs> <log with JOB> <command with JOB>
# They share --gpu N, --mem 4G, --num-threads N, --max-jobs-run N, --config FILE.

# local, stdout, sge, slurm, pbs or ssh; e.g. "cmd_backend=slurm ./run.sh"
cmd_backend=${cmd_backend:-local}

case ${cmd_backend} in
    local) _starter=run.pl ;; # processes of this machine, output in log files
    # The same, with output on the screen too.
    stdout) _starter=${ESPNET_ROOT}/utils/stdout.pl ;;
    sge) _starter=queue.pl ;; # qsub of Grid Engine; options in conf/queue.conf
    slurm) _starter=slurm.pl ;; # sbatch; partitions in conf/slurm.conf
    pbs) _starter=pbs.pl ;; # qsub of Torque and PBS; options in conf/pbs.conf
    ssh) _starter=ssh.pl ;; # machines in .queue/machines; ssh.pl is Kaldi's
    *)
        echo "cmd.sh: error: unknown cmd_backend '${cmd_backend}';" \
            "choose local, stdout, sge, slurm, pbs or ssh" >&2
        return 2
        ;;
esac
if ! type "${_starter}" > /dev/null 2>&1; then
    echo "cmd.sh: error: no '${_starter}' for cmd_backend=${cmd_backend}; put one on" \
        "PATH or choose another backend" >&2
    return 2
fi

export train_cmd=${_starter} cuda_cmd=${_starter} decode_cmd=${_starter}
unset _starter
