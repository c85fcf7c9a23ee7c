#!/usr/bin/env bash
# One system of the comparison in ./compare.sh: trained on five domains, tested in them and on eight sets out of them.
#
# Usage: ./run.sh [--fsdd_dir DIR] [--stage N] [--stop_stage N] [--size tiny|narrow|quick|<one of these>_further]
#                 [--start MODEL] [--routing dense|switch|omni|path:<k>] [--seed S] [--attention softmax|sigmoid]
#                 [--python PYTHON] [--print data|exp|model]
#
# --start goes on from a dense model (.nemo); with a routing other than dense its experts begin as copies of the dense
# feed-forwards. --fsdd_dir is a copy of the Free Spoken Digit Dataset; without this option the dataset is downloaded into
# downloads/.
# Stages: 1 data, 2 tokens, 3 train, 4 decode, 5 score, 6 plots. A stage whose result exists is skipped, and a killed
# run goes on where it stopped. Results lie in data/ and exp/nemo_<size>_<routing>_seed<S>/, or in another folder for
# other options, which --print names; remove what is to be made again. --size names a file in conf/nemo/ (default: tiny;
# nano is for tests).

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. ../../common.sh

read_options "$@"
model_options 6 tiny omni
path_option fsdd_dir
path_option start
experiment
end_of_options

case $size in
  nano*) utterances=(--train 40 --dev 10 --test 10) ;;
  quick*) utterances=(--train 4000 --dev 100 --test 100) ;;
  *) utterances=(--train 20000 --dev 200 --test 400) ;;
esac
make_data local/data.py "${utterances[@]}" ${fsdd_dir:+--fsdd-dir "$fsdd_dir"}

run_stage 2 tokens "$exp/tokenizer" sigmel tokenizer "$data/train.jsonl" --output "$exp/tokenizer" --type char

from=()
if [ -n "$start" ]; then
  if [ "$routing" != dense ]; then
    experts=4
    [[ $size != narrow* ]] || experts=8
    run_stage 3 upcycle "$exp/start.nemo" sigmel upcycle "$start" --experts "$experts" --routing "$routing" \
      --seed "$seed" --output "$exp/start.nemo"
    start=$exp/start.nemo
    from=(normalize_gates=true gradient_sharing=0.8)
  fi
  from+=(-- "+init_from_nemo_model='$start'")
fi
run_stage 3 train "$model" sigmel train --host "$host" --config "conf/$host/$size.yaml" --output "$exp" \
  --tokenizer "$exp/tokenizer" --train "$data/train.jsonl" --valid "$data/dev.jsonl" --seed "$seed" \
  --set routing="$routing" attention="$attention" "${from[@]}"

run_stage 4 decode "$exp/decode" \
  sigmel transcribe "$model" "$data"/{test,ood_*,real_*}.jsonl --output "$exp/decode" --routing-stats

run_stage 5 score "$exp/score" sigmel score "$exp/decode" --output "$exp/score" --train-facts "$exp/train.json" \
  --results "$exp/results.json" --tag "${tags[@]}"

run_stage 6 plots "$exp/plots" sigmel plot "$exp" --output "$exp/plots"

[ "$stop_stage" -lt 5 ] || sigmel results "$exp/results.json"
