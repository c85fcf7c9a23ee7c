#!/usr/bin/env bash
# The papers' comparison in small: dense, Switch, Omni-router, PathMoE of 2 and of 4 layers; and dense models, this one
# and a narrower one, trained further, as they are and with their feed-forwards turned into experts. What is compared
# has the same data in the same order, the same number of steps and the same active parameters, and each is trained
# with several seeds.
#
# Usage: ./compare.sh [--size tiny|quick] [--seeds N] [--jobs N] [--fsdd_dir DIR] [--python PYTHON]
#
# --size quick takes six minutes on two CPU cores and shows that everything runs; its figures mean nothing. tiny (the
# default) takes some three hours. --seeds: how many (default: 5; quick: 1), and twice as many of the narrower model,
# whose difference is small. --jobs: trainings at a time, one thread each (default: 2). What is there is not made
# again, so a killed comparison goes on where it stopped. It makes exp/ and comparison/, with the tables and the plot
# that README.md shows; quick makes exp/comparison_quick/ instead.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. ./path.sh

host=nemo size=tiny seeds= jobs=2 fsdd_dir= python=
parse_options "size seeds jobs fsdd_dir python" "$@"
check size 'tiny|quick|nano'
upcycled=("$size") # the sizes of dense models that are trained further
[ "$size" != tiny ] || upcycled+=(narrow)
[ -n "$seeds" ] || { [ "$size" = tiny ] && seeds=5 || seeds=1; }
check seeds '[1-9][0-9]*'
check jobs '[1-9][0-9]*'
find_python
fsdd_dir=$(absolute "$fsdd_dir")

routings=(dense switch omni path:2 path:4)
experiment() { echo "exp/nemo_${1}_${2/:/}_seed$3"; } # of a size, a routing and a seed
seeds_of() { # a size
  case $1 in narrow*) seq $((2 * seeds)) ;; *) seq "$seeds" ;; esac
}
every_seed() { for seed in $(seeds_of "$1"); do experiment "$1" "$2" "$seed"; done; }

# Each line of the input is the options of a training; as many run at a time as there are jobs.
in_parallel() {
  OMP_NUM_THREADS=1 xargs -P "$jobs" -L 1 ./run.sh --python "$python" ${fsdd_dir:+--fsdd_dir "$fsdd_dir"}
}

echo "--size $size --stop_stage 1" | in_parallel
trainings() { # of a size, with the routings that follow
  for seed in $(seeds_of "$1"); do
    for routing in "${@:2}"; do
      echo "--size $1 --routing $routing --seed $seed"
    done
  done
}
{
  trainings "$size" "${routings[@]}"
  [ "$size" != tiny ] || trainings narrow dense
} | in_parallel
for base in "${upcycled[@]}"; do
  for seed in $(seeds_of "$base"); do
    for routing in dense omni; do
      start=$PWD/$(experiment "$base" dense "$seed")/model.nemo
      echo "--size ${base}_further --routing $routing --seed $seed --start $start"
    done
  done
done | in_parallel

case $size in
  tiny) data=data/train20000 comparison=comparison readme=(--publish .) ;;
  quick) data=data/train4000 comparison=exp/comparison_quick readme=() ;;
  nano) data=data/train40 comparison=exp/comparison_nano readme=() ;;
esac
stage=1 stop_stage=3
run_stage 1 "time per step" "exp/step_time_$size.json" \
  "$python" local/step_time.py --config "conf/nemo/$size.yaml" --output "exp/step_time_$size.json" \
  --tokenizer "$(experiment "$size" dense 1)/tokenizer" --manifest "$data/train.jsonl" --routing "${routings[@]}"

for routing in switch omni path:2 path:4; do
  exp=$(experiment "$size" "$routing" 1)
  run_stage 2 routing "$exp/routing" \
    "$python" -m sigmel.cli routing "$exp/model.nemo" "$data/test.jsonl" --output "$exp/routing"
done

systems=() pairs=()
for routing in "${routings[@]}"; do
  systems+=(--system "$routing" $(every_seed "$size" "$routing"))
  [ "$routing" = dense ] || pairs+=(--pair "$routing" dense)
done
for routing in omni path:2 path:4; do
  pairs+=(--pair "$routing" switch)
done
for base in "${upcycled[@]}"; do
  name=dense
  [ "$base" != narrow ] || name=narrow
  systems+=(--system "$name, further" $(every_seed "${base}_further" dense))
  systems+=(--system "$name to omni" $(every_seed "${base}_further" omni))
  pairs+=(--pair "$name to omni" "$name, further")
done
rm -rf "$comparison" # made of the above in seconds
run_stage 3 comparison "$comparison" \
  "$python" -m sigmel.cli compare "${systems[@]}" "${pairs[@]}" \
  --step-time "exp/step_time_$size.json" --output "$comparison" "${readme[@]}"
