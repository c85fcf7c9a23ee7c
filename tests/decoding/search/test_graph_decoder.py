"""One decoder in front of the backends: batches, bad input, k2 that is not there."""

import sys
from importlib.metadata import PackageNotFoundError

import pytest
import torch

from sigmel.decoding import GraphDecoder, Hypothesis, Lattice, Search, build
from sigmel.decoding.graph.lexicon import Lexicon
from sigmel.decoding.search import k2_backend
from sigmel.errors import SigmelError

BUILT = build(("<blk>", "a", "b"), 0, Lexicon({"ab": ((1, 2),), "a": ((1,),)}))


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return torch.randn(3, 7, 3).log_softmax(-1), torch.tensor([7, 0, 4])


def test_padding_changes_nothing(batch):
    log_probs, lengths = batch
    decoder = GraphDecoder(BUILT)
    together = decoder.decode(log_probs, lengths)
    for one, length, found in zip(log_probs, lengths, together, strict=True):
        (alone,) = decoder.decode(one[None, :length], length[None])
        assert (found.words, found.score, found.reason) == (alone.words, alone.score, alone.reason)
    assert together[1].reason == "there is no frame"


def test_the_best_of_a_lattice_is_the_best_path(batch):
    decoder = GraphDecoder(BUILT, search=Search(beam=50.0))
    for path, lattice in zip(decoder.decode(*batch), decoder.lattices(*batch), strict=True):
        if path.reason:
            assert isinstance(lattice, Hypothesis)
        else:
            assert isinstance(lattice, Lattice)
            assert lattice.best().words == path.words
            assert lattice.best().score == pytest.approx(path.score, abs=1e-4)


def test_half_precision_is_taken(batch):
    log_probs, lengths = batch
    found = GraphDecoder(BUILT).decode(log_probs.bfloat16(), lengths)
    assert len(found) == 3


@pytest.mark.parametrize(
    ("shape", "lengths", "message"),
    [
        ((3, 7), [7, 7, 7], r"are not \(B, T, V\) and \(B,\)"),
        ((3, 7, 3), [7, 7], r"are not \(B, T, V\) and \(B,\)"),
        ((3, 7, 3), [7, 8, 7], "not between 0 and 7 frames"),
        ((3, 7, 4), [7, 7, 7], "made for 3 tokens"),
    ],
)
def test_bad_shapes(shape, lengths, message):
    with pytest.raises(SigmelError, match=message):
        GraphDecoder(BUILT).decode(torch.zeros(shape), torch.tensor(lengths))


def test_an_unknown_backend():
    with pytest.raises(SigmelError, match="backend 'htk' is unknown; one of auto, kaldi, k2"):
        GraphDecoder(BUILT, "htk")


@pytest.fixture
def broken_k2(monkeypatch, tmp_path):
    """A k2 that was built for another torch."""
    (tmp_path / "k2.py").write_text("raise ImportError('undefined symbol: _ZN3c106detail')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "k2", raising=False)


@pytest.mark.usefixtures("broken_k2")
def test_a_k2_for_another_torch_is_told_with_the_wheel_to_install():
    with pytest.raises(
        SigmelError, match=r"undefined symbol.*install the wheel with torch2.* and cp3.*k2-fsa.github.io"
    ):
        GraphDecoder(BUILT, "k2")


@pytest.mark.usefixtures("broken_k2")
def test_auto_does_without_it(batch, monkeypatch):
    log_probs, lengths = batch
    expected = GraphDecoder(BUILT, "kaldi").decode(log_probs, lengths)
    assert "install the wheel" in k2_backend.problem()
    decoder = GraphDecoder(BUILT)

    class OnGpu(torch.Tensor):
        device = torch.device("cuda")

    with pytest.warns(UserWarning, match="decoding on the CPU: k2 cannot be imported"):
        found = decoder.decode(log_probs.as_subclass(OnGpu), lengths)
    assert [one.words for one in found] == [one.words for one in expected]


@pytest.mark.parametrize(
    ("torch", "page"),
    [("2.13.0+cpu", "cpu.html"), ("2.9.1+cu128", "cuda.html"), ("2.9.1", "cuda.html"), (None, "cpu")],
)
def test_the_advice_on_k2_names_torch_python_and_the_page(monkeypatch, torch, page):
    def version(name):
        if torch is None:
            raise PackageNotFoundError(name)
        return torch

    monkeypatch.setattr(k2_backend, "version", version)
    monkeypatch.setattr(sys, "platform", "linux")
    advice = k2_backend.k2_wheel()
    assert f"cp3{sys.version_info[1]}" in advice
    assert f"k2-fsa.github.io/k2/{page}" in advice
    assert f"torch{(torch or '').partition('+')[0]} " in advice
