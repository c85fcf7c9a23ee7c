# Stage 7: decode by graphs. Sourced by a run.sh, which has made `model` and set `tests` and `grammar`, a JSGF file.

case $host in
  nemo) tokens=(--tokens "$exp/tokenizer") ;;
  espnet) tokens=(--tokens "$exp/tokens.txt" --bpemodel "$exp/tokenizer/tokenizer.model") ;;
esac

# graph NAME OPTION...: make a graph of the tokens and the OPTIONS.
graph() {
  run_stage 7 "graph of $1" "$exp/$1.npz" sigmel graph build "${tokens[@]}" "${@:2}" --output "$exp/$1.npz"
}

# ngrams NAME ORDER: train an n-gram language model on the text of the training set.
ngrams() {
  run_stage 7 "$1" "$exp/$1.arpa" sigmel lm train "$data/train.jsonl" --order "$2" --output "$exp/$1.arpa"
}

# decode_by NAME GRAPH OPTION...: decode by a graph, and score; rows of results have graph=NAME.
decode_by() {
  decode 7 "_$1" "$model" --graph "$exp/$2.npz" "${@:3}"
  score 7 "_$1" graph="$1"
}

graph tokens
decode_by tokens tokens

ngrams trigram 3
graph trigram --lm "$exp/trigram.arpa"
decode_by trigram trigram

ngrams fivegram 5
decode_by rescored trigram --rescore "$exp/fivegram.arpa"

graph grammar --grammar "$grammar"
decode_by grammar grammar
