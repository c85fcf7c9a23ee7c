#!/usr/bin/env bash
# Spoken commands by a language model over dMel tokens: RichASR reads dMel tokens and writes words, RichTTS reads words
# and writes dMel tokens, in one of four voices.
#
# Usage: ./run.sh [--task asr|tts] [--judge small|tiny] [--OPTION VALUE ...]
#
# asr: the data are those of ../asr1. tts: voices of eSpeak NG that the recogniser of ../asr1, which judges, has never
# heard; the model knows a voice by a recording of it. --judge is the size of that recogniser, which is trained if it is
# missing. Nothing is downloaded.
# Sizes: asr, tts (default: the task's).

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. ../../common.sh

read_options "$@"
task_option
experiment
option judge small 'nano|tiny|small' # decides what is heard, not what is trained
by=$label
end_of_options

case $task$size in # tokens of text
  *nano*) utterances=(--train 48 --dev 8 --test 16) tokens=(--type char) ;; # these few do not have all words
  asr*) utterances=(--train 25000 --dev 200 --test 500) tokens=(--type word) ;;
  tts*) utterances=(--train 25000 --dev 100 --test 200) tokens=(--type char) ;; # rare words are said by their letters
esac
if [ "$task" = asr ]; then
  make_data ../asr1/local/data.py "${utterances[@]}"
  tests=("$data/test.jsonl" "$data/test_ood.jsonl")
else
  make_data ../asr1/local/data.py "${utterances[@]}" --voices en-us+f3,en-us+m4,en-us+adam,en-us+robert
  tests=("$data/test.jsonl")
fi
rate=16000
voices=(--voices "$data/train.jsonl")
judge=(../asr1/run.sh --size "$judge")
. ../../rich.sh
