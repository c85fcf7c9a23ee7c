"""Text tokenizers (SentencePiece), as folders that both hosts can read.

A folder has `tokenizer.model`, `tokenizer.vocab` and `vocab.txt`, as NeMo's `tokenizer: {dir: DIR, type: bpe}` wants.

Kudo and Richardson, "SentencePiece: A simple and language independent subword tokenizer and detokenizer for neural
text processing" (https://arxiv.org/abs/1808.06226).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from sigmel.errors import SigmelError, reading
from sigmel.files.atomic import atomic_dir

TYPES = ("unigram", "bpe", "char", "word")


def train_tokenizer(texts: Iterable[str], folder: Path, model_type: str = "unigram", vocab_size: int = 64) -> int:
    """Train a tokenizer that covers every text.

    Args:
        texts: the transcripts; empty ones are ignored.
        folder: written when the tokenizer is complete; must not exist yet.
        model_type: "unigram", "bpe", "char" or "word". Default: "unigram".
        vocab_size: number of pieces, `<unk>` included; a small text gives fewer. Unused by "char" and "word", whose
            size is that of the text's alphabet or vocabulary. Default: 64.

    Returns:
        The number of pieces.

    Raises:
        SigmelError: no text, an unknown type, or a vocabulary smaller than the text's alphabet.
    """
    if model_type not in TYPES:
        raise SigmelError(f"tokenizer type {model_type!r} is unknown; one of {', '.join(TYPES)}")
    sentences = [text for text in texts if text.strip()]
    if not sentences:
        raise SigmelError("no text to train a tokenizer on: every transcript is empty")
    alphabet = sorted({character for text in sentences for character in text.replace(" ", "▁")} | {"▁"})
    if model_type in ("unigram", "bpe") and vocab_size <= len(alphabet):
        raise SigmelError(
            f"a vocabulary of {vocab_size} cannot hold the text's {len(alphabet)} characters and <unk>; "
            f"take at least {len(alphabet) + 1}"
        )
    if model_type == "word":
        vocab_size = len({word for text in sentences for word in text.split()}) + 1
    elif model_type == "char":
        vocab_size = len(alphabet) + 1

    with atomic_dir(folder) as temporary:
        SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_prefix=str(temporary / "tokenizer"),
            model_type=model_type,
            vocab_size=vocab_size,
            hard_vocab_limit=False,  # a small text gives fewer pieces
            character_coverage=1.0,
            bos_id=-1,
            eos_id=-1,
            minloglevel=2,
        )
        processor = load_tokenizer(temporary)
        for text in sentences:
            if missing := uncovered(processor, text):
                raise SigmelError(f"the {model_type} tokenizer does not cover {missing!r} of {text!r}")
        size = processor.get_piece_size()
        pieces = (processor.id_to_piece(i) for i in range(size) if not processor.is_unknown(i))
        # NeMo also wants the pieces in WordPiece notation.
        lines = (piece[1:] or piece if piece.startswith("▁") else f"##{piece}" for piece in pieces)
        (temporary / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return size


def load_tokenizer(path: Path) -> SentencePieceProcessor:
    """Load a tokenizer: a file, or the `tokenizer.model` of a folder.

    Raises:
        SigmelError: there is no such file, or the file is not a SentencePiece model.
    """
    path = Path(path) / "tokenizer.model" if Path(path).suffix != ".model" else Path(path)
    if not path.is_file():
        raise SigmelError(f"{path}: no such file; train a tokenizer first (sigmel tokenizer)")
    with reading(path, "a SentencePiece model"):
        return SentencePieceProcessor(model_file=str(path))


def uncovered(processor: SentencePieceProcessor, text: str) -> list[str]:
    """The parts of a text that the tokenizer has no piece for."""
    pieces = processor.encode(text, out_type=str)
    return [piece for piece in pieces if processor.is_unknown(processor.piece_to_id(piece))]
