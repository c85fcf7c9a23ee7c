#!/usr/bin/env bash
# One system of the comparison in ./compare.sh: trained on five domains, tested in them and on eight sets out of them.
#
# Usage: ./run.sh [--fsdd_dir DIR] [--start MODEL] [--OPTION VALUE ...]
#
# --start goes on from a dense model (.nemo); with a routing other than dense its experts begin as copies of the dense
# feed-forwards. --fsdd_dir is a copy of the Free Spoken Digit Dataset; without this option the dataset is downloaded into
# downloads/.
# Sizes: tiny (default), narrow, quick, and each of these with _further, for --start.

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

make_tokens --type char

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
train_model "$data/train.jsonl" "$data/dev.jsonl" "${from[@]}"
tests=("$data"/{test,ood_*,real_*}.jsonl)
decode 4 "" "$model" --routing-stats
score 5 ""
run_stage 6 plots "$exp/plots" sigmel plot "$exp" --output "$exp/plots"

[ "$stop_stage" -lt 5 ] || sigmel results "$exp/results.json"
