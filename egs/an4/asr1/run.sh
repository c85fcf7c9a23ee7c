#!/usr/bin/env bash
# AN4, real speech: people who spell and say names, addresses and numbers (CMU Census database, free for any use).
#
# Usage: ./run.sh [--an4_dir DIR]
#                 [--stage N] [--stop_stage N] [--size tiny] [--routing dense|switch|omni|path:<k>] [--seed S]
#                 [--attention softmax|sigmoid] [--host nemo|espnet] [--python PYTHON] [--print data|exp|model]
#
# --an4_dir is a copy of the database, the folder that holds etc and wav; everything that its lists name is used.
# Without this option the database is downloaded into downloads/ (64 MB).
# Stages: 1 data, 2 tokens, 3 train, 4 decode, 5 score, 6 plots. A stage whose result exists is skipped, and a killed run
# goes on where it stopped. Results lie in data/ and exp/<host>_<size>_<routing>_seed<S>/, or in another folder for other
# options, which --print names; remove what is to be made again. --size names a file in conf/<host>/ (default: tiny;
# nano is for tests).

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

run_stage 2 tokens "$exp/tokenizer" \
  sigmel tokenizer "$data/train.jsonl" --output "$exp/tokenizer" --type unigram --vocab-size 64

run_stage 3 train "$model" sigmel train --host "$host" --config "conf/$host/$size.yaml" --output "$exp" \
  --tokenizer "$exp/tokenizer" --train "$data/train.jsonl" --valid "$data/dev.jsonl" --seed "$seed" \
  --set routing="$routing" attention="$attention"

run_stage 4 decode "$exp/decode" sigmel transcribe "$model" "$data/test.jsonl" --output "$exp/decode" --routing-stats

run_stage 5 score "$exp/score" sigmel score "$exp/decode" --output "$exp/score" --train-facts "$exp/train.json" \
  --results "$exp/results.json" --tag "${tags[@]}"

run_stage 6 plots "$exp/plots" sigmel plot "$exp" --output "$exp/plots"

[ "$stop_stage" -lt 5 ] || sigmel results "$exp/results.json"
