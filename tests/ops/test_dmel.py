"""dMel's ops against plain definitions, torch's own embedding and torch's checks of an op."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch.library import opcheck
from torch.nn import functional as F

from sigmel.features.dmel_tokenizer import nearest_edges
from sigmel.ops import dmel_embed, dmel_encode, dmel_encode_spectrum
from sigmel.ops.dmel import cpu, reference

FLOATS = st.floats(-10, 5, width=32)


@pytest.fixture(params=["kernel", "definition"])
def form(request, monkeypatch):
    if request.param == "definition":
        monkeypatch.setattr(cpu, "unsupported", lambda _: "the test wants the definition")
    else:
        assert cpu.unsupported((torch.zeros(1),)) == ""
    return request.param


def some_edges(channels, count):
    return torch.randn(channels, count).sort(dim=1).values


@pytest.mark.parametrize(
    ("frames", "channels", "count"), [(0, 3, 2), (1, 1, 1), (5, 16, 15), (300, 80, 15), (7, 37, 63)]
)
def test_ids_count_the_edges_that_are_reached(form, frames, channels, count):
    log_mel, edges = torch.randn(frames, channels), some_edges(channels, count)
    log_mel[: frames // 2] = edges[:, count // 2]  # an edge is reached where it is
    expected = np.stack(
        [np.searchsorted(e, x, side="right") for e, x in zip(edges.numpy(), log_mel.T.numpy(), strict=True)], axis=-1
    )
    assert dmel_encode(log_mel, edges).numpy().tolist() == expected.tolist()


@settings(max_examples=60, deadline=None)
@given(
    values=arrays.arrays(np.float32, (2, 4), elements=FLOATS, unique=True),
    numbers=arrays.arrays(np.float32, (20, 2), elements=FLOATS),
)
def test_edges_part_what_is_nearest(values, numbers):
    values = torch.from_numpy(values).sort(dim=1).values
    assume((values.diff(dim=1) > 0.01).all())  # what lies closer together, subtraction cannot tell apart from afar
    edges = nearest_edges(values)
    numbers = torch.cat([torch.from_numpy(numbers), edges.T, edges.T.nextafter(torch.tensor(-torch.inf))])
    nearest = (numbers[..., None] - values).abs().argmin(-1)
    assert dmel_encode(numbers, edges).tolist() == nearest.tolist()


def test_what_is_no_number_is_in_bin_0(form):
    spectrum = torch.full((2, 9), torch.nan, dtype=torch.complex64)
    edges = torch.tensor([[-20.0, 1.0]]).repeat(4, 1)
    assert not dmel_encode(torch.full((3, 4), torch.nan), edges).any()
    assert not dmel_encode_spectrum(spectrum, torch.ones(4, 9), edges).any()
    assert dmel_encode(torch.full((3, 4), torch.inf), edges).tolist() == [[2] * 4] * 3


@pytest.mark.parametrize(("frames", "bins", "channels"), [(1, 5, 1), (17, 33, 20), (40, 513, 80), (0, 5, 2)])
def test_spectra_come_out_as_their_log_mel_does(form, frames, bins, channels):
    spectrum = torch.randn(frames, bins, dtype=torch.complex64) * torch.logspace(-8, 2, bins)
    spectrum[: frames // 3] = 0
    filters = torch.rand(channels, bins) * (torch.rand(channels, bins) < 0.1)
    edges = some_edges(channels, 15)
    log_mel = reference.log_mel(spectrum.to(torch.complex128), filters.double())
    assert log_mel.min() >= -10 if frames else True
    ids, expected = dmel_encode_spectrum(spectrum, filters, edges), reference.encode(log_mel, edges.double())
    close = ((log_mel[..., None] - edges).abs() < 1e-5).any(-1)
    assert (close | (ids == expected)).all()
    assert close.double().mean() < 0.01 if frames else True


@settings(max_examples=30, deadline=None)
@given(
    frames=st.integers(0, 40),
    channels=st.integers(1, 20),
    entries=st.sampled_from([1, 7, 19]),
    size=st.sampled_from([1, 3, 15, 16, 17, 64, 80, 130]),
    seed=st.integers(0, 100),
)
def test_embeddings_are_sums_of_rows(frames, channels, entries, size, seed):
    torch.manual_seed(seed)
    ids = torch.randint(entries, (frames, channels), dtype=torch.uint8)
    ours = torch.randn(channels, entries, size, requires_grad=True)
    theirs = ours.detach().double().requires_grad_()
    output = dmel_embed(ids, ours)
    expected = theirs[torch.arange(channels), ids.long()].sum(1)
    torch.testing.assert_close(output.double(), expected, rtol=1e-5, atol=1e-5)
    grad = torch.randn_like(output)
    output.backward(grad)
    expected.backward(grad.double())
    torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_embeddings_in_any_type(dtype):
    ids, tables = torch.randint(19, (50, 80), dtype=torch.uint8), torch.randn(80, 19, 32).to(dtype)
    flat = ids.long() + 19 * torch.arange(80)
    expected = F.embedding_bag(flat, tables.double().flatten(0, 1), mode="sum")
    output = dmel_embed(ids, tables)
    assert output.dtype == dtype
    error = (output.double() - expected).abs().max() / expected.abs().max()
    assert error < {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.05}[dtype]


def test_gradcheck():
    ids, tables = torch.randint(5, (6, 3), dtype=torch.uint8), torch.randn(3, 5, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda t: dmel_embed(ids, t), tables.requires_grad_())


def test_the_gradient_does_not_depend_on_the_number_of_threads():
    ids, grad = torch.randint(19, (500, 80), dtype=torch.uint8), torch.randn(500, 100)
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append(torch.ops.sigmel.dmel_embed_backward(grad, ids, 19))
    torch.set_num_threads(before)
    assert all(torch.equal(results[0], other) for other in results)


def test_opcheck(form):
    spectrum, edges = torch.randn(2, 3, 9, dtype=torch.complex64), some_edges(4, 3)
    opcheck(torch.ops.sigmel.dmel_encode.default, (torch.randn(2, 3, 4), edges))
    opcheck(torch.ops.sigmel.dmel_encode.default, (torch.randn(4, 3).T, some_edges(4, 2)))
    opcheck(torch.ops.sigmel.dmel_encode_spectrum.default, (spectrum, torch.rand(4, 9), edges))
    opcheck(torch.ops.sigmel.dmel_encode_spectrum.default, (spectrum.mT.contiguous().mT, torch.rand(9, 4).T, edges))
    ids = torch.randint(5, (6, 3), dtype=torch.uint8)
    opcheck(torch.ops.sigmel.dmel_embed.default, (ids, torch.randn(3, 5, 16, requires_grad=True)))
    opcheck(torch.ops.sigmel.dmel_embed.default, (ids.T.contiguous().T, torch.randn(3, 16, 5).mT.requires_grad_()))


def test_compiles():
    tables, edges = torch.randn(4, 19, 8), some_edges(4, 15)
    run = lambda x: dmel_embed(dmel_encode(x, edges), tables)  # noqa: E731
    x = torch.randn(7, 4)
    torch.testing.assert_close(torch.compile(run, fullgraph=True, backend="aot_eager")(x), run(x))


EDGES, IDS = torch.zeros(4, 3), torch.zeros(5, 4, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: dmel_encode(torch.zeros(2, 3), EDGES),
            r"edges: \(4, 3\), expected \(3, at most 255\), as log_mel is \(2, 3\)",
        ),
        (lambda: dmel_encode(torch.zeros(2, 4), EDGES.bfloat16()), "edges: torch.bfloat16, expected torch.float32"),
        (lambda: dmel_encode(torch.zeros(()), EDGES), r"edges: \(4, 3\), expected \(0, at most 255\)"),
        (lambda: dmel_encode_spectrum(torch.zeros(2, 9), torch.zeros(4, 9), EDGES), "spectrum: torch.float32"),
        (
            lambda: dmel_encode_spectrum(torch.zeros(2, 9, dtype=torch.complex64), torch.zeros(4, 8), EDGES),
            r"filters: torch.float32 \(4, 8\), expected torch.float32 \(channels, 9\)",
        ),
        (lambda: dmel_embed(IDS.long(), torch.zeros(4, 5, 6)), "ids: torch.int64, expected torch.uint8"),
        (lambda: dmel_embed(IDS, torch.zeros(3, 5, 6)), r"ids, tables: \(5, 4\) and \(3, 5, 6\), expected"),
        (lambda: dmel_embed(IDS + 5, torch.zeros(4, 5, 6)), "ids: up to 5, but the tables have 5 entries"),
    ],
)
def test_what_does_not_fit_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
