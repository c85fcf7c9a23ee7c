#!/usr/bin/env bash
# Connected digits, real speech, by a language model over dMel tokens: RichASR reads them and writes words, RichTTS
# reads words and writes them.
#
# Usage: ./run.sh [--task asr|tts] [--fsdd_dir DIR] [--speaker NAME] [--stage N] [--stop_stage N] [--size asr|tts]
#                 [--routing dense|switch|omni|path:<k>] [--attention softmax|sigmoid] [--seed S] [--host nemo|espnet]
#                 [--python PYTHON]
#
# asr: the split is the official one of ../asr1, and the data are those made there. tts: learns the voice of --speaker (jackson),
# and is judged by the CTC recogniser of ../asr1 that was trained on all others; it is trained where it is not there.
# --fsdd_dir is a copy of the Free Spoken Digit Dataset; without one it is downloaded into ../asr1/downloads/.
# Stages: 1 data, 2 tokens of speech and text, 3 train, 4 speak and decode, 5 score, 6 plots. A stage whose result
# exists is skipped, and a killed run goes on where it stopped. Results lie in data/ and
# exp/<host>_<size>_<routing>_seed<S>/; remove what is to be made again. --size names a file in conf/<host>/ (default:
# the task's; nano and nano_tts are for tests).

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. ./path.sh

stage=1 stop_stage=6 host=nemo size= routing=dense attention=softmax seed=1 python= fsdd_dir= task=asr speaker=jackson
parse_options "stage stop_stage host size routing attention seed python fsdd_dir task speaker" "$@"
check task 'asr|tts'
check speaker '[A-Za-z0-9_-]+'
size=${size:-$task}
check_options
fsdd_dir=$(absolute "$fsdd_dir")
corpus=(--download-dir ../asr1/downloads ${fsdd_dir:+--fsdd-dir "$fsdd_dir"})

# utterances to train on, and the size of the recogniser that judges
case $task$size in
  *nano*) train=48 judge=nano ;;
  asr*) train=24000 judge= ;;
  tts*) train=4000 judge=tiny ;;
esac
exp=exp/$system

if [ "$task" = asr ]; then
  data=../asr1/data/official_train$train
  run_stage 1 data "$data" "$python" ../asr1/local/data.py --output "$data" --train "$train" "${corpus[@]}"
  rich_train 8000 --type word
  rich_score "$model" "$data/test_official.jsonl"
else
  data=data/${speaker}_train$train
  suffix=nemo
  [ "$host" = nemo ] || suffix=zip
  recogniser=../asr1/exp/${host}_${judge}_omni_seed1_loso_$speaker/model.$suffix
  run_stage 1 data "$data" "$python" ../asr1/local/data.py --output "$data" --train "$train" "${corpus[@]}" \
    --speaker "$speaker" --as-recorded
  rich_train 8000 --type word
  rich_speak "$data/test_official.jsonl" 8000
  run_stage 4 "recogniser of others" "$recogniser" ../asr1/run.sh --stop_stage 3 --host "$host" \
    --size "$judge" --test_speaker "$speaker" --fsdd_dir "$fsdd_dir" --python "$python"
  rich_score "$recogniser" "$exp/spoken/spoken.jsonl" "$data/copied.jsonl" "$data/test_official.jsonl"
fi
