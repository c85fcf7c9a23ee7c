#!/usr/bin/env bash
# One system of the comparison in ./compare.sh: trained on five domains, tested in them and on eight sets out of them.
#
# Usage: ./run.sh [--fsdd_dir DIR] [--stage N] [--stop_stage N] [--size tiny|narrow|quick|<one of these>_further]
#                 [--start MODEL] [--routing dense|switch|omni|path:<k>] [--seed S] [--attention softmax|sigmoid]
#                 [--python PYTHON]
#
# --start goes on from a dense model (.nemo); with a routing other than dense its experts begin as copies of the dense
# feed-forwards. --fsdd_dir is a copy of the Free Spoken Digit Dataset; without one it is downloaded into downloads/.
# Stages: 1 data, 2 tokens, 3 train, 4 decode, 5 score, 6 plots. A stage whose result exists is skipped, and a killed
# run goes on where it stopped. Results lie in data/ and exp/nemo_<size>_<routing>_seed<S>/; remove what is to be made
# again. --size names a file in conf/nemo/ (default: tiny; nano is for tests).

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. ./path.sh

stage=1 stop_stage=6 host=nemo size=tiny routing=omni attention=softmax seed=1 python= fsdd_dir= start=
parse_options "stage stop_stage size routing attention seed python fsdd_dir start" "$@"
check_options
fsdd_dir=$(absolute "$fsdd_dir") start=$(absolute "$start")

case $size in # utterances to train on, stop training early on, and test with
  nano*) utterances=(40 10 10) ;;
  quick*) utterances=(4000 100 100) ;;
  *) utterances=(20000 200 400) ;;
esac
case $size in # experts that a dense model's feed-forwards become
  narrow*) experts=8 ;;
  *) experts=4 ;;
esac
data=data/train${utterances[0]}
exp=exp/$system
host_commands "$exp" "$data"

run_stage 1 data "$data" \
  "$python" local/data.py --output "$data" ${fsdd_dir:+--fsdd-dir "$fsdd_dir"} \
  --train "${utterances[0]}" --dev "${utterances[1]}" --test "${utterances[2]}"

run_stage 2 tokens "$exp/tokenizer" \
  "$python" -m sigmel.cli tokenizer "$data/train.jsonl" --output "$exp/tokenizer" --type char

if [ -n "$start" ]; then
  if [ "$routing" != dense ]; then
    run_stage 3 upcycle "$exp/start.nemo" \
      "$python" -m sigmel.cli upcycle "$start" --experts "$experts" --routing "$routing" --seed "$seed" --output "$exp/start.nemo"
    start=$exp/start.nemo
    train_command+=(--set normalize_gates=true gradient_sharing=0.8)
  fi
  train_command+=(-- +init_from_nemo_model="$start")
fi
run_stage 3 train "$model" "${train_command[@]}"

run_stage 4 decode "$exp/decode" "${decode_command[@]}" "$data"/{test,ood_*,real_*}.jsonl

run_stage 5 score "$exp/score" \
  "$python" -m sigmel.cli score "$exp/decode" --output "$exp/score"

run_stage 6 plots "$exp/plots" "$python" -m sigmel.cli plot "$exp" --output "$exp/plots"
