# Stages 2 to 6 of RichASR and RichTTS. Sourced by a run.sh, which has made `data` and set
#   rate      sample rate of the dMel tokens, in Hz
#   tokens    options of `sigmel tokenizer`
#   tests     manifests to recognise; RichTTS says the texts of the first
#   voices    options of `sigmel speak`
#   judge     command that trains the recogniser that judges RichTTS, unless `recogniser` is that model
#   by        label of a judge other than the usual one

# encode_dmel SET: make dMel tokens of a set. Archives appear one by one; the file `complete` says that all are there.
encode_dmel() {
  local status=0
  sigmel dmel encode "$data/$1.jsonl" --output "$data/dmel/$1" --sample-rate "$rate" || status=$?
  [ "$status" -gt 1 ] || touch "$data/dmel/$1/complete" # 1: but for recordings that the command has listed
  return "$status"
}

make_tokens "${tokens[@]}"

train=$data/train.jsonl valid=$data/dev.jsonl
if [ "$host" = nemo ]; then # ESPnet makes dMel tokens while it trains
  run_stage 2 "dMel of train" "$data/dmel/train/complete" encode_dmel train
  run_stage 2 "dMel of dev" "$data/dmel/dev/complete" encode_dmel dev
  train=$data/dmel/train valid=$data/dmel/dev
fi

train_model "$train" "$valid"

if [ "$task" = asr ]; then
  recogniser=$model
else
  run_stage 4 speak "$exp/spoken" sigmel speak "$model" "${tests[0]}" --output "$exp/spoken" "${voices[@]}"

  # The recordings made of dMel tokens again: no speech from dMel can be better.
  recorded=$(basename "${tests[0]}" .jsonl)
  run_stage 4 "dMel of $recorded" "$data/dmel/$recorded/complete" encode_dmel "$recorded"
  run_stage 4 copy "$data/copied.jsonl" \
    sigmel dmel decode "$data/dmel/$recorded" --output "$data/copied" --manifest "$data/copied.jsonl"
  tests=("$exp/spoken/spoken.jsonl" "$data/copied.jsonl" "${tests[@]}")

  if [ -z "${recogniser-}" ]; then
    recogniser=$("${judge[@]}" --print model)
    run_stage 4 "recogniser that judges" "$recogniser" "${judge[@]}" --stop_stage 3 --python "$python"
  fi
fi
decode 4 "$by" "$recogniser"
score 5 "$by"
run_stage 6 plots "$exp/plots" sigmel plot "$exp" --output "$exp/plots"

[ "$stop_stage" -lt 5 ] || sigmel results "$exp/results.json"
