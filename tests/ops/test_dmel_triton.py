"""The Triton kernels of dMel against their plain definitions.

Without a CUDA device they run in Triton's interpreter, on small inputs (tests/conftest.py asks for it).
"""

import pytest
import torch
from torch.library import opcheck

from sigmel.features.dmel_tokenizer import DMelTokenizer
from sigmel.ops import dispatch, dmel_embed
from sigmel.ops.dmel import reference

pytest.importorskip("triton", reason="Triton is for Linux")
cuda = pytest.importorskip("sigmel.ops.dmel.cuda")

DEVICE = "cpu" if cuda.INTERPRETED else "cuda"


def some_edges(channels, count):
    return torch.randn(channels, count, device=DEVICE).sort(dim=1).values


@pytest.mark.parametrize(("shape", "count"), [((0, 3), 2), ((2, 9, 80), 15), ((17, 5), 63), ((1, 1), 1)])
def test_ids(shape, count):
    log_mel, edges = torch.randn(*shape, device=DEVICE), some_edges(shape[-1], count)
    log_mel[..., 0] = edges[0, 0]
    log_mel[..., :1, -1] = torch.nan
    assert torch.equal(cuda.encode(log_mel, edges), reference.encode(log_mel, edges))


@pytest.mark.parametrize(("shape", "channels"), [((3, 7, 65), 20), ((20, 129), 80), ((1, 1), 3), ((0, 9), 4)])
def test_ids_of_spectra(shape, channels):
    spectrum = torch.randn(*shape, dtype=torch.complex64, device=DEVICE)
    spectrum[..., : shape[-1] // 2] *= 1e-6
    filters = torch.rand(channels, shape[-1], device=DEVICE) * (torch.rand(channels, shape[-1], device=DEVICE) < 0.2)
    edges = some_edges(channels, 15)
    log_mel = reference.log_mel(spectrum.to(torch.complex128), filters.double())
    same = cuda.encode_spectrum(spectrum, filters, edges) == reference.encode(log_mel, edges.double())
    assert (same | ((log_mel[..., None] - edges).abs() < 1e-5).any(-1)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("frames", "channels", "entries", "size"), [(1, 3, 19, 5), (37, 6, 19, 64), (20, 2, 5, 70), (0, 2, 5, 8)]
)
def test_embeddings_and_their_gradients(frames, channels, entries, size, dtype):
    ids = torch.randint(entries, (frames, channels), dtype=torch.uint8, device=DEVICE)
    tables = torch.randn(channels, entries, size, device=DEVICE).to(dtype)
    grad = torch.randn(frames, size, device=DEVICE).to(dtype)
    tolerance = {"rtol": 2e-2, "atol": 5e-2} if dtype == torch.bfloat16 else {"rtol": 2e-3, "atol": 5e-3}
    ours, exact = cuda.embed(ids, tables), reference.embed(ids, tables.double())
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.double(), exact, **tolerance)
    ours, exact = cuda.embed_backward(grad, ids, entries), reference.embed_backward(grad.double(), ids, entries)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.double(), exact, **tolerance)


def test_every_id_of_a_byte():
    ids = torch.arange(256, dtype=torch.uint8, device=DEVICE)[:, None]
    tables = torch.randn(1, 256, 4, device=DEVICE)
    torch.testing.assert_close(cuda.embed(ids, tables), tables[0])
    torch.testing.assert_close(cuda.embed_backward(tables[0], ids, 256), tables)


def test_an_id_that_is_not_there_adds_nothing():
    tables = torch.randn(2, 5, 4, device=DEVICE)
    ids = torch.tensor([[1, 200], [5, 0]], dtype=torch.uint8, device=DEVICE)
    torch.testing.assert_close(cuda.embed(ids, tables), torch.stack([tables[0, 1], tables[1, 0]]))
    grads = cuda.embed_backward(torch.ones(2, 4, device=DEVICE), ids, 5)
    assert grads.sum() == 8


def test_the_op_takes_the_kernels(monkeypatch):
    monkeypatch.setattr(dispatch, "form", lambda *_: cuda)
    ids, tables = torch.randint(5, (6, 3), dtype=torch.uint8, device=DEVICE), torch.randn(3, 5, 16, device=DEVICE)
    opcheck(torch.ops.sigmel.dmel_embed.default, (ids, tables.requires_grad_()))
    torch.testing.assert_close(dmel_embed(ids, tables), reference.embed(ids, tables))


def test_a_waveform(monkeypatch):
    tokenizer, waveform = DMelTokenizer().to(DEVICE), torch.randn(2, 2000, device=DEVICE) * 0.1
    expected, frames = tokenizer.encode(waveform)
    monkeypatch.setattr(dispatch, "form", lambda *_: cuda)
    ids, same = tokenizer.encode(waveform)
    assert frames.tolist() == same.tolist()
    assert (ids != expected).double().mean() < 1e-3  # roundings


COMPILE = """
from triton.compiler import ASTSource, compile

from sigmel.ops.dmel import cuda

float32, uint8, kind = "*fp32", "*u8", sys.argv[2]


def build(kernel, types, **constants):
    signature = {name: "constexpr" if name in constants else types[name] for name in kernel.arg_names}
    compile(ASTSource(kernel, signature, constants), target=driver.active.get_current_target())

sizes = dict.fromkeys(("frames", "bins", "C", "entries", "D"), "i32")
build(cuda._encode_kernel, {**sizes, "log_mel": float32, "edges": float32, "ids": uint8},
      COUNT=15, FRAMES=64, CHANNELS=128)
build(cuda._encode_spectrum_kernel, {**sizes, "spectrum": float32, "filters": float32, "edges": float32, "ids": uint8},
      POWER=1e-10, MEL=1e-10, LOG10=0.301, COUNT=15, FRAMES=64, BINS=64, CHANNELS=128)
build(cuda._embed_kernel, {**sizes, "ids": uint8, "tables": kind, "output": kind}, FRAMES=64, SIZE=64)
build(cuda._embed_backward_kernel, {**sizes, "grad": kind, "ids": uint8, "tables": kind},
      FRAMES=64, ENTRIES=32, SIZE=64)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("capability", "kind"), [(80, "*fp32"), (90, "*bf16")])
def test_the_kernels_compile_for_a_device_that_is_not_here(compile_ahead, capability, kind):
    compile_ahead(COMPILE, capability, kind)


@pytest.mark.gpu
def test_a_long_waveform_on_a_device():
    tokenizer, waveform = DMelTokenizer(), torch.randn(4, 160000) * 0.1
    expected, _ = tokenizer.encode(waveform)
    ids, _ = tokenizer.to("cuda").encode(waveform.cuda())
    assert (ids.cpu() != expected).double().mean() < 1e-4
