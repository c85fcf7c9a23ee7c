"""The tokens of a model, and how words are spelled with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from sigmel.data.tokenizer import load_tokenizer
from sigmel.decoding.fsa.lexicon import Lexicon, Spelling, spelled_lexicon
from sigmel.decoding.fsa.phrases import Phrases
from sigmel.errors import SigmelError

BLANKS = ("<blank>", "<blk>", "<b>", "<eps>")
SEPARATORS = ("<space>", "|", " ")


@dataclass(frozen=True)
class ModelTokens:
    """Tokens of a model.

    Attributes:
        names: the name of each number, the blank among them.
        blank: the number of the blank.
        spell: the tokens of a word; None where there are none.
        separator: see `Lexicon`.
    """

    names: tuple[str, ...]
    blank: int
    spell: Callable[[str], Spelling | None]
    separator: int | None = None

    def lexicon(self, words: list[str]) -> Lexicon:
        """Words, spelled."""
        return spelled_lexicon(words, self.spell, self.separator)

    def phrases(self, phrases: Phrases) -> Phrases:
        """Phrases of tokens instead of words; a token gains what a word did.

        Raises:
            SigmelError: one that cannot be spelled.
        """
        found = []
        for phrase in phrases.anywhere:
            spelled = [self.spell(word) for word in phrase.words]
            if None in spelled:
                raise SigmelError(f"the model's tokens cannot spell {' '.join(phrase.words)!r}")
            between = () if self.separator is None else (self.separator,)
            numbers = [number for word in spelled for number in (*between, *(word or ()))][len(between) :]
            found.append(replace(phrase, words=tuple(self.names[number] for number in numbers)))
        return replace(phrases, anywhere=tuple(found))

    def themselves(self) -> Lexicon:
        """Every token but the blank as a word of its own."""
        return Lexicon({name: ((number,),) for number, name in enumerate(self.names) if number != self.blank})


def read_tokens(path: Path, bpemodel: Path | None = None, blank: str | None = None) -> ModelTokens:
    """Read a model's tokens.

    Args:
        path: a SentencePiece model or the folder of one, as NeMo has it: the blank is beyond its pieces. Or a text
            file with a token a line in the order of their numbers, as ESPnet has it (``tokens.txt``).
        bpemodel: the SentencePiece model that spells words with the tokens of a text file; without it, words are
            spelled by characters, and parted by ``<space>`` where the file has it.
        blank: the name of the blank in a text file; by default that of `BLANKS` which it has.

    Raises:
        SigmelError: no tokens, one that is there twice, none or several that may be the blank.
    """
    if path.is_dir() or path.suffix == ".model":
        processor = load_tokenizer(path)
        pieces = tuple(processor.id_to_piece(number) for number in range(processor.get_piece_size()))

        def spell_pieces(word: str) -> Spelling | None:
            numbers = processor.encode(word)
            return None if any(processor.is_unknown(number) for number in numbers) else tuple(numbers)

        return ModelTokens((*pieces, "<blk>"), len(pieces), spell_pieces)

    names = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    numbers = {name: number for number, name in enumerate(names)}
    if names == [""]:
        raise SigmelError(f"{path}: it has no token")
    if len(numbers) < len(names):
        twice = next(name for number, name in enumerate(names) if numbers[name] != number)
        raise SigmelError(f"{path}: the token {twice!r} is there twice")
    candidates = [name for name in ([blank] if blank else BLANKS) if name in numbers]
    if len(candidates) != 1:
        due = repr(blank) if blank else f"one of {', '.join(BLANKS)}"
        raise SigmelError(f"{path}: the blank is missing or not clear: {due} is due; --blank names it")
    spaces = [] if bpemodel else [name for name in SEPARATORS if name in numbers]
    speller = load_tokenizer(bpemodel) if bpemodel else None

    def spell(word: str) -> Spelling | None:
        spelled = speller.encode(word, out_type=str) if speller else list(word)
        return tuple(numbers[name] for name in spelled) if all(name in numbers for name in spelled) else None

    return ModelTokens(tuple(names), numbers[candidates[0]], spell, numbers[spaces[0]] if spaces else None)
