#!/usr/bin/env bash
# LJSpeech by a language model over dMel tokens: RichASR reads dMel tokens and writes letters, RichTTS reads letters and
# writes dMel tokens.
#
# Usage: ./run.sh [--task asr|tts] [--ljspeech_dir DIR] [--recogniser MODEL.nemo] [--OPTION VALUE ...]
#
# --ljspeech_dir is a copy of the dataset, or of a part of it; without this option the dataset is downloaded (2.7 GB)
# into downloads/. --recogniser is a model of NeMo that judges what RichTTS says; without this option RichASR of this
# recipe judges.
# Sizes: asr, tts (default: the task's), for a GPU.

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
