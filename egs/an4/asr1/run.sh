#!/usr/bin/env bash
# AN4, real speech: people who spell and say names, addresses and numbers (CMU Census database, free for any use).
#
# Usage: ./run.sh [--an4_dir DIR]
#                 [--stage N] [--stop_stage N] [--size tiny] [--routing dense|switch|omni|path:<k>] [--seed S]
#                 [--attention softmax|sigmoid] [--host nemo|espnet] [--python PYTHON]
#
# --an4_dir is a copy of the database, the folder that holds etc and wav; all that its lists name is taken. Without one
# it is downloaded into downloads/ (64 MB).
# Stages: 1 data, 2 tokens, 3 train, 4 decode, 5 score, 6 plots. A stage whose result exists is skipped, and a killed
# run goes on where it stopped. Results lie in data/ and exp/<host>_<size>_<routing>_seed<S>/; remove what is to be
# made again. --size names a file in conf/<host>/ (default: tiny; nano is for tests).

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. ./path.sh

stage=1 stop_stage=6 host=nemo size=tiny routing=omni attention=softmax seed=1 python= an4_dir=
parse_options "stage stop_stage host size routing attention seed python an4_dir" "$@"
check_options
an4_dir=$(absolute "$an4_dir")

case $size in # speeds of the training utterances
  nano*) speeds=(1) ;;
  *) speeds=(0.9 1 1.1) ;;
esac
data=data/speeds$(printf _%s "${speeds[@]}")
exp=exp/$system
host_commands "$exp" "$data"

run_stage 1 data "$data" \
  "$python" local/data.py --output "$data" --speeds "${speeds[@]}" ${an4_dir:+--an4-dir "$an4_dir"}

run_stage 2 tokens "$exp/tokenizer" \
  "$python" -m sigmel.cli tokenizer "$data/train.jsonl" --output "$exp/tokenizer" --type unigram --vocab-size 64

run_stage 3 train "$model" "${train_command[@]}"

run_stage 4 decode "$exp/decode" "${decode_command[@]}" "$data/test.jsonl"

run_stage 5 score "$exp/score" \
  "$python" -m sigmel.cli score "$exp/decode" --output "$exp/score" --train-facts "$exp/train.json" \
  --results results.json --tag "${tags[@]}"

run_stage 6 plots "$exp/plots" "$python" -m sigmel.cli plot "$exp" --output "$exp/plots"

[ "$stop_stage" -lt 5 ] || "$python" -m sigmel.cli results results.json --publish .
