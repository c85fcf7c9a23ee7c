"""n-gram models: read, written, trained and scored."""

import gzip
import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sigmel.decoding.graph.arpa_ngrams import END, UNKNOWN, read_arpa, train_ngrams, write_arpa
from sigmel.errors import SigmelError

ARPA = """made by hand

\\data\\
ngram 1=4
ngram 2=2

\\1-grams:
-99\t<s>\t-0.25
-1.5\t</s>
-1\tturn\t-0.5
-0.5 on

\\2-grams:
-0.125\t<s> turn
-0.25\tturn on

\\end\\
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="lm.arpa"):
        path = tmp_path / name
        if name.endswith(".gz"):
            path.write_bytes(gzip.compress(text.encode()))
        else:
            path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("name", ["lm.arpa", "lm.arpa.gz"])
def test_scores_back_off_as_the_format_says(write, name):
    model = read_arpa(write(ARPA, name))
    assert (model.order, model.words) == (2, ["turn", "on"])
    in_tens = {
        ("turn", ("<s>",)): -0.125,
        ("on", ("<s>", "turn")): -0.25,
        ("turn", ("turn",)): -1.5,  # backs off
        ("on", ("<s>",)): -0.75,
        ("on", ("on",)): -0.5,  # a history without a weight
        ("</s>", ()): -1.5,
        ("lamp", ()): -math.inf,
    }
    for (word, history), score in in_tens.items():
        assert model.score(word, history) == pytest.approx(score * math.log(10))
    assert model.score_sentence(["turn", "on"]) == pytest.approx((-0.125 - 0.25 - 1.5) * math.log(10))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "", "not an ARPA file: there is no line"),
        (lambda text: text.replace("ngram 1=4", "ngram 1=5"), ":13: .* promises 5 1-grams, but there are 4"),
        (lambda text: text.replace("ngram 2=2", "ngram 2=3"), "promises 3 2-grams, but there are 2"),
        (lambda text: text.replace("ngram 2=2", "ngram 3=2"), ":5: 'ngram 3=2' is not 'ngram 2=<count>'"),
        (lambda text: text.replace("ngram 2=2\n", "ngram 2=2\nngram 3=1\n"), "promises 3 orders, but there are 2"),
        (lambda text: text.replace("-0.5 on", "x on"), ":11: 'x on' has no number"),
        (lambda text: text.replace("-0.5 on", "0.5 on"), ":11: .*at most 0"),
        (lambda text: text.replace("turn on\n", "turn\n"), ":15: .*is no 2-gram|no number"),
        (lambda text: text.replace("turn on\n", "lamp on\n"), ":15: 'lamp on': its history 'lamp' is no 1-gram"),
        (lambda text: text.replace("\\end\\", ""), "ends before"),
        (lambda text: text.replace("\\2-grams:", "\\3-grams:"), "is not expected here"),
        (lambda text: text.replace("-0.5 on", "-0.5 turn"), "promises 4 1-grams, but there are 3 different"),
    ],
)
def test_broken_files_are_refused_with_the_line(write, change, message):
    with pytest.raises(SigmelError, match=message):
        read_arpa(write(change(ARPA)))


def test_what_is_no_text_is_refused(tmp_path):
    (tmp_path / "lm.arpa").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "lm.arpa.gz").write_bytes(b"nothing")
    for name in ("lm.arpa", "lm.arpa.gz"):
        with pytest.raises(SigmelError, match="not an ARPA file"):
            read_arpa(tmp_path / name)


texts = st.lists(st.lists(st.sampled_from("abcd"), max_size=5), min_size=1, max_size=8)


@given(sentences=texts, order=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_probabilities_after_any_history_sum_to_one(sentences, order):
    model = train_ngrams(sentences, order)
    predicted = [word for (word,) in model.ngrams[0] if word != "<s>"]
    assert UNKNOWN in predicted
    assert END in predicted
    histories = {ngram[:-1] for ngrams in model.ngrams for ngram in ngrams} | {("<s>",)}
    for history in histories:
        assert sum(math.exp(model.score(word, history)) for word in predicted) == pytest.approx(1.0)


def test_kneser_ney_counts_contexts_not_occurrences():
    # "francisco" is frequent, but only after "san": alone it is less likely than "glass".
    text = [["san", "francisco"]] * 6 + [["a", "glass"], ["the", "glass"], ["his", "glass"]]
    model = train_ngrams(text, 2)
    assert model.score("glass", ()) > model.score("francisco", ())
    assert model.score("francisco", ("san",)) > math.log(0.7)


def test_discounts_are_those_of_chen_and_goodman():
    # Bigrams "w <n>" seen 1, 1, 1, 2, 2, 3, 4 times: D1 = 1 - 2 Y n2 / n1 with Y = n1 / (n1 + 2 n2).
    times = [1, 1, 1, 2, 2, 3, 4]
    model = train_ngrams([["w", str(at)] for at, count in enumerate(times) for _ in range(count)], 2)
    # After "w" only these; with "<s> w" (14 times) and "<at> </s>" the counts of counts are n1 = 6, n2 = 4, ...
    counts = [*times, *times, 14]
    n1, n2 = counts.count(1), counts.count(2)
    discount = 1 - 2 * n1 / (n1 + 2 * n2) * n2 / n1
    left = math.exp(model.ngrams[0]["w",][1])
    lower = math.exp(model.score("0", ()))
    assert math.exp(model.score("0", ("w",))) == pytest.approx((1 - discount) / 14 + left * lower)


@given(sentences=texts)
@settings(max_examples=20, deadline=None)
def test_written_models_are_read_as_they_were(tmp_path_factory, sentences):
    model = train_ngrams(sentences, 3)
    path = tmp_path_factory.mktemp("lm") / "lm.arpa"
    write_arpa(model, path)
    again = read_arpa(path)
    for words in itertools.product("abx", repeat=2):
        assert again.score_sentence(words) == pytest.approx(model.score_sentence(words), abs=1e-4)


@pytest.mark.parametrize(
    ("sentences", "order", "message"),
    [([], 2, "no sentence"), ([["a"]], 0, "order: 0"), ([["a", "</s>"]], 2, "sentence 1: '</s>'")],
)
def test_bad_text(sentences, order, message):
    with pytest.raises(SigmelError, match=message):
        train_ngrams(sentences, order)
