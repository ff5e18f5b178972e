#!/usr/bin/env bash
# Score shards on every GPU of a Slurm allocation.
#
#     sbatch examples/slurm.sh --base_model MODEL --data 'data/fineweb10B/fineweb_train_*.bin'
#
# Change the #SBATCH lines to what your cluster has. The arguments go to attention_influence_scoring.py. The project, its
# .venv and the models must be in a folder that all nodes share; run `sbatch` in it. The same command continues a stopped
# or failed job. Without Slurm, `bash examples/slurm.sh …` does the same on one machine.
#
#SBATCH --job-name=attention-influence
#SBATCH --nodes=16
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=64
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --output=slurm-%j.log

set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"
python=${PYTHON:-.venv/bin/python}
port=${RAY_PORT:-6379}
export RAY_AUTH_MODE=token # only programs with the token can use this Ray cluster
RAY_AUTH_TOKEN=$("$python" -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN

# on HOST COMMAND …: replaces the shell, so call it in a subshell
if [ -n "${SLURM_JOB_NODELIST:-}" ]; then
    mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
    on() { exec srun --nodes=1 --ntasks=1 --overlap --nodelist="$1" "${@:2}"; }
else
    hosts=("$(hostname)")
    on() { exec "${@:2}"; }
fi

# Ray uses only the cores and GPUs of a node that Slurm grants.
ray=("$python" -m ray.scripts.scripts start --block --disable-usage-stats)
if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then ray+=(--num-cpus="$SLURM_CPUS_PER_TASK"); fi
if [ -n "${SLURM_GPUS_ON_NODE:-}" ]; then ray+=(--num-gpus="$SLURM_GPUS_ON_NODE"); fi

ip=$(on "${hosts[0]}" hostname -I | cut -d ' ' -f 1)
head="$ip:$port"
started=()
trap 'kill "${started[@]}" 2>/dev/null || true; wait' EXIT

on "${hosts[0]}" "${ray[@]}" --head --node-ip-address="$ip" --port="$port" --include-dashboard=false &
started+=($!)
for host in "${hosts[@]:1}"; do
    on "$host" "${ray[@]}" --address="$head" &
    started+=($!)
done

# Wait up to five minutes for all nodes; then continue with those that have joined.
timeout 400 "$python" - "$head" "${#hosts[@]}" <<'END'
import sys, time
import ray

wanted, deadline = int(sys.argv[2]), time.monotonic() + 300
ray.init(sys.argv[1], log_to_driver=False)
while (joined := sum(node["Alive"] for node in ray.nodes())) < wanted and time.monotonic() < deadline:
    time.sleep(1)
print(f"{joined} of {wanted} nodes have joined the Ray cluster at {sys.argv[1]}")
END

# In the background, so that this shell can pass on the signal that Slurm sends before the time limit.
"$python" attention_influence_scoring.py --engine ray --ray_address "$head" "$@" &
driver=$!
trap 'kill -TERM "$driver"' TERM INT
code=0
wait "$driver" || code=$?
while kill -0 "$driver" 2>/dev/null; do # a signal ended the wait; finished work is being saved
    code=0
    wait "$driver" || code=$?
done
exit "$code"
