#!/usr/bin/env bash
# Connected digits, real speech: strings of 1 to 7 digits made of the Free Spoken Digit Dataset (CC BY-SA 4.0).
#
# Usage: ./run.sh [--fsdd_dir DIR] [--test_speaker none|NAME|all]
#                 [--stage N] [--stop_stage N] [--size tiny] [--routing dense|switch|omni|path:<k>] [--seed S]
#                 [--attention softmax|sigmoid] [--host nemo|espnet] [--python PYTHON] [--print data|exp|model]
#
# --test_speaker none (default) is the official split: recordings 0-4 test, 5-49 train. NAME trains on the other
# speakers and tests on all recordings of NAME; all does so with every speaker in turn. --fsdd_dir is a copy of the
# dataset; without this option the dataset is downloaded into downloads/.
# Stages: 1 data, 2 tokens, 3 train, 4 decode, 5 score, 6 plots, 7 decode by graphs: of the tokens, of a trigram, of the
# trigram with lattices rescored, of a grammar. A stage whose result exists is skipped, and a killed run goes on where it
# stopped. Results lie in data/ and exp/<host>_<size>_<routing>_seed<S>/, or in another folder for other options, which
# --print names; remove what is to be made again. --size names a file in conf/<host>/ (default: tiny; quick compares
# systems; nano is for tests).

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. ../../common.sh

read_options "$@"
model_options 7 tiny omni
option test_speaker none '[A-Za-z0-9_-]+'
path_option fsdd_dir
experiment
end_of_options

if [ "$test_speaker" = all ]; then
  speakers=$("$python" local/speakers.py ${fsdd_dir:+--fsdd-dir "$fsdd_dir"})
  for speaker in $speakers; do
    ./run.sh "$@" --fsdd_dir "$fsdd_dir" --python "$python" --test_speaker "$speaker"
  done
  exit
fi

case $size in # training utterances
  nano*) train=48 ;;
  *) train=8000 ;;
esac
split=official
[ "$test_speaker" = none ] || split=loso_$test_speaker
make_data local/data.py --train "$train" --test-speaker "$test_speaker" ${fsdd_dir:+--fsdd-dir "$fsdd_dir"}

run_stage 2 tokens "$exp/tokenizer" sigmel tokenizer "$data/train.jsonl" --output "$exp/tokenizer" --type word

run_stage 3 train "$model" sigmel train --host "$host" --config "conf/$host/$size.yaml" --output "$exp" \
  --tokenizer "$exp/tokenizer" --train "$data/train.jsonl" --valid "$data/dev.jsonl" --seed "$seed" \
  --set routing="$routing" attention="$attention"

tests=("$data/test_$split.jsonl")
run_stage 4 decode "$exp/decode" sigmel transcribe "$model" "${tests[@]}" --output "$exp/decode" --routing-stats

run_stage 5 score "$exp/score" sigmel score "$exp/decode" --output "$exp/score" --train-facts "$exp/train.json" \
  --results "$exp/results.json" --tag "${tags[@]}"

run_stage 6 plots "$exp/plots" sigmel plot "$exp" --output "$exp/plots"

grammar=conf/digits.jsgf
. ../../graphs.sh

[ "$stop_stage" -lt 5 ] || sigmel results "$exp/results.json"
