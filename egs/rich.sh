# What the recipes of RichASR and RichTTS share: all but their data. Sourced by their path.sh, after common.sh.
# They set `data`, `exp`, `task` and the options of common.sh.

# encode_dmel MANIFEST FOLDER RATE: a killed one goes on, and a folder that is there is complete.
encode_dmel() {
  "$python" -m sigmel.cli dmel encode "$1" --output "$2.partial" --sample-rate "$3"
  mv "$2.partial" "$2"
}

# rich_train RATE TOKENIZER_OPTION...: stages 2 and 3. Sets `model`, the file that training makes. ESPnet makes tokens of
# speech while it trains.
rich_train() {
  local rate=$1 part command
  shift
  run_stage 2 tokens "$exp/tokenizer" \
    "$python" -m sigmel.cli tokenizer "$data/train.jsonl" --output "$exp/tokenizer" "$@"
  case $host in
    nemo)
      for part in train dev; do
        run_stage 2 "dMel of $part" "$data/dmel/$part" encode_dmel "$data/$part.jsonl" "$data/dmel/$part" "$rate"
      done
      model=$exp/model.nemo
      command=(--train "$data/dmel/train" --valid "$data/dmel/dev")
      ;;
    espnet)
      model=$exp/model.zip
      command=(--train "$data/train.jsonl" --valid "$data/dev.jsonl")
      ;;
  esac
  run_stage 3 train "$model" \
    "$python" -m sigmel.cli train --host "$host" --task "$task" --config "conf/$host/$size.yaml" --output "$exp" \
    --seed "$seed" --tokenizer "$exp/tokenizer" "${command[@]}" --set routing="$routing" attention="$attention"
}

# rich_speak TEST RATE SPEAK_OPTION...: stage 4 of RichTTS. Says the texts of a manifest (spoken), and makes its sound
# of dMel again (copied), which is as good as speech from dMel can be.
rich_speak() {
  local test=$1 rate=$2
  shift 2
  run_stage 4 speak "$exp/spoken" \
    "$python" -m sigmel.cli speak "$model" "$test" --output "$exp/spoken" "$@"
  run_stage 4 "dMel of test" "$data/dmel/test" encode_dmel "$test" "$data/dmel/test" "$rate"
  run_stage 4 copy "$data/copied.jsonl" \
    "$python" -m sigmel.cli dmel decode "$data/dmel/test" --output "$data/copied" --manifest "$data/copied.jsonl"
}

# rich_score RECOGNISER MANIFEST...: stages 4 to 6, of what a recogniser makes of manifests.
rich_score() {
  local recogniser=$1
  shift
  run_stage 4 decode "$exp/decode" \
    "$python" -m sigmel.cli transcribe "$recogniser" "$@" --output "$exp/decode"
  run_stage 5 score "$exp/score" \
    "$python" -m sigmel.cli score "$exp/decode" --output "$exp/score" --train-facts "$exp/train.json" \
    --results results.json --tag "${tags[@]}"
  run_stage 6 plots "$exp/plots" "$python" -m sigmel.cli plot "$exp" --output "$exp/plots"
  [ "$stop_stage" -lt 5 ] || "$python" -m sigmel.cli results results.json --publish .
}
