"""A causal language model of Hugging Face's, against its own loss."""

import pytest
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from sigmel.decoding.search.rescoring import CausalLM
from sigmel.errors import SigmelError

WORDS = ["<s>", "</s>", "one", "two", "three"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small model with random weights, and a tokenizer of words."""
    path = tmp_path_factory.mktemp("lm")
    words = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="two"))
    words.pre_tokenizer = Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>").save_pretrained(
        path
    )
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=len(WORDS), n_positions=16, n_embd=8, n_layer=1, n_head=2)
    config.initializer_range = 1.0
    transformers.GPT2LMHeadModel(config).save_pretrained(path)
    return path


def test_scores_are_what_the_model_was_trained_for(folder):
    texts = [["one", "two"], ["three"], [], ["two", "two", "one", "three"]]
    found = CausalLM(folder, batch_size=3)(texts)
    model = transformers.GPT2LMHeadModel.from_pretrained(folder).eval()
    for text, score in zip(texts, found, strict=True):
        ids = torch.tensor([[0, *map(WORDS.index, text), 1]])
        with torch.no_grad():
            loss = float(model(ids, labels=ids).loss)  # the mean over all tokens but the first
        assert score == pytest.approx(-loss * (len(text) + 1), abs=1e-4)


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(SigmelError, match="no causal language model"):
        CausalLM(tmp_path)
