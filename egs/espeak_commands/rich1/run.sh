#!/usr/bin/env bash
# Spoken commands by a language model over dMel tokens: RichASR reads them and writes words, RichTTS reads words and
# writes them, in one of four voices.
#
# Usage: ./run.sh [--task asr|tts] [--stage N] [--stop_stage N] [--size asr|tts] [--routing dense|switch|omni|path:<k>]
#                 [--attention softmax|sigmoid] [--seed S] [--judge small|tiny] [--python PYTHON]
#
# asr: the data are those of ../asr1. tts: voices of eSpeak NG that its recogniser, which judges, has never heard; a voice
# is told by how a recording of it sounds. --judge is the size of that recogniser, which is trained where it is not
# there. Nothing is downloaded.
# Stages: 1 data, 2 tokens of speech and text, 3 train, 4 speak and decode, 5 score, 6 plots. A stage whose result
# exists is skipped, and a killed run goes on where it stopped. Results lie in data/ and
# exp/nemo_<size>_<routing>_seed<S>/; remove what is to be made again. --size names a file in conf/nemo/ (default: the
# task's; nano and nano_tts are for tests).

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. ./path.sh

stage=1 stop_stage=6 host=nemo size= routing=dense attention=softmax seed=1 python= task=asr judge=small
parse_options "stage stop_stage size routing attention seed python task judge" "$@"
check task 'asr|tts'
check judge 'nano|tiny|small'
size=${size:-$task}
check_options

case $task$size in # utterances to train, stop training early on, and test with; tokens of text
  *nano*) utterances=(48 8 16) tokens=char ;; # these few do not have all words
  asr*) utterances=(25000 200 500) tokens=word ;;
  tts*) utterances=(25000 100 200) tokens=char ;; # rare words are said like those that share their letters
esac
exp=exp/$system
made=(--train "${utterances[0]}" --dev "${utterances[1]}" --test "${utterances[2]}")

if [ "$task" = asr ]; then
  data=../asr1/data/train${utterances[0]}
  run_stage 1 data "$data" "$python" ../asr1/local/data.py --output "$data" "${made[@]}"
  rich_train 16000 --type "$tokens"
  rich_score "$model" "$data/test.jsonl" "$data/test_ood.jsonl"
else
  data=data/voices_train${utterances[0]}
  recogniser=../asr1/exp/nemo_${judge}_omni_seed1/model.nemo
  run_stage 1 data "$data" "$python" ../asr1/local/data.py --output "$data" "${made[@]}" \
    --voices en-us+f3,en-us+m4,en-us+adam,en-us+robert
  rich_train 16000 --type "$tokens"
  rich_speak "$data/test.jsonl" 16000 --voices "$data/train.jsonl"
  run_stage 4 "recogniser of others" "$recogniser" ../asr1/run.sh --stop_stage 3 --size "$judge" --python "$python"
  rich_score "$recogniser" "$exp/spoken/spoken.jsonl" "$data/copied.jsonl" "$data/test.jsonl"
fi
