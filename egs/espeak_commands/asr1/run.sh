#!/usr/bin/env bash
# Spoken commands: synthesise a corpus with espeak-ng, train a recogniser on it, and score it. Nothing is downloaded.
#
# Usage: ./run.sh [--OPTION VALUE ...]
#
# Sizes: tiny (default), small.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. ../../common.sh

read_options "$@"
model_options 7 tiny omni
experiment
end_of_options

case $size in
  nano*) utterances=(--train 48 --dev 8 --test 16) ;;
  tiny) utterances=(--train 25000 --dev 200 --test 500) ;;
  *) utterances=(--train 60000 --dev 200 --test 500) ;;
esac
make_data local/data.py "${utterances[@]}"

make_tokens --type unigram --vocab-size 128
train_model "$data/train.jsonl" "$data/dev.jsonl"
tests=("$data/test.jsonl" "$data/test_ood.jsonl")
decode 4 "" "$model" --routing-stats
score 5 ""
run_stage 6 plots "$exp/plots" sigmel plot "$exp" --output "$exp/plots"

grammar=$exp/commands.jsgf
run_stage 7 grammar "$grammar" "$python" local/grammar.py --output "$grammar"
. ../../graphs.sh

[ "$stop_stage" -lt 5 ] || sigmel results "$exp/results.json"
