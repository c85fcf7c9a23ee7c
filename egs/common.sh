# What the recipes share: options, stages, the choice of Python. Sourced by a recipe's path.sh.

# By default glibc gives large blocks back to the system when they are freed; a training step, which takes hundreds of
# them anew, then spends a tenth of its time on page faults.
export MALLOC_MMAP_THRESHOLD_=${MALLOC_MMAP_THRESHOLD_:-33554432} # 32 MiB, the most that glibc allows
export MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:-17179869184}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
called_from=$OLDPWD # a recipe changes into its own folder; paths in its options are relative to this

# Print the comment at the top of the recipe: its manual.
usage() { sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; }

fail() {
  echo "error: $*" >&2
  exit 2
}

# parse_options "a list of variables" "$@": --stop_stage 3 (or --stop-stage 3, --stop_stage=3) sets stop_stage=3.
parse_options() {
  local known=" $1 " name value
  shift
  while [ $# -gt 0 ]; do
    case "$1" in
      -h | --help) usage; exit 0 ;;
      --*=*) name=${1%%=*} value=${1#*=}; shift ;;
      --*) [ $# -ge 2 ] || fail "$1 needs a value"; name=$1 value=$2; shift 2 ;;
      *) fail "unexpected argument: $1 (see --help)" ;;
    esac
    name=${name#--} name=${name//-/_}
    [[ $known == *" $name "* ]] || fail "unknown option: --$name (see --help)"
    printf -v "$name" %s "$value"
  done
}

# A path given by the user, from here; nothing stays nothing.
absolute() {
  case "$1" in
    '' | /*) printf %s "$1" ;;
    *) printf %s "$called_from/$1" ;;
  esac
}

# check NAME PATTERN: the variable's value must match the whole extended regular expression.
check() {
  [[ ${!1} =~ ^($2)$ ]] || fail "--$1: '${!1}' is not one of: $2"
}

# The options every recipe has.
check_options() {
  check stage '[1-7]'
  check stop_stage '[1-7]'
  check host 'nemo|espnet'
  check routing 'dense|switch|omni|path:[1-9][0-9]*'
  check attention 'softmax|sigmoid'
  check seed '[0-9]+'
  # What folders and tables call the system; the usual attention is not mentioned.
  system=${host}_${size}_${routing/:/}
  tags=(host="$host" size="$size" routing="$routing" seed="$seed")
  [ "$attention" = softmax ] || { system+=_$attention; tags+=(attention="$attention"); }
  system+=_seed$seed
  [ -f "conf/$host/$size.yaml" ] ||
    fail "--size: '$size' has no conf/$host/$size.yaml; there are: $(cd "conf/$host" && echo *.yaml)"
  find_python
}

# Set `python` to what runs the host, unless the user has named one.
find_python() {
  local venv=$root/.venv
  [ "$host" = nemo ] || venv=$root/.venv-$host
  case "$python" in
    '') python=python3; [ ! -x "$venv/bin/python" ] || python=$venv/bin/python ;;
    */*) python=$(absolute "$python") ;;
  esac
  "$python" -c 'import sigmel' 2>/dev/null ||
    fail "--python: $python has no sigmel; install it (make venv, make espnet) or name another one"
}

# host_commands EXP DATA: set `model`, the file that training makes, and `train_command` and `decode_command`.
host_commands() {
  local exp=$1 data=$2
  case $host in
    nemo)
      model=$exp/model.nemo
      train_command=(--config "conf/nemo/$size.yaml")
      ;;
    espnet)
      model=$exp/model.zip
      train_command=(--config "$root/conf/espnet/omni_router_ctc_tiny_2300k_1300kactive.yaml"
        --config "conf/espnet/$size.yaml")
      ;;
  esac
  train_command=("$python" -m sigmel.cli train --host "$host" "${train_command[@]}" --output "$exp" --seed "$seed"
    --tokenizer "$exp/tokenizer" --train "$data/train.jsonl" --valid "$data/dev.jsonl"
    --set routing="$routing" attention="$attention")
  decode_command=("$python" -m sigmel.cli transcribe "$model" --routing-stats --output "$exp/decode")
}

# run_stage NUMBER NAME MADE COMMAND...: run COMMAND, which makes MADE, if NUMBER is asked for and MADE is not there yet.
# COMMAND writes under a temporary name and renames at the end, so that what exists is complete.
run_stage() {
  local number=$1 name=$2 made=$3 began=$SECONDS
  shift 3
  [ "$number" -ge "$stage" ] && [ "$number" -le "$stop_stage" ] || return 0
  if [ -e "$made" ]; then
    echo "stage $number ($name): $made is there already"
    return 0
  fi
  echo "stage $number ($name): making $made"
  "$@"
  [ -e "$made" ] || fail "stage $number ($name) ended without making $made"
  echo "stage $number ($name): made $made in $((SECONDS - began)) s"
}

# graph_of NAME OPTION...: stage 7, the graph that `sigmel graph build` makes of the tokens and the OPTIONS.
graph_of() {
  local name=$1 tokens
  shift
  case $host in
    nemo) tokens=(--tokens "$exp/tokenizer") ;;
    espnet) tokens=(--tokens "$exp/tokens.txt" --bpemodel "$exp/tokenizer/tokenizer.model") ;;
  esac
  run_stage 7 "graph of $name" "$exp/$name.npz" \
    "$python" -m sigmel.cli graph build "${tokens[@]}" "$@" --output "$exp/$name.npz"
}

# ngrams_of NAME TEXT OPTION...: stage 7, an n-gram language model.
ngrams_of() {
  run_stage 7 "$1" "$exp/$1.arpa" "$python" -m sigmel.cli lm train "${@:2}" --output "$exp/$1.arpa"
}

# decode_by NAME GRAPH OPTION...: stage 7, what the model says of `tests` by a graph, with rows NAME.
decode_by() {
  local name=$1 graph=$2
  shift 2
  run_stage 7 "decode by $name" "$exp/decode_$name" "$python" -m sigmel.cli transcribe "$model" \
    --graph "$exp/$graph.npz" "$@" --output "$exp/decode_$name" "${tests[@]}"
  run_stage 7 "score of $name" "$exp/score_$name" \
    "$python" -m sigmel.cli score "$exp/decode_$name" --output "$exp/score_$name" --train-facts "$exp/train.json" \
    --results results.json --tag "${tags[@]}" graph="$name"
}

# decode_by_graphs TEXT GRAMMAR: stage 7 with a graph of the tokens, of a trigram of TEXT, of that one rescored by
# 5-grams, and of a GRAMMAR.
decode_by_graphs() {
  graph_of tokens
  decode_by tokens tokens
  ngrams_of trigram "$1"
  graph_of trigram --lm "$exp/trigram.arpa"
  decode_by trigram trigram
  ngrams_of fivegram "$1" --order 5
  decode_by rescored trigram --rescore "$exp/fivegram.arpa"
  graph_of grammar --grammar "$2"
  decode_by grammar grammar
}
