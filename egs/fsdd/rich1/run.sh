#!/usr/bin/env bash
# Connected digits, real speech, by a language model over dMel tokens: RichASR reads dMel tokens and writes words,
# RichTTS reads words and writes dMel tokens.
#
# Usage: ./run.sh [--task asr|tts] [--fsdd_dir DIR] [--speaker NAME] [--OPTION VALUE ...]
#
# asr: the split is the official one of ../asr1, where the data are made, too. tts: learns the voice of --speaker
# (jackson); the judge is the CTC recogniser of ../asr1 that was trained on all other speakers, and is trained now if it
# is missing. --fsdd_dir is a copy of the Free Spoken Digit Dataset; without this option the dataset is downloaded into
# ../asr1/downloads/.
# Sizes: asr, tts (default: the task's).

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. ../../common.sh

read_options "$@"
task_option
option speaker jackson '[A-Za-z0-9_-]+'
path_option fsdd_dir
experiment
end_of_options

case $task$size in # training utterances, and the size of the recogniser that judges
  *nano*) train=48 judge=nano ;;
  asr*) train=24000 judge= ;;
  tts*) train=4000 judge=tiny ;;
esac
corpus=(--train "$train")
[ "$task" = asr ] || corpus+=(--speaker "$speaker")
make_data ../asr1/local/data.py "${corpus[@]}" ${fsdd_dir:+--fsdd-dir "$fsdd_dir"}

rate=8000
tokens=(--type word)
tests=("$data/test_official.jsonl")
voices=()
judge=(../asr1/run.sh --host "$host" --size "$judge" --test_speaker "$speaker" --fsdd_dir "$fsdd_dir") by=
. ../../rich.sh
