"""Options that several classes share are given flat, and unknown ones are named."""

import inspect
from dataclasses import dataclass

import pytest

from sigmel import SigmelError
from sigmel.features.dmel_tokenizer import DMelTokenizer
from sigmel.flat_options import flat_options, split_options
from sigmel.models.encoder import OmniRouterEncoder
from sigmel.models.lm import DMelLM


@dataclass(frozen=True)
class Colours:
    top: str = "red"
    bottom: str = "blue"


@flat_options(Colours)
class Flag:
    def __init__(self, width, *, bottom="green", **options):
        self.width = width
        self.colours = Colours(bottom=bottom, **options)


def test_options_are_taken_and_shown_flat():
    assert Flag(3, top="white").colours == Colours("white", "green")
    assert str(inspect.signature(Flag)) == "(width, *, top: str = 'red', bottom='green')"


def test_a_subclass_has_a_signature_of_its_own():
    class Banner(Flag):
        def __init__(self, text):
            super().__init__(1)

    assert list(inspect.signature(Banner).parameters) == ["text"]


def test_a_source_may_take_any_option():
    @flat_options(Colours, lambda size=3, **others: None, without=["top"])
    class Any:
        def __init__(self, *args, **options):
            self.options = options

    assert str(inspect.signature(Any)) == "(*, bottom: str = 'blue', size=3, **others)"
    assert Any(shape=1).options == {"shape": 1}


def test_what_is_left_goes_elsewhere():
    assert split_options({"top": "white", "size": 3}, Colours) == [Colours("white"), {"size": 3}]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Flag(1, tip="red"), "Flag has no option 'tip'; did you mean 'top'"),
        (lambda: OmniRouterEncoder(exprts=2), "OmniRouterEncoder has no option 'exprts'; did you mean 'experts'"),
        (lambda: DMelLM(9, postions="rope"), "DMelLM has no option 'postions'; did you mean 'positions'"),
        (lambda: DMelTokenizer(bit=3), "DMelTokenizer has no option 'bit'; did you mean 'bits'"),
    ],
)
def test_unknown_options_are_named(make, message):
    with pytest.raises(SigmelError, match=message):
        make()
