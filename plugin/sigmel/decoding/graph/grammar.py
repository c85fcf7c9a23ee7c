"""Regular grammars of words, in a part of the Java Speech Grammar Format, and the acceptor G.

::

    // Commands for a lamp.
    public <command> = [please] turn (on | off) the <lamp> [and <command_end>];
    <lamp> = /3/ lamp | /1/ kitchen light;

Words and `<rules>` follow each other; `|` separates alternatives, `( )` groups, `[ ]` makes optional, `*` and `+`
repeat, `/weight/` before each of several alternatives says how likely it is, `//` and `/* */` are comments. A sentence
is spelled by the rule marked `public`, or by the first rule. To keep the grammar regular, a rule may not use itself,
neither directly nor through other rules.

"JSpeech Grammar Format" (W3C Note, 2000).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sigmel.decoding.graph.graph import EPSILON, Graph, GraphBuilder
from sigmel.decoding.graph.openfst import determinized
from sigmel.errors import SigmelError

_TOKEN = re.compile(
    r"(?P<space>\s+|//[^\n]*|/\*.*?\*/)|(?P<weight>/\s*[0-9.eE+-]+\s*/)|<(?P<rule>[^<>\s]+)>|(?P<mark>[=;|()\[\]*+])"
    r"|(?P<word>[^\s=;|()\[\]*+<>/]+)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Node:
    """A part of a grammar.

    Attributes:
        kind: word, rule, sequence, choice or plus.
        name: the word, or the name of the rule.
        parts: the nodes that this node is made of.
        scores: logarithm of the probability of each part of a choice.
    """

    kind: str
    name: str = ""
    parts: tuple[Node, ...] = ()
    scores: tuple[float, ...] = ()


@dataclass(frozen=True)
class Grammar:
    """A regular grammar.

    Attributes:
        rules: name of a rule -> the node that it stands for.
        start: the name of the rule that spells a sentence.
    """

    rules: Mapping[str, Node]
    start: str

    @property
    def words(self) -> list[str]:
        """The words of the grammar's sentences."""
        found: dict[str, None] = {}

        def visit(node: Node) -> None:
            if node.kind == "word":
                found[node.name] = None
            for part in (self.rules[node.name],) if node.kind == "rule" else node.parts:
                visit(part)

        visit(self.rules[self.start])
        return list(found)

    def to_graph(self, numbers: Mapping[str, int], backoff: int) -> Graph:
        """The acceptor G of the sentences, deterministic and without epsilons.

        Args:
            numbers: the number of each word.
            backoff: not used; a grammar does not back off.
        """
        builder = GraphBuilder()
        builder.final[self._add(builder, self.rules[self.start], 0, numbers)] = 0.0
        return determinized(builder.graph())

    def _add(self, builder: GraphBuilder, node: Node, src: int, numbers: Mapping[str, int]) -> int:
        """Add the arcs of a node, from state `src` on; return the state where they end."""
        if node.kind == "rule":
            return self._add(builder, self.rules[node.name], src, numbers)
        if node.kind == "sequence":
            for part in node.parts:
                src = self._add(builder, part, src, numbers)
            return src
        if node.kind == "plus":
            begin = builder.add_state()
            builder.add_arc(src, begin, EPSILON)
            end = self._add(builder, node.parts[0], begin, numbers)
            builder.add_arc(end, begin, EPSILON)
            return end
        dst = builder.add_state()
        if node.kind == "word":
            builder.add_arc(src, dst, numbers[node.name])
        for part, score in zip(node.parts, node.scores, strict=True):  # of a choice
            begin = builder.add_state()
            builder.add_arc(src, begin, EPSILON, score=score)
            builder.add_arc(self._add(builder, part, begin, numbers), dst, EPSILON)
        return dst


def sequence(words: Iterable[str]) -> Node:
    """The node of words one after the other."""
    return Node("sequence", parts=tuple(Node("word", word) for word in words))


def _optional(node: Node) -> Node:
    return Node("choice", parts=(node, Node("sequence")), scores=(0.0, 0.0))


def read_grammar(path: Path, classes: Mapping[str, Node] | None = None) -> Grammar:
    """Read a grammar file, see `parse_grammar`."""
    return parse_grammar(path.read_text(encoding="utf-8"), str(path), classes)


def parse_grammar(text: str, name: str = "grammar", classes: Mapping[str, Node] | None = None) -> Grammar:
    """Parse a grammar.

    Args:
        text: the grammar.
        name: name of the grammar in error messages.
        classes: rules from elsewhere, such as lists of names; the text may not define them again.

    Raises:
        SigmelError: a syntax error, a rule that is missing, defined twice or uses itself, or a grammar without words;
            the message has the number of the line.
    """
    return _Parser(text, name).grammar(dict(classes or {}))


class _Parser:
    """A recursive-descent parser, with one method for each level of precedence."""

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        self.tokens: list[tuple[str, str, int]] = []  # kind, text, line
        at, line = 0, 1
        text = re.sub(r"\A#JSGF[^\n;]*;|^\s*grammar\s+[^\s;]+\s*;", "", text, flags=re.MULTILINE)
        while at < len(text):
            match = _TOKEN.match(text, at)
            if not match:
                raise SigmelError(f"{name}:{line}: {text[at : at + 10].split()[0]!r} is not understood here")
            kind = match.lastgroup or ""
            if kind != "space":
                self.tokens.append((kind, match[kind], line))
            line += match[0].count("\n")
            at = match.end()
        self.tokens.append(("end", "the end of the file", line))
        self.at = 0

    def grammar(self, rules: dict[str, Node]) -> Grammar:
        start, public = "", False
        lines: dict[str, int] = {}
        while self._kind() != "end":
            marked = bool(self._accept("word", "public"))
            rule = self._expect("rule", "<name> of a rule")
            if rule in rules:
                self._fail(f"<{rule}> is there twice", back=1)
            lines[rule] = self.tokens[self.at - 1][2]
            self._expect("mark", "'='", "=")
            rules[rule] = self._choice()
            self._expect("mark", "';'", ";")
            if marked and public:
                raise SigmelError(f"{self.name}:{lines[rule]}: only one rule can be public")
            if marked or not start:
                start, public = rule, marked
        if not start:
            raise SigmelError(f"{self.name}: the grammar is empty")
        self._check(rules, lines)
        grammar = Grammar(rules, start)
        if not grammar.words:
            raise SigmelError(f"{self.name}: <{start}> has no word")
        return grammar

    def _check(self, rules: dict[str, Node], lines: dict[str, int]) -> None:
        """Raise a SigmelError for a rule that is missing or uses itself."""
        done: set[str] = set()

        def visit(node: Node, using: tuple[str, ...]) -> None:
            if node.kind == "rule":
                at = f"{self.name}:{lines.get(using[-1], 0)}" if using else self.name
                if node.name not in rules:
                    raise SigmelError(f"{at}: there is no rule <{node.name}>")
                if node.name in using:
                    raise SigmelError(f"{at}: <{node.name}> uses itself; repeat with * or + instead")
                if node.name not in done:
                    visit(rules[node.name], (*using, node.name))
                    done.add(node.name)
            for part in node.parts:
                visit(part, using)

        for rule in rules:
            visit(Node("rule", rule), ())

    def _choice(self) -> Node:
        weights, parts = [], []
        while True:
            weight = self._accept("weight")
            weights.append(self._weight(weight) if weight else None)
            parts.append(self._sequence())
            if not self._accept("mark", "|"):
                break
        if len(parts) == 1 and weights[0] is None:
            return parts[0]
        known = [weight for weight in weights if weight is not None]
        if known and len(known) < len(parts):
            self._fail("some alternatives have a weight and some have not")
        scores = [math.log(weight / sum(known)) for weight in known] or [0.0] * len(parts)
        return Node("choice", parts=tuple(parts), scores=tuple(scores))

    def _weight(self, text: str) -> float:
        try:
            weight = float(text.strip("/ \t\n"))
        except ValueError:
            weight = math.nan
        if not 0 < weight < math.inf:
            self._fail(f"the weight {text} is no positive number", back=1)
        return weight

    def _sequence(self) -> Node:
        parts = []
        while True:
            if word := self._accept("word"):
                parts.append(Node("word", word))
            elif rule := self._accept("rule"):
                parts.append(Node("rule", rule))
            elif self._accept("mark", "("):
                parts.append(self._choice())
                self._expect("mark", "')'", ")")
            elif self._accept("mark", "["):
                parts.append(_optional(self._choice()))
                self._expect("mark", "']'", "]")
            else:
                break
            if self._accept("mark", "*"):
                parts[-1] = _optional(Node("plus", parts=(parts[-1],)))
            if self._accept("mark", "+"):
                parts[-1] = Node("plus", parts=(parts[-1],))
        if not parts:
            self._fail(f"a word or a rule is due before {self.tokens[self.at][1]!r}")
        return parts[0] if len(parts) == 1 else Node("sequence", parts=tuple(parts))

    def _kind(self) -> str:
        return self.tokens[self.at][0]

    def _accept(self, kind: str, text: str | None = None) -> str:
        """The text of the next token, which is taken, if it is of this kind; otherwise ""."""
        found_kind, found, _ = self.tokens[self.at]
        if found_kind != kind or text not in (None, found):
            return ""
        self.at += 1
        return found

    def _expect(self, kind: str, due: str, text: str | None = None) -> str:
        found = self._accept(kind, text)
        if not found:
            self._fail(f"{due} is due before {self.tokens[self.at][1]!r}")
        return found

    def _fail(self, message: str, back: int = 0) -> None:
        raise SigmelError(f"{self.name}:{self.tokens[self.at - back][2]}: {message}")
