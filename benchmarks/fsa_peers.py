#!/usr/bin/env python3
"""Graph decoding beside pyctcdecode and NeMo's batched beam search: the same frames, the same language models.

Frames of a trained model with subwords, n-grams of its training text:

    benchmarks/fsa_peers.py exp/<name>/model.nemo data/<version>/test_ood.jsonl data/<version>/train.jsonl \
        --pyctcdecode PYTHON

PYTHON is that of an environment with pyctcdecode and kenlm (python -m venv DIR; DIR/bin/pip install pyctcdecode
kenlm); they cannot stand in NeMo's, as pyctcdecode needs an older NumPy. pyctcdecode follows n-grams of words, NeMo's
search n-grams of tokens, so there is a comparison for each. One thread; a beam is what the peer keeps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from fsa import error_rate
from harness import Row, options, report, row
from tqdm import tqdm

from sigmel.decoding.graph.arpa_ngrams import train_ngrams, write_arpa
from sigmel.decoding.graph.build import build
from sigmel.decoding.graph.lexicon import Lexicon
from sigmel.decoding.graph.tokens import ModelTokens
from sigmel.decoding.search.graph_decoder import GraphDecoder
from sigmel.errors import exit_status
from sigmel.files.manifest import read_rows
from sigmel.recipes import at_least

WEIGHTS = ((1.0, 0.0), (0.5, 1.5))  # of the language model, and of a word: as it is, and as pyctcdecode has it
WORD_ORDER, TOKEN_ORDER = 3, 4
PYCTCDECODE_BEAMS, NEMO_BEAMS = (10, 100), (4, 16)
BATCH = 16  # of NeMo's search

Frames = list[np.ndarray]


def timed(work: Callable[[], list[str]], repeats: int) -> tuple[float, list[str]]:
    """The median time of some work in seconds, and the texts that it found."""
    times, found = [], []
    for _ in range(repeats):
        began = time.perf_counter()
        found = work()
        times.append(time.perf_counter() - began)
    return statistics.median(times), found


def by_graph(decoder: GraphDecoder, frames: Frames, text: Callable[[Sequence[str]], str] | None = None) -> list[str]:
    """Decode utterance by utterance; of tokens, `text` makes words."""
    batches = ((torch.from_numpy(utterance)[None], torch.tensor([len(utterance)])) for utterance in frames)
    paths = [decoder.decode(*batch)[0] for batch in batches]
    return [text([token.name for token in path.tokens]) if text else path.text for path in paths]


def pyctcdecode(python: str, folder: Path, tokens: ModelTokens, words: list[str], **task: float) -> dict:
    """The answer of `pyctcdecode_peer.py`: median seconds, and texts."""
    labels = ["" if number == tokens.blank else name for number, name in enumerate(tokens.names)]
    (folder / "task.json").write_text(json.dumps({"labels": labels, "words": words, **task}))
    command = [python, str(Path(__file__).with_name("pyctcdecode_peer.py")), str(folder)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def beam_search(infer: Callable, frames: Frames, text: Callable[[list[int]], str]) -> list[str]:
    """NeMo's search, in batches of like lengths."""
    order = sorted(range(len(frames)), key=lambda at: -len(frames[at]))
    found = [""] * len(frames)
    for begin in range(0, len(order), BATCH):
        some = order[begin : begin + BATCH]
        batch = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(frames[at]) for at in some], batch_first=True)
        (paths,) = infer(decoder_output=batch, decoder_lengths=torch.tensor([len(frames[at]) for at in some]))
        for at, path in zip(some, paths, strict=True):
            found[at] = text([int(token) for token in path.y_sequence])
    return found


def beside(
    case: str, peer: str, said: list[str], ours: tuple[float, list[str]], theirs: tuple[float, list[str]]
) -> list[Row]:
    """Two rows: errors and time."""
    return [
        row(case, "% WER", error_rate(ours[1], said), peer, error_rate(theirs[1], said), digits=2),
        row(case, "s", ours[0], peer, theirs[0]),
    ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="a .nemo model with subwords")
    parser.add_argument("manifest", type=Path, help="what is decoded")
    parser.add_argument("text", type=Path, help="a manifest with the text that n-grams are made of")
    parser.add_argument("--pyctcdecode", metavar="PYTHON", help="Python of an environment with pyctcdecode and kenlm")
    parser.add_argument("--utterances", type=at_least(1), default=200, help="at most; default: %(default)s")


def main() -> None:
    """Run everything."""
    args = options(__doc__, add_arguments, repeats=3)
    from sigmel.hosts.nemo.ctc import CTCModel  # first: one line says that NeMo is missing  # isort: skip
    from nemo.collections.asr.parts.submodules.ctc_beam_decoding import BeamBatchedCTCInfer
    from nemo.collections.asr.parts.submodules.ngram_lm import DEFAULT_TOKEN_OFFSET

    torch.set_num_threads(1)
    model = CTCModel(args.model)
    tokens, tokenizer = model.tokens, model.model.tokenizer
    manifest = read_rows(args.manifest)[: args.utterances]
    texts = [utterance["text"].split() for utterance in read_rows(args.text)]
    said, frames = [utterance["text"] for utterance in manifest], [model.log_probs(row) for row in tqdm(manifest)]
    results: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = train_ngrams(texts, WORD_ORDER)
        write_arpa(words, folder / "lm.arpa")
        np.savez(folder / "frames.npz", **{str(at): utterance for at, utterance in enumerate(frames)})
        for lm_scale, word_score in WEIGHTS if args.pyctcdecode else ():
            weights = {"lm_scale": lm_scale, "word_score": word_score}
            graph = build(tokens.names, tokens.blank, tokens.lexicon(words.words), words, **weights)
            decoder = GraphDecoder(graph, "kaldi")
            ours = timed(lambda decoder=decoder: by_graph(decoder, frames), args.repeats)
            case = f"{WORD_ORDER}-grams of words, weighed {lm_scale:g}, {word_score:g} a word"
            for beams in PYCTCDECODE_BEAMS:
                task = {**weights, "beams": beams, "repeats": args.repeats}
                answer = pyctcdecode(args.pyctcdecode, folder, tokens, words.words, **task)
                peer = f"pyctcdecode, {beams} beams"
                results += beside(case, peer, said, ours, (answer["seconds"], answer["texts"]))

        # NeMo's n-grams have characters for tokens.
        names = [chr(number + DEFAULT_TOKEN_OFFSET) for number in range(len(tokens.names) - 1)]
        spelled = [[names[number] for number in tokenizer.text_to_ids(" ".join(text))] for text in texts]
        pieces = train_ngrams(spelled, TOKEN_ORDER)
        write_arpa(pieces, folder / "tokens.arpa")
        lexicon = Lexicon({name: ((number,),) for number, name in enumerate(names) if name in set(pieces.words)})
        decoder = GraphDecoder(build(tokens.names, tokens.blank, lexicon, pieces), "kaldi")
        ours = timed(lambda: by_graph(decoder, frames, tokenizer.tokens_to_text), args.repeats)
        for beams in NEMO_BEAMS:
            infer = BeamBatchedCTCInfer(
                tokens.blank, beams, ngram_lm_model=str(folder / "tokens.arpa"), allow_cuda_graphs=False
            )
            theirs = timed(lambda infer=infer: beam_search(infer, frames, tokenizer.ids_to_text), args.repeats)
            results += beside(f"{TOKEN_ORDER}-grams of tokens", f"NeMo, {beams} beams", said, ours, theirs)
    report(results, args.json)


if __name__ == "__main__":
    sys.exit(exit_status(main))
