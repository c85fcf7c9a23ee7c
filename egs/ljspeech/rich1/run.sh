#!/usr/bin/env bash
# LJSpeech by a language model over dMel tokens: RichASR reads dMel tokens and writes letters, RichTTS reads letters and
# writes dMel tokens.
#
# Usage: ./run.sh [--task asr|tts] [--ljspeech_dir DIR] [--recogniser MODEL.nemo] [--stage N] [--stop_stage N]
#                 [--size asr|tts] [--routing dense|switch|omni|path:<k>] [--attention softmax|sigmoid] [--seed S]
#                 [--python PYTHON] [--print data|exp|model]
#
# --ljspeech_dir is a copy of the dataset, or of a part of it; without this option the dataset is downloaded (2.7 GB)
# into downloads/. --recogniser is a model of NeMo that judges what RichTTS says; without this option RichASR of this
# recipe judges.
# Stages: 1 data, 2 tokens of speech and text, 3 train, 4 speak and decode, 5 score, 6 plots. A stage whose result
# exists is skipped, and a killed run goes on where it stopped. Results lie in data/ and
# exp/nemo_<size>_<routing>_seed<S>/, or in another folder for other options, which --print names; remove what is to be
# made again. --size names a file in conf/nemo/ (default: the task's, for a GPU; nano and nano_tts are for tests).

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. ../../common.sh

read_options "$@"
task_option
path_option ljspeech_dir
experiment
path_option recogniser # decides what is heard, not what is trained
by=$label
end_of_options

case $size in # clips to validate with, and to test with; the size of RichASR that judges
  nano*) clips=4 reader=nano ;;
  *) clips=250 reader=asr ;;
esac
make_data local/data.py --dev "$clips" --test "$clips" ${ljspeech_dir:+--ljspeech-dir "$ljspeech_dir"}

rate=16000
tokens=(--type char)
tests=("$data/test.jsonl")
voices=()
judge=(./run.sh --task asr --size "$reader" --ljspeech_dir "$ljspeech_dir")
. ../../rich.sh
