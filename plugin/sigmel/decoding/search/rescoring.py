"""Rescoring with a better language model: of n-best lists, or of whole lattices.

icefall calls these the n-best and the whole-lattice method.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from sigmel.decoding.graph.arpa_ngrams import NGramModel
from sigmel.decoding.graph.graph import EPSILON
from sigmel.decoding.graph.openfst import composed, reader, without_epsilons
from sigmel.decoding.search.hypothesis import Hypothesis
from sigmel.decoding.search.lattice import Lattice
from sigmel.errors import SigmelError, optional_library


def rescored_nbest(
    hypotheses: Sequence[Hypothesis],
    scores: Callable[[list[list[str]]], Sequence[float]],
    scale: float = 1.0,
    keep: float = 0.0,
) -> list[Hypothesis]:
    """Hypotheses with the scores of a language model, best first.

    Args:
        hypotheses: see `Lattice.nbest`; a hypothesis without a path keeps its score of -inf.
        scores: gives the logarithm of the probability of each of several sentences, given as words: an n-gram model's
            `lambda texts: map(model.score_sentence, texts)`, or a neural model, which gets all sentences at once.
        scale: factor of the language model's scores.
        keep: factor of the scores of the graph that was searched.

    Raises:
        SigmelError: `scores` gave another number of scores than sentences.
    """
    found = list(scores([[word.name for word in hypothesis.words] for hypothesis in hypotheses]))
    if len(found) != len(hypotheses):
        raise SigmelError(f"the language model gave {len(found)} scores for {len(hypotheses)} sentences")
    rescored = []
    for hypothesis, score in zip(hypotheses, found, strict=True):
        if hypothesis.score > -math.inf:
            graph_score = keep * hypothesis.graph_score + scale * float(score)
            model_score = hypothesis.score - hypothesis.graph_score
            hypothesis = replace(hypothesis, score=model_score + graph_score, graph_score=graph_score)
        rescored.append(hypothesis)
    return sorted(rescored, key=lambda hypothesis: (-hypothesis.score, hypothesis.text))


class LatticeRescorer:
    """Rescores lattices with an n-gram model, instead of or in addition to the graph that was searched.

    Args:
        model: the language model; as in a graph, backing off is always possible, even where an n-gram is known.
        names: the words of the graph, see `Lexicon.words`.
        scale: factor of the language model's scores.
        keep: factor of the scores of the graph.

    Raises:
        SigmelError: the model lacks words of the graph.
    """

    def __init__(self, model: NGramModel, names: Sequence[str], scale: float = 1.0, keep: float = 0.0) -> None:
        known = set(model.words)
        if missing := [name for name in names[1:] if name not in known]:
            some = ", ".join(missing[:5])
            raise SigmelError(f"the language model to rescore with lacks {len(missing)} words of the graph: {some}")
        numbers = {name: number for number, name in enumerate(names) if number}
        self._language = reader(model.to_graph(numbers, EPSILON).scaled(scale))
        self._keep = keep

    def __call__(self, lattice: Lattice, beam: float) -> Lattice:
        """Rescore a lattice.

        Args:
            lattice: the paths of an utterance.
            beam: how much worse than the best a path of the result may be.
        """
        paths = lattice.graph.scaled(self._keep)
        found = without_epsilons(composed(paths, self._language))
        return Lattice.canonical(lattice.source, lattice.log_probs, found, beam, lattice.complete)


class CausalLM:
    """A causal language model of Hugging Face's that scores sentences, for `rescored_nbest`.

    Args:
        name: a folder with a model and its tokenizer, as `save_pretrained` writes them, or their name on the hub.
        device: where to compute. Default: the CPU.
        batch_size: sentences at a time. Default: 32.

    Raises:
        SigmelError: transformers is not installed, there is no such model, or its tokenizer has no token that ends a
            text.
    """

    def __init__(self, name: str | Path, device: str | torch.device = "cpu", batch_size: int = 32) -> None:
        transformers = optional_library("transformers", "a neural language model needs", "pip install transformers")
        try:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(str(name))
            self._model: torch.nn.Module = transformers.AutoModelForCausalLM.from_pretrained(str(name)).eval()
        except (OSError, ValueError) as error:
            raise SigmelError(f"{name}: no causal language model ({error})") from error
        if self._tokenizer.eos_token_id is None:
            raise SigmelError(f"{name}: its tokenizer has no token that ends a text")
        self._model.to(device)
        self._device, self._batch_size = device, batch_size

    @torch.no_grad()
    def __call__(self, texts: Sequence[Sequence[str]]) -> list[float]:
        """The natural logarithm of the probability of each sentence, including its end.

        Args:
            texts: the words of each sentence.
        """
        scores: list[float] = []
        for begin in range(0, len(texts), self._batch_size):
            tokens = [self._tokens(words) for words in texts[begin : begin + self._batch_size]]
            ids = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True).to(self._device)
            exists = torch.arange(ids.shape[1]) < torch.tensor([len(numbers) for numbers in tokens])[:, None]
            exists = exists.to(self._device)
            log_probs = self._model(input_ids=ids, attention_mask=exists.long()).logits[:, :-1].float().log_softmax(-1)
            of_token = log_probs.gather(2, ids[:, 1:, None])[..., 0]
            scores += of_token.masked_fill(~exists[:, 1:], 0.0).sum(1).tolist()
        return scores

    def _tokens(self, words: Sequence[str]) -> torch.Tensor:
        """The tokens of a text, with those for its begin and its end; in some models these two are one token."""
        end = self._tokenizer.eos_token_id
        begin = end if self._tokenizer.bos_token_id is None else self._tokenizer.bos_token_id
        return torch.tensor([begin, *self._tokenizer.encode(" ".join(words), add_special_tokens=False), end])
