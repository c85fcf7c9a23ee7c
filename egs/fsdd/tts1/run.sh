#!/usr/bin/env bash
# RichTTS with ESPnet, on connected digits: ../rich1/run.sh --host espnet --task tts, whose options it takes.

exec "$(dirname "${BASH_SOURCE[0]}")/../rich1/run.sh" --host espnet --task tts "$@"
