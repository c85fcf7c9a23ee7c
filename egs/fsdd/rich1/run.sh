#!/usr/bin/env bash
# RichASR on connected digits, real speech: a language model that reads dMel tokens and writes words.
#
# Usage: ./run.sh [--fsdd_dir DIR] [--stage N] [--stop_stage N] [--size asr] [--routing dense|switch|omni|path:<k>]
#                 [--attention softmax|sigmoid] [--seed S] [--python PYTHON]
#
# The split is the official one of ../asr1, whose data stage it uses. --fsdd_dir is a copy of the Free Spoken Digit
# Dataset; without one it is downloaded into downloads/.
# Stages: 1 data, 2 tokens of speech and text, 3 train, 4 decode, 5 score, 6 plots. A stage whose result exists is
# skipped, and a killed run goes on where it stopped. Results lie in data/ and exp/nemo_<size>_<routing>_seed<S>/;
# remove what is to be made again. --size names a file in conf/nemo/ (nano is for tests).

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. ./path.sh

stage=1 stop_stage=6 host=nemo size=asr routing=dense attention=softmax seed=1 python= fsdd_dir=
parse_options "stage stop_stage size routing attention seed python fsdd_dir" "$@"
check_options
fsdd_dir=$(absolute "$fsdd_dir")

case $size in # utterances to train on
  nano*) train=48 ;;
  *) train=8000 ;;
esac
data=data/official_train$train
exp=exp/$system

run_stage 1 data "$data" \
  "$python" ../asr1/local/data.py --output "$data" --train "$train" ${fsdd_dir:+--fsdd-dir "$fsdd_dir"}

for part in train dev; do
  run_stage 2 "dMel of $part" "$data/dmel/$part" \
    "$python" -m sigmel.cli dmel encode "$data/$part.jsonl" --output "$data/dmel/$part" --sample-rate 8000
done
run_stage 2 tokens "$exp/tokenizer" \
  "$python" -m sigmel.data.tokenizer "$data/train.jsonl" --output "$exp/tokenizer" --type word

run_stage 3 train "$exp/model.nemo" \
  "$python" -m sigmel.hosts.nemo.train --config-path "$PWD/conf/nemo" --config-name "$size" hydra.job.chdir=false \
  recipe.exp_dir="$exp" recipe.seed="$seed" +model.lm.routing="$routing" +model.lm.attention="$attention" \
  model.tokenizer.dir="$exp/tokenizer" model.train_ds.archives="$data/dmel/train" \
  model.validation_ds.archives="$data/dmel/dev"

run_stage 4 decode "$exp/decode" \
  "$python" -m sigmel.hosts.nemo.transcribe --model "$exp/model.nemo" --output "$exp/decode" "$data/test_official.jsonl"

run_stage 5 score "$exp/score" \
  "$python" -m sigmel.cli score "$exp/decode" --output "$exp/score" --train-facts "$exp/train.json" \
  --results results.json --tag "${tags[@]}"

run_stage 6 plots "$exp/plots" "$python" -m sigmel.cli plot "$exp" --output "$exp/plots"

[ "$stop_stage" -lt 5 ] || "$python" -m sigmel.cli results results.json --update-readme README.md
