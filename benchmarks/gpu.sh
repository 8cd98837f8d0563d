#!/bin/bash
# Everything that needs a GPU, in one call of at most eight minutes, without network: results and logs in one folder.
#   bash benchmarks/gpu.sh [OUT]                  # OUT: runs/gpu
#   bash benchmarks/gpu.sh OUT --device cpu --smoke    # the same code at smoke sizes, on any machine
# Each part has a time limit and a log (OUT/<part>.log); one that fails or is too slow does not stop the next. PYTHON
# names the interpreter. It needs torch, timm, transformers, pydantic; the parts that train on a data set folder (demo,
# base) also pandas and pyarrow.
set -uo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD:$PWD/notebooks" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
out=runs/gpu device=cuda smoke=""
while [ $# -gt 0 ]; do
  case "$1" in
    --device) device=${2:?--device takes cuda or cpu}; shift ;;
    --smoke) smoke=yes ;;
    -h | --help) sed -n '2,/^set /s/^# //p' benchmarks/gpu.sh; exit 0 ;;
    -*) echo "gpu.sh: unknown option $1" >&2; exit 2 ;;
    *) out=$1 ;;
  esac
  shift
done
if [ -e "$out/table.md" ]; then echo "gpu.sh: $out holds results already; name another folder" >&2; exit 2; fi
mkdir -p "$out" || exit 2
work=$out/work # data, run folders, compiled code: too large to commit, removed at the end
trap 'rm -rf "$work"' EXIT
caches=$(cd "$out" && pwd)/work
export TORCHINDUCTOR_CACHE_DIR=$caches/inductor TRITON_CACHE_DIR=$caches/triton
small=demo big=base pairs=256 studies=6000 steps=300 rounds=8 compile=true backend=inductor largest=4096 times=1
if [ -n "$smoke" ]; then
  small=smoke big=smoke pairs=8 studies=60 steps=4 rounds=1 compile=false backend=eager largest=16 times=10
fi

failed=0
part() { # part NAME SECONDS COMMAND …
  local name=$1 limit=$(($2 * times)) start=$SECONDS
  shift 2
  timeout --kill-after=5 "$limit" "$@" >"$out/$name.log" 2>&1
  local status=$?
  [ "$status" -eq 0 ] || failed=1
  echo "| $name | $status | $((SECONDS - start)) of $limit | $(cd "$out" && echo "$name".*) |" >>"$out/table.md"
  echo "$name: exit status $status after $((SECONDS - start)) s"
  tail -n 4 "$out/$name.log" | cut -c1-160 | sed 's/^/    /'
}
gpu() { part "$1" "$2" "$PYTHON" -m benchmarks.gpu "${@:3}" --device "$device"; }
train() { "$PYTHON" -m mcr_lib train --data "$work/data" --device "$device" "$@"; }
demo_arm() { # one arm to its end, and what it finds
  local run=$work/$1
  train --run "$run" --profile "$small" --set framework="$1" &&
    "$PYTHON" -m mcr_lib evaluate --run "$run" --device "$device" &&
    cp "$run/metrics.json" "$out/demo.$1.json" && cp "$run/metrics.jsonl" "$out/demo.$1.jsonl"
}
base_run() {
  local run=$work/$big-run
  train --run "$run" --profile "$big" --set batch_size="$pairs" --set steps="$steps" --set log_every=2 \
    --set compile="$compile" --set checkpoint_every="$steps" &&
    cp "$run/metrics.jsonl" "$out/base.jsonl" && cp "$run/manifest.json" "$out/base.json"
}
both_demo_arms() {
  local status=0 arm arms=()
  for arm in mcr two-stream; do demo_arm "$arm" & arms+=($!); done
  for arm in "${arms[@]}"; do wait "$arm" || status=1; done
  return $status
}
export -f train demo_arm both_demo_arms base_run
export PYTHON work out device small big pairs steps compile

printf '%s\n' "| part | exit status | seconds | results |" "|---|---|---|---|" >"$out/table.md"
"$PYTHON" -m data_prep phantom --out "$work/data" --studies "$studies" >"$out/data.log" 2>&1 & # on the CPU's cores
data=$!
gpu checks 70 checks --profile "$small" --backend "$backend" --out "$out/checks.json"
part cold 60 "$PYTHON" -m benchmarks.cost.cold_start --profile "$big" --batch-size "$pairs" --device "$device" \
  --backend "$backend" --out "$out/cold.json"
gpu steps-compiled 120 steps --profile "$big" --batch-size "$pairs" --rounds "$rounds" --set compile="$compile" \
  --out "$out/steps-compiled.json"
gpu steps-eager 35 steps --profile "$big" --batch-size "$pairs" --rounds "$rounds" --set compile=false \
  --out "$out/steps-eager.json"
gpu kernels 25 kernels --profile "$big" --batch-size "$pairs" --set compile="$compile" --out "$out/kernels.json"
wait "$data"
part demo 90 bash -c both_demo_arms
part base 50 bash -c base_run
gpu batch 30 batch --profile "$big" --smallest "$pairs" --largest "$largest" --set compile="$compile" \
  --out "$out/batch.json"
cat "$out/table.md"
exit "$failed"
