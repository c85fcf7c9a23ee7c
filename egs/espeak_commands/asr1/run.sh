#!/usr/bin/env bash
# Spoken commands: synthesise a corpus with espeak-ng, train a recogniser on it, and score it.
#
# Usage: ./run.sh [--stage N] [--stop_stage N] [--size tiny|small] [--routing dense|switch|omni|path:<k>] [--seed S]
#                 [--attention softmax|sigmoid] [--host nemo|espnet] [--python PYTHON]
#
# Stages: 1 data, 2 tokens, 3 train, 4 decode, 5 score, 6 plots, 7 decode by graphs: of the tokens, of a trigram, of
# that rescored, of the grammar. A stage whose result exists is skipped, and a killed run goes on where it stopped.
# Results lie in data/ and exp/<host>_<size>_<routing>_seed<S>/; remove what is to be made again. --size names a file in
# conf/<host>/ (default: tiny; nano is for tests). Nothing is downloaded.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. ./path.sh

stage=1 stop_stage=7 host=nemo size=tiny routing=omni attention=softmax seed=1 python=
parse_options "stage stop_stage host size routing attention seed python" "$@"
check_options

case $size in # utterances to train, stop training early on, and test with
  nano*) utterances=(48 8 16) ;;
  tiny) utterances=(25000 200 500) ;;
  *) utterances=(60000 200 500) ;;
esac
data=data/train${utterances[0]}
tests=("$data/test.jsonl" "$data/test_ood.jsonl")
exp=exp/$system
host_commands "$exp" "$data"

run_stage 1 data "$data" \
  "$python" local/data.py --output "$data" \
  --train "${utterances[0]}" --dev "${utterances[1]}" --test "${utterances[2]}"

run_stage 2 tokens "$exp/tokenizer" \
  "$python" -m sigmel.cli tokenizer "$data/train.jsonl" --output "$exp/tokenizer" --type unigram --vocab-size 128

run_stage 3 train "$model" "${train_command[@]}"

run_stage 4 decode "$exp/decode" "${decode_command[@]}" "${tests[@]}"

run_stage 5 score "$exp/score" \
  "$python" -m sigmel.cli score "$exp/decode" --output "$exp/score" --train-facts "$exp/train.json" \
  --results results.json --tag "${tags[@]}"

run_stage 6 plots "$exp/plots" "$python" -m sigmel.cli plot "$exp" --output "$exp/plots"

run_stage 7 grammar "$exp/commands.jsgf" "$python" local/grammar.py --output "$exp/commands.jsgf"
decode_by_graphs "$data/train.jsonl" "$exp/commands.jsgf"

[ "$stop_stage" -lt 5 ] || "$python" -m sigmel.cli results results.json --publish .
