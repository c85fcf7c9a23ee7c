"""The tokens of a model, and the spelling of words in these tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sigmel.decoding.graph.lexicon import Lexicon, Spelling
from sigmel.decoding.graph.phrases import Phrases
from sigmel.errors import SigmelError
from sigmel.tokens.text import load_tokenizer

BLANKS = ("<blank>", "<blk>", "<b>", "<eps>")
SEPARATORS = ("<space>", "|", " ")


@dataclass(frozen=True)
class ModelTokens:
    """Tokens of a model.

    Attributes:
        names: the name of each token, the blank among them.
        blank: the number of the blank.
        spell: gives the tokens of a word; None for a word that cannot be spelled.
        separator: see `Lexicon`.
    """

    names: tuple[str, ...]
    blank: int
    spell: Callable[[str], Spelling | None]
    separator: int | None = None

    def lexicon(self, words: Iterable[str]) -> Lexicon:
        """The lexicon of words as the model spells them.

        Raises:
            SigmelError: a word cannot be spelled, or there is no word.
        """
        spelled = {word: self.spell(word) for word in dict.fromkeys(words)}
        if bad := [repr(word) for word, spelling in spelled.items() if not spelling]:
            more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
            raise SigmelError(f"the model's tokens cannot spell {', '.join(bad[:5])}{more}")
        if not spelled:
            raise SigmelError("there is no word to spell")
        return Lexicon({word: (spelling,) for word, spelling in spelled.items() if spelling}, self.separator)

    def read_lexicon(self, path: Path) -> Lexicon:
        """Read a lexicon: a line has a word and then its tokens, separated by spaces; a word may have several lines.

        Raises:
            SigmelError: a line has no tokens or a token that the model lacks, or the file has no word.
        """
        numbers = {name: number for number, name in enumerate(self.names)}
        spellings: dict[str, dict[Spelling, None]] = {}
        for at, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            word, *spelled = line.split() or [""]
            if not word:
                continue
            if not spelled:
                raise SigmelError(f"{path}:{at}: {word!r} has no tokens")
            for token in spelled:
                if token not in numbers:
                    raise SigmelError(
                        f"{path}:{at}: {word!r} is spelled with {token!r}, which is no token of the model"
                    )
            spellings.setdefault(word, {})[tuple(numbers[token] for token in spelled)] = None
        if not spellings:
            raise SigmelError(f"{path}: the lexicon has no word")
        return Lexicon({word: tuple(found) for word, found in spellings.items()}, self.separator)

    def phrases(self, phrases: Phrases) -> Phrases:
        """Phrases of tokens instead of words; each token gains the boost of a word.

        Raises:
            SigmelError: a phrase cannot be spelled.
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
        """A lexicon in which every token but the blank is a word."""
        return Lexicon({name: ((number,),) for number, name in enumerate(self.names) if number != self.blank})


def spelling_by(names: Sequence[str], split: Callable[[str], Sequence[str]]) -> Callable[[str], Spelling | None]:
    """A function that spells words, by splitting each word into names of tokens."""
    numbers = {name: number for number, name in enumerate(names)}

    def spell(word: str) -> Spelling | None:
        parts = split(word)
        return tuple(numbers[part] for part in parts) if all(part in numbers for part in parts) else None

    return spell


def characters(names: Sequence[str], blank: int) -> ModelTokens:
    """Tokens that are characters; if one of `SEPARATORS` is a token, it separates words."""
    spaces = [names.index(name) for name in SEPARATORS if name in names]
    return ModelTokens(tuple(names), blank, spelling_by(names, list), spaces[0] if spaces else None)


def read_tokens(path: Path, bpemodel: Path | None = None, blank: str | None = None) -> ModelTokens:
    """Read a model's tokens.

    Args:
        path: a SentencePiece model or its folder, as NeMo has it, where the blank comes after the pieces; or a text
            file with a token a line in the order of their numbers, as ESPnet has it (`tokens.txt`).
        bpemodel: the SentencePiece model that spells words with the tokens of a text file; without this model, words
            are spelled by characters, and separated by `<space>` where the file has it.
        blank: the name of the blank in a text file; by default the name of `BLANKS` that the file has.

    Raises:
        SigmelError: there are no tokens, a token is there twice, or the blank is missing or not clear.
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
