#!/bin/bash
# A run on several machines under Slurm: one torchrun per machine, which starts one process per GPU.
#   sbatch --nodes 2 benchmarks/slurm.sh --data DATA --run RUN --profile base [--set key=value …]
# DATA and RUN lie on storage that all machines share. The job asks for its signal two minutes before its time is over:
# the run saves and stops, and the job queues itself again. Submitting the same line once more goes on as well.
#SBATCH --job-name=mcr
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=mcr-%j.log
set -uo pipefail
cd "${SLURM_SUBMIT_DIR:?start it by sbatch}"
source .venv/bin/activate

run=""
for ((i = 1; i <= $#; i++)); do
  if [ "${!i}" = "--run" ]; then next=$((i + 1)); run="${!next}"; fi
done
if [ -z "$run" ]; then echo "slurm.sh: --run RUN is missing" >&2; exit 2; fi
resume=()
if [ -e "$run/config.yaml" ]; then resume=(--resume); fi

export MCR_HEAD MCR_PORT=$((20000 + SLURM_JOB_ID % 20000))
MCR_HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK  # since Slurm 22.05 srun does not inherit it
# The -- keeps torchrun, up to Python 3.12, from taking --run for one of its own options.
srun --kill-on-bad-exit=1 bash -c 'exec torchrun --nnodes "$SLURM_NNODES" --nproc-per-node "$SLURM_GPUS_ON_NODE" \
  --node-rank "$SLURM_NODEID" --master-addr "$MCR_HEAD" --master-port "$MCR_PORT" \
  -m -- mcr_lib train "$@"' train "$@" "${resume[@]}" &
job=$!

requeue() {  # SIGTERM reaches every torchrun, and by it every process: they agree on a step, save, stop
  trap - USR1
  scancel --signal=TERM "$SLURM_JOB_ID"
  wait "$job"
  scontrol requeue "$SLURM_JOB_ID"
  exit 0
}
trap requeue USR1
wait "$job"
