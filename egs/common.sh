# What the recipes share: options, stages, the choice of Python. Sourced by every run.sh.

# By default glibc gives large blocks back to the system when they are freed; a training step, which takes hundreds of
# large blocks anew, then spends a tenth of its time on page faults.
export MALLOC_MMAP_THRESHOLD_=${MALLOC_MMAP_THRESHOLD_:-33554432} # 32 MiB, the most that glibc allows
export MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:-17179869184}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
called_from=$OLDPWD # a recipe changes into its own folder; paths in its options are relative to this one

# Print the manual: the comment at the top of the script, and for a recipe what all recipes have in common.
usage() {
  local script=${0##*/} # the working folder is that of the script
  sed -n '2,/^$/s/^# \{0,1\}//p' "$script"
  [ "$script" = run.sh ] || return 0
  cat <<END

Options of every recipe:
  --size NAME                            configuration conf/<host>/NAME.yaml; nano is for tests
  --host $(hosts)
  --routing dense|switch|omni|path:<k>   of the experts; dense has none
  --attention softmax|sigmoid
  --seed S                               of the training
  --stage N, --stop_stage N              first and last stage to run: 1 data, 2 tokens, 3 train, 4 decode, 5 score,
                                         6 plots, and where a recipe has it 7, decode by graphs: of the tokens, of a
                                         trigram, of the trigram with lattices rescored, of a grammar
  --python PYTHON                        with sigmel installed
  --print data|exp|model                 print where it is, and make nothing
A stage whose result exists is skipped, and a killed run goes on where it stopped. Results lie in data/ and
exp/<host>_<size>_<routing>_seed<S>/, or in another folder for other options; remove what is to be made again.
END
}

# The hosts that the recipe has configurations for.
hosts() { basename -a conf/*/ | paste -sd '|' -; }

fail() {
  echo "error: $*" >&2
  exit 2
}

# --- options
#
# A recipe declares each option once. `option` and `path_option` also write it into `system`, the name of the
# experiment's folder, and into `tags`, which tell rows of results apart, so that the results of different options never
# mix. An option at its default is not mentioned.

declare -A given # value by name, of the options on the command line
system= tags=()
task=asr # if a recipe does not choose

# read_options "$@": --stop_stage 3, --stop-stage 3 and --stop_stage=3 all become given[stop_stage]=3.
read_options() {
  local name value
  while [ $# -gt 0 ]; do
    case "$1" in
      -h | --help) usage; exit 0 ;;
      --[a-z]*=*) name=${1%%=*} value=${1#*=}; shift ;;
      --[a-z]*) [ $# -ge 2 ] || fail "$1 needs a value"; name=$1 value=$2; shift 2 ;;
      *) fail "unexpected argument: $1 (see --help)" ;;
    esac
    name=${name#--}
    given[${name//-/_}]=$value
  done
}

# setting NAME DEFAULT PATTERN: set the variable NAME to the given value, else to DEFAULT. The whole value must match the
# extended regular expression.
setting() {
  printf -v "$1" %s "${given[$1]-$2}"
  unset "given[$1]"
  [[ ${!1} =~ ^($3)$ ]] || fail "--$1: '${!1}' is not one of: $3"
}

# option NAME DEFAULT PATTERN: a setting that decides what is made. Sets `label`: empty, or _NAME-VALUE.
option() {
  setting "$@"
  label=
  [ "${!1}" = "$2" ] || mention "$1" "${!1}"
}

# path_option NAME: an option that is a path, by default empty. Folders are named after its last part and a checksum.
path_option() {
  setting "$1" '' '.*'
  label=
  [ -n "${!1}" ] || return 0
  case ${!1} in
    /*) ;;
    *) printf -v "$1" %s "$called_from/${!1}" ;;
  esac
  printf -v "$1" %s "$(realpath "${!1}" 2>/dev/null || echo "${!1}")"
  mention "$1" "$(short_path "${!1}")"
}

# The last part of a path and a checksum of it, as seen from the recipe if it lies there: a checkout may be moved.
short_path() {
  local name
  name=$(basename "$1" | tr -c '[:alnum:]._\n-' _)
  echo "$name-$(printf %s "${1#"$(pwd -P)"/}" | cksum | cut -d ' ' -f 1)"
}

mention() {
  label=_$1-$2
  system+=$label
  tags+=("$1=$2")
}

# model_options LAST_STAGE SIZE ROUTING: the options of every recipe, with these defaults.
model_options() {
  setting stage 1 "[1-$1]"
  setting stop_stage "$1" "[1-$1]"
  setting python '' '.*'
  setting print '' '|data|exp|model'
  setting host nemo "$(hosts)"
  setting size "$2" '[A-Za-z0-9_.-]+'
  setting routing "$3" 'dense|switch|omni|path:[1-9][0-9]*'
  setting seed 1 '0|[1-9][0-9]*'
  [ -f "conf/$host/$size.yaml" ] ||
    fail "--size: '$size' has no conf/$host/$size.yaml; there are: $(cd "conf/$host" && echo *.yaml)"
  system=${host}_${size}_${routing/:/}_seed$seed
  tags=(host="$host" size="$size" routing="$routing" seed="$seed")
  option attention softmax 'softmax|sigmoid'
}

# --task and the options of every recipe, for RichASR and RichTTS: --size is that of the task, and tells the task.
task_option() {
  model_options 6 "${given[task]-asr}" dense
  local task_of_size=asr
  [[ $size != *tts ]] || task_of_size=tts
  setting task "$task_of_size" 'asr|tts'
  [ "$task" = "$task_of_size" ] || fail "--task: '$task' does not go with --size $size, which is for $task_of_size"
}

# Set `exp`, the folder of what the options so far make, and `model`, the file that training makes.
experiment() {
  exp=exp/$system model=exp/$system/model.nemo
  [ "$host" = nemo ] || model=$exp/model.zip
}

# Refuse options that nobody has declared, and find Python.
end_of_options() {
  [ ${#given[@]} = 0 ] || fail "unknown option: --$(printf '%s\n' "${!given[@]}" | head -1) (see --help)"
  [ -z "${print-}" ] || return 0
  local venv=$root/.venv
  [ "$host" = nemo ] || venv=$root/.venv-$host
  case "$python" in
    '') python=python3; [ ! -x "$venv/bin/python" ] || python=$venv/bin/python ;;
    /*) ;;
    */*) python=$called_from/$python ;;
  esac
  "$python" -c 'import sigmel' 2>/dev/null ||
    fail "--python: $python has no sigmel; install it (make venv, make espnet) or name another one"
}

# --- stages

sigmel() { "$python" -m sigmel.cli "$@"; }

# run_stage NUMBER NAME MADE COMMAND...: run COMMAND, which makes MADE, if NUMBER is asked for and MADE is missing.
# COMMAND writes under a temporary name and renames at the end, so that what exists is complete. With --print, the first
# stage prints a path, and nothing is made.
run_stage() {
  local number=$1 name=$2 made=$3 began=$SECONDS status=0
  shift 3
  [ -z "${print-}" ] || { echo "$PWD/${!print}"; exit 0; }
  [ "$number" -ge "$stage" ] && [ "$number" -le "$stop_stage" ] || return 0
  if [ -e "$made" ]; then
    echo "stage $number ($name): $made is there already"
    return 0
  fi
  echo "stage $number ($name): making $made"
  "$@" || status=$?
  [ "$status" -le 1 ] || exit "$status" # 1: done, but for some input, which the command has named
  [ -e "$made" ] || fail "stage $number ($name) ended without making $made"
  echo "stage $number ($name): made $made in $((SECONDS - began)) s"
}

# make_data SCRIPT ARGUMENT...: stage 1, and set `data` to the folder it makes, beside that of the SCRIPT. The folder is
# named after the ARGUMENTS: data of different options never mix, and recipes that want the same data share them.
make_data() {
  local script=$1 name= argument
  shift
  for argument; do
    case $argument in
      --*) name+=_${argument#--} ;;
      /*) name+=-$(short_path "$argument") ;;
      *) name+=-$argument ;;
    esac
  done
  data=${script%local/data.py}data/${name#_}
  run_stage 1 data "$data" "$python" "$script" --output "$data" "$@"
}

# make_tokens OPTION...: stage 2, a tokenizer of the training set's texts; OPTIONS of `sigmel tokenizer`.
make_tokens() {
  run_stage 2 tokens "$exp/tokenizer" sigmel tokenizer "$data/train.jsonl" --output "$exp/tokenizer" "$@"
}

# train_model TRAIN VALID SETTING...: stage 3, with more SETTINGS of the model.
train_model() {
  run_stage 3 train "$model" sigmel train --host "$host" --task "$task" --config "conf/$host/$size.yaml" \
    --output "$exp" --tokenizer "$exp/tokenizer" --train "$1" --valid "$2" --seed "$seed" \
    --set routing="$routing" attention="$attention" "${@:3}"
}

# decode STAGE LABEL MODEL OPTION...: decode the sets of `tests` into a folder with this LABEL.
decode() {
  run_stage "$1" "decode$2" "$exp/decode$2" \
    sigmel transcribe "$3" "${tests[@]}" --output "$exp/decode$2" "${@:4}"
}

# score STAGE LABEL TAG...: score what was decoded; the rows of results have more TAGS.
score() {
  run_stage "$1" "score$2" "$exp/score$2" sigmel score "$exp/decode$2" --output "$exp/score$2" \
    --train-facts "$exp/train.json" --results "$exp/results.json" --tag "${tags[@]}" "${@:3}"
}
