"""The tokens of a model, and how words are spelled with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sigmel.decoding.graph.lexicon import Lexicon, Spelling, read_lexicon, spelled_lexicon
from sigmel.decoding.graph.phrases import Phrases
from sigmel.errors import SigmelError
from sigmel.tokens.text import load_tokenizer

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

    def read_lexicon(self, path: Path) -> Lexicon:
        """Words as a file spells them, see `read_lexicon`."""
        return read_lexicon(path, self.names, None if self.separator is None else self.names[self.separator])

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


def spelling_by(names: Sequence[str], split: Callable[[str], Sequence[str]]) -> Callable[[str], Spelling | None]:
    """Spell a word with the names of tokens into which it is split."""
    numbers = {name: number for number, name in enumerate(names)}

    def spell(word: str) -> Spelling | None:
        parts = split(word)
        return tuple(numbers[part] for part in parts) if all(part in numbers for part in parts) else None

    return spell


def characters(names: Sequence[str], blank: int) -> ModelTokens:
    """Tokens that are characters; words are parted by that of `SEPARATORS` which is among them."""
    spaces = [names.index(name) for name in SEPARATORS if name in names]
    return ModelTokens(tuple(names), blank, spelling_by(names, list), spaces[0] if spaces else None)


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
    if bpemodel:
        encode = load_tokenizer(bpemodel).encode
        spell = spelling_by(names, lambda word: encode(word, out_type=str))
        return ModelTokens(tuple(names), numbers[candidates[0]], spell)
    return characters(names, numbers[candidates[0]])
