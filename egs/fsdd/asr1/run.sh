#!/usr/bin/env bash
# Connected digits, real speech: strings of 1 to 7 digits made of the Free Spoken Digit Dataset (CC BY-SA 4.0).
#
# Usage: ./run.sh [--fsdd_dir DIR] [--test_speaker none|NAME|all] [--OPTION VALUE ...]
#
# --test_speaker none (default) is the official split: recordings 0-4 test, 5-49 train. NAME trains on the other
# speakers and tests on all recordings of NAME; all does so with every speaker in turn. --fsdd_dir is a copy of the
# dataset; without this option the dataset is downloaded into downloads/.
# Sizes: tiny (default), quick, which compares systems.

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
  speakers=$("$python" local/data.py --list-speakers --output data ${fsdd_dir:+--fsdd-dir "$fsdd_dir"})
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

make_tokens --type word
train_model "$data/train.jsonl" "$data/dev.jsonl"
tests=("$data/test_$split.jsonl")
decode 4 "" "$model" --routing-stats
score 5 ""
run_stage 6 plots "$exp/plots" sigmel plot "$exp" --output "$exp/plots"

grammar=conf/digits.jsgf
. ../../graphs.sh

[ "$stop_stage" -lt 5 ] || sigmel results "$exp/results.json"
