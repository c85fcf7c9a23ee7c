"""Sentences as a causal language model of Hugging Face's rates them, to rescore n-best lists with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from sigmel.errors import SigmelError


class CausalLM:
    """Gives sentences their scores; what `rescoring.rescored_nbest` asks for.

    Args:
        name: a folder with a model and its tokenizer, as ``save_pretrained`` writes them, or their name on the hub.
        device: where it computes. Default: the CPU.
        batch_size: sentences at a time. Default: 32.

    Raises:
        SigmelError: transformers is not installed, there is no such model, or its tokenizer has no token that ends a
            text.
    """

    def __init__(self, name: str | Path, device: str | torch.device = "cpu", batch_size: int = 32) -> None:
        try:
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ImportError as error:
            raise SigmelError("a neural language model needs transformers: pip install transformers") from error
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(str(name))
            self._model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(str(name)).eval()
        except (OSError, ValueError) as error:
            raise SigmelError(f"{name}: no causal language model ({error})") from error
        if self._tokenizer.eos_token_id is None:
            raise SigmelError(f"{name}: its tokenizer has no token that ends a text")
        self._model.to(device)
        self._device, self._batch_size = device, batch_size

    @torch.no_grad()
    def __call__(self, texts: Sequence[Sequence[str]]) -> list[float]:
        """The natural logarithm of the probability of each sentence, its end included.

        Args:
            texts: the words of each.
        """
        scores: list[float] = []
        for begin in range(0, len(texts), self._batch_size):
            tokens = [self._tokens(words) for words in texts[begin : begin + self._batch_size]]
            ids = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True).to(self._device)
            exists = torch.arange(ids.shape[1]) < torch.tensor([len(one) for one in tokens])[:, None]
            exists = exists.to(self._device)
            log_probs = self._model(input_ids=ids, attention_mask=exists.long()).logits[:, :-1].float().log_softmax(-1)
            of_token = log_probs.gather(2, ids[:, 1:, None])[..., 0]
            scores += of_token.masked_fill(~exists[:, 1:], 0.0).sum(1).tolist()
        return scores

    def _tokens(self, words: Sequence[str]) -> torch.Tensor:
        """What begins a text, its tokens, and what ends it; some models have one token for both."""
        end = self._tokenizer.eos_token_id
        begin = end if self._tokenizer.bos_token_id is None else self._tokenizer.bos_token_id
        return torch.tensor([begin, *self._tokenizer.encode(" ".join(words), add_special_tokens=False), end])
