#!/usr/bin/env bash
# Connected digits, real speech: strings of 1 to 7 digits made of the Free Spoken Digit Dataset (CC BY-SA 4.0).
#
# Usage: ./run.sh [--fsdd_dir DIR] [--test_speaker none|NAME|all]
#                 [--stage N] [--stop_stage N] [--size tiny] [--routing dense|switch|omni|path:<k>] [--seed S]
#                 [--attention softmax|sigmoid] [--host nemo|espnet] [--python PYTHON]
#
# --test_speaker none (default) is the official split: recordings 0-4 test, 5-49 train. NAME trains on the other
# speakers and tests on all recordings of NAME; all does so with every speaker in turn. --fsdd_dir is a copy of the
# data set; without one it is downloaded into downloads/.
# Stages: 1 data, 2 tokens, 3 train, 4 decode, 5 score, 6 plots, 7 decode by graphs: of the tokens, of a trigram, of
# that rescored, of a grammar. A stage whose result exists is skipped, and a killed run goes on where it stopped.
# Results lie in data/ and exp/<host>_<size>_<routing>_seed<S>_<split>/; remove what is to be made again. --size names a
# file in conf/<host>/ (default: tiny; quick compares systems; nano is for tests).

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. ./path.sh

stage=1 stop_stage=7 host=nemo size=tiny routing=omni attention=softmax seed=1 python= fsdd_dir= test_speaker=none
parse_options "stage stop_stage host size routing attention seed python fsdd_dir test_speaker" "$@"
check_options
check test_speaker '[A-Za-z0-9_-]+'
fsdd_dir=$(absolute "$fsdd_dir")

if [ "$test_speaker" = all ]; then
  speakers=$("$python" local/speakers.py ${fsdd_dir:+--fsdd-dir "$fsdd_dir"})
  for speaker in $speakers; do
    ./run.sh "$@" --fsdd_dir "$fsdd_dir" --python "$python" --test_speaker "$speaker"
  done
  exit
fi

case $size in # utterances to train on
  nano*) train=48 ;;
  *) train=8000 ;;
esac
split=official
[ "$test_speaker" = none ] || split=loso_$test_speaker
data=data/${split}_train$train
tests=("$data/test_$split.jsonl")
exp=exp/${system}_$split
host_commands "$exp" "$data"

run_stage 1 data "$data" \
  "$python" local/data.py --output "$data" --train "$train" --test-speaker "$test_speaker" ${fsdd_dir:+--fsdd-dir "$fsdd_dir"}

run_stage 2 tokens "$exp/tokenizer" \
  "$python" -m sigmel.cli tokenizer "$data/train.jsonl" --output "$exp/tokenizer" --type word

run_stage 3 train "$model" "${train_command[@]}"

run_stage 4 decode "$exp/decode" "${decode_command[@]}" "${tests[@]}"

run_stage 5 score "$exp/score" \
  "$python" -m sigmel.cli score "$exp/decode" --output "$exp/score" --train-facts "$exp/train.json" \
  --results results.json --tag "${tags[@]}"

run_stage 6 plots "$exp/plots" "$python" -m sigmel.cli plot "$exp" --output "$exp/plots"

decode_by_graphs "$data/train.jsonl" conf/digits.jsgf

[ "$stop_stage" -lt 5 ] || "$python" -m sigmel.cli results results.json --publish .
