#!/usr/bin/env bash
# Spoken commands: synthesise a corpus with espeak-ng, train a recogniser on it, and score it.
#
# Usage: ./run.sh [--stage N] [--stop_stage N] [--size tiny|small] [--routing dense|switch|omni|path:<k>] [--seed S]
#                 [--attention softmax|sigmoid] [--host nemo|espnet] [--python PYTHON] [--print data|exp|model]
#
# Stages: 1 data, 2 tokens, 3 train, 4 decode, 5 score, 6 plots, 7 decode by graphs: of the tokens, of a trigram, of the
# trigram with lattices rescored, of the grammar. A stage whose result exists is skipped, and a killed run goes on where
# it stopped. Results lie in data/ and exp/<host>_<size>_<routing>_seed<S>/, or in another folder for other options,
# which --print names; remove what is to be made again. --size names a file in conf/<host>/ (default: tiny; nano is for
# tests). Nothing is downloaded.

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

run_stage 2 tokens "$exp/tokenizer" \
  sigmel tokenizer "$data/train.jsonl" --output "$exp/tokenizer" --type unigram --vocab-size 128

run_stage 3 train "$model" sigmel train --host "$host" --config "conf/$host/$size.yaml" --output "$exp" \
  --tokenizer "$exp/tokenizer" --train "$data/train.jsonl" --valid "$data/dev.jsonl" --seed "$seed" \
  --set routing="$routing" attention="$attention"

tests=("$data/test.jsonl" "$data/test_ood.jsonl")
run_stage 4 decode "$exp/decode" sigmel transcribe "$model" "${tests[@]}" --output "$exp/decode" --routing-stats

run_stage 5 score "$exp/score" sigmel score "$exp/decode" --output "$exp/score" --train-facts "$exp/train.json" \
  --results "$exp/results.json" --tag "${tags[@]}"

run_stage 6 plots "$exp/plots" sigmel plot "$exp" --output "$exp/plots"

grammar=$exp/commands.jsgf
run_stage 7 grammar "$grammar" "$python" local/grammar.py --output "$grammar"
. ../../graphs.sh

[ "$stop_stage" -lt 5 ] || sigmel results "$exp/results.json"
