#!/usr/bin/env bash
# The papers' comparison in small: dense, Switch, Omni-router, PathMoE of 2 and of 4 layers; and dense models, this one
# and a narrower one, trained further, as they are and with their feed-forwards turned into experts. Systems that are
# compared have the same data in the same order, the same number of steps and the same active parameters, and each is
# trained with several seeds.
#
# Usage: ./compare.sh [--size tiny|quick] [--seeds N] [--jobs N] [--fsdd_dir DIR] [--python PYTHON] [--publish yes]
#
# --size quick takes six minutes on two CPU cores and shows that everything runs; its figures mean nothing. tiny (the
# default) takes some three hours. --seeds: how many (default: 5; quick: 1), and twice as many of the narrower model,
# whose difference is small. --jobs: trainings at a time, one thread each (default: 2). What exists is not made again, so
# a killed comparison goes on where it stopped. The tables and the plot are in exp/comparison_<size>/; --publish yes also
# puts them into comparison/ and README.md.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. ../../common.sh

host=nemo
read_options "$@"
setting size tiny 'tiny|quick|nano'
setting seeds "$([ "$size" = tiny ] && echo 5 || echo 1)" '[1-9][0-9]*'
setting jobs 2 '[1-9][0-9]*'
setting publish '' '|yes'
setting python '' '.*'
path_option fsdd_dir
end_of_options

routings=(dense switch omni path:2 path:4)
upcycled=("$size") # the sizes of dense models that are trained further
[ "$size" != tiny ] || upcycled+=(narrow)
run=(./run.sh --python "$python" --fsdd_dir "$fsdd_dir")

seeds_of() { # a size
  case $1 in narrow*) seq $((2 * seeds)) ;; *) seq "$seeds" ;; esac
}

# trainings SIZE ROUTING...: print the options of run.sh for systems, a line for each seed. Those of a size <base>_further
# go on from the dense models of the size <base>.
trainings() {
  local seed routing start=
  for seed in $(seeds_of "$1"); do
    [[ $1 != *_further ]] || start=$("${run[@]}" --size "${1%_further}" --routing dense --seed "$seed" --print model)
    for routing in "${@:2}"; do
      echo "--size $1 --routing $routing --seed $seed${start:+ --start ${start#"$PWD"/}}"
    done
  done
}

in_parallel() { OMP_NUM_THREADS=1 xargs -P "$jobs" -L 1 "${run[@]}"; }

# The data first: trainings in parallel share them.
"${run[@]}" --size "$size" --stop_stage 1
{
  trainings "$size" "${routings[@]}"
  [ "$size" != tiny ] || trainings narrow dense
} | in_parallel
for base in "${upcycled[@]}"; do
  trainings "${base}_further" dense omni
done | in_parallel

data=$("${run[@]}" --size "$size" --print data)
dense=$("${run[@]}" --size "$size" --routing dense --print exp)
stage=1 stop_stage=3
run_stage 1 "time per step" "exp/step_time_$size.json" \
  "$python" local/step_time.py --config "conf/nemo/$size.yaml" --output "exp/step_time_$size.json" \
  --tokenizer "$dense/tokenizer" --manifest "$data/train.jsonl" --routing "${routings[@]}"

for routing in switch omni path:2 path:4; do
  exp=$("${run[@]}" --size "$size" --routing "$routing" --print exp)
  run_stage 2 routing "$exp/routing" sigmel routing "$exp/model.nemo" "$data/test.jsonl" --output "$exp/routing"
done

systems=() pairs=()
# system NAME: compare the experiments of the trainings in the input under this NAME.
system() {
  local folders
  mapfile -t folders < <(xargs -L 1 "${run[@]}" --print exp)
  systems+=(--system "$1" "${folders[@]}")
}
for routing in "${routings[@]}"; do
  system "$routing" < <(trainings "$size" "$routing")
  [ "$routing" = dense ] || pairs+=(--pair "$routing" dense)
done
for routing in omni path:2 path:4; do
  pairs+=(--pair "$routing" switch)
done
for base in "${upcycled[@]}"; do
  name=dense
  [ "$base" != narrow ] || name=narrow
  system "$name, further" < <(trainings "${base}_further" dense)
  system "$name to omni" < <(trainings "${base}_further" omni)
  pairs+=(--pair "$name to omni" "$name, further")
done
sigmel compare "${systems[@]}" "${pairs[@]}" --step-time "exp/step_time_$size.json" --output "exp/comparison_$size" \
  ${publish:+--publish .}
