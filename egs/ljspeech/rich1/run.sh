#!/usr/bin/env bash
# LJSpeech by a language model over dMel tokens: RichASR reads them and writes letters, RichTTS reads letters and writes
# them.
#
# Usage: ./run.sh [--task asr|tts] [--ljspeech_dir DIR] [--recogniser MODEL.nemo] [--stage N] [--stop_stage N]
#                 [--size asr|tts] [--routing dense|switch|omni|path:<k>] [--attention softmax|sigmoid] [--seed S]
#                 [--python PYTHON]
#
# --ljspeech_dir is a copy of the dataset, or of a part of it; without one it is downloaded (2.7 GB) into downloads/.
# --recogniser is a model of NeMo's that judges what RichTTS says; without one, RichASR of this recipe does.
# Stages: 1 data, 2 tokens of speech and text, 3 train, 4 speak and decode, 5 score, 6 plots. A stage whose result
# exists is skipped, and a killed run goes on where it stopped. Results lie in data/ and
# exp/nemo_<size>_<routing>_seed<S>/; remove what is to be made again. --size names a file in conf/nemo/ (default: the
# task's, for a GPU; nano and nano_tts are for tests).

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. ./path.sh

stage=1 stop_stage=6 host=nemo size= routing=dense attention=softmax seed=1 python= task=asr ljspeech_dir= recogniser=
parse_options "stage stop_stage size routing attention seed python task ljspeech_dir recogniser" "$@"
check task 'asr|tts'
size=${size:-$task}
check_options
ljspeech_dir=$(absolute "$ljspeech_dir")
recogniser=$(absolute "$recogniser")

case $size in # clips to look on while training, and to test with
  nano*) clips=4 reader=nano ;;
  *) clips=250 reader=asr ;;
esac
data=data/test$clips
exp=exp/$system

run_stage 1 data "$data" "$python" local/data.py --output "$data" --dev "$clips" --test "$clips" \
  ${ljspeech_dir:+--ljspeech-dir "$ljspeech_dir"}
rich_train 16000 --type char

if [ "$task" = asr ]; then
  rich_score "$model" "$data/test.jsonl"
else
  rich_speak "$data/test.jsonl" 16000
  if [ -z "$recogniser" ]; then
    recogniser=exp/nemo_${reader}_dense_seed1/model.nemo
    run_stage 4 recogniser "$recogniser" ./run.sh --task asr --size "$reader" --stop_stage 3 \
      --ljspeech_dir "$ljspeech_dir" --python "$python"
  fi
  rich_score "$recogniser" "$exp/spoken/spoken.jsonl" "$data/copied.jsonl" "$data/test.jsonl"
fi
