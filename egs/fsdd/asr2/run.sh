#!/usr/bin/env bash
# RichASR with ESPnet, on connected digits: ../rich1/run.sh --host espnet --task asr, whose options it takes.

exec "$(dirname "${BASH_SOURCE[0]}")/../rich1/run.sh" --host espnet --task asr "$@"
