#!/usr/bin/env bash
# AN4, real speech: people who spell and say names, addresses and numbers (CMU Census database, free for any use).
#
# Usage: ./run.sh [--an4_dir DIR] [--OPTION VALUE ...]
#
# --an4_dir is a copy of the database, the folder that holds etc and wav; everything that its lists name is used.
# Without this option the database is downloaded into downloads/ (64 MB).
# Sizes: tiny (default).

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. ../../common.sh

read_options "$@"
model_options 6 tiny omni
path_option an4_dir
experiment
end_of_options

case $size in # speeds of the training utterances
  nano*) speeds=(1) ;;
  *) speeds=(0.9 1 1.1) ;;
esac
make_data local/data.py --speeds "${speeds[@]}" ${an4_dir:+--an4-dir "$an4_dir"}

make_tokens --type unigram --vocab-size 64
train_model "$data/train.jsonl" "$data/dev.jsonl"
tests=("$data/test.jsonl")
decode 4 "" "$model" --routing-stats
score 5 ""
run_stage 6 plots "$exp/plots" sigmel plot "$exp" --output "$exp/plots"

[ "$stop_stage" -lt 5 ] || sigmel results "$exp/results.json"
