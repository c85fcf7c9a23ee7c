"""The tokeniser against the authors' package `dmel`, and against itself: alone, in batches, streamed."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from dmel import DiscretizedLogMelFbank, LogMelFbank
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sigmel import SigmelError
from sigmel.features.dmel_tokenizer import DMelTokenizer, reflected


def voice(samples, seed=0):
    """Something with the dynamics of speech: harmonics that come and go, over faint noise."""
    random = np.random.default_rng(seed)
    time = np.arange(samples) / 16000
    pitch = 2 * np.pi * np.cumsum(120 + 40 * np.sin(2 * np.pi * 0.7 * time + seed)) / 16000
    harmonics = sum(np.sin(k * pitch) / k for k in range(1, 40))
    loudness = np.clip(np.sin(2 * np.pi * 1.3 * time + seed), 0, 1) ** 3
    return torch.from_numpy((0.1 * loudness * harmonics + 1e-4 * random.standard_normal(samples)).astype(np.float32))


WAVEFORMS = [voice(48000), voice(33333, 1), torch.zeros(3000), torch.rand(16001) - 0.5, 1e-6 * torch.randn(5000)]


@pytest.mark.parametrize("hop_ms", [25, 12.5])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6])
def test_ids_are_those_of_the_authors_package(bits, hop_ms):
    package = DiscretizedLogMelFbank(LogMelFbank(frame_stride_ms=hop_ms), bits)
    tokenizer = DMelTokenizer(bits=bits, hop_ms=hop_ms)
    special = tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id
    assert special == (package.pad_id, package.bos_id, package.eos_id)
    assert tokenizer.vocab_size == package.vocab_size
    for waveform in WAVEFORMS:
        expected, length = package(waveform[None], torch.tensor([len(waveform)]))
        ids, frames = tokenizer.add_special(*tokenizer.encode(waveform))
        assert frames.tolist() == length.tolist()
        assert torch.equal(ids.long(), expected)
        torch.testing.assert_close(
            tokenizer.decode(ids[:, 1:-1]), package.inv_discretize_func(expected[:, 1:-1]), rtol=0, atol=0
        )
        log_mel, _ = package.logmelfbank(waveform[None], torch.tensor([len(waveform)]))
        torch.testing.assert_close(tokenizer.log_mel(waveform)[0], log_mel, rtol=0, atol=2e-6)
        assert torch.equal(tokenizer.quantize(log_mel).long(), package.discretize_func(log_mel))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 3000), min_size=1, max_size=4),
    st.sampled_from([{}, {"hop_ms": 12.5}, {"sample_rate": 22050, "hop_ms": 40.0}, {"sample_rate": 8000, "bits": 2}]),
)
def test_padding_changes_nothing(samples, options):
    tokenizer = DMelTokenizer(**options)
    waveforms = torch.randn(len(samples), max(samples))  # what lies beyond an end is noise, and must not count
    ids, frames = tokenizer.encode(waveforms, torch.tensor(samples))
    assert frames.tolist() == [1 + n // tokenizer.hop if n else 0 for n in samples]
    assert ids.shape == (len(samples), max(frames.tolist()), 80)
    for n, length in enumerate(samples):
        alone, _ = tokenizer.encode(waveforms[n, :length])
        assert torch.equal(ids[n, : frames[n]], alone[0])
        assert (ids[n, frames[n] :] == tokenizer.pad_id).all()


@settings(max_examples=40, deadline=None)
@example([400], {})
@given(
    chunks=st.lists(st.integers(0, 900), max_size=8),
    options=st.sampled_from([{}, {"hop_ms": 12.5}, {"sample_rate": 22050, "hop_ms": 60.0}, {"sample_rate": 8000}]),
)
def test_a_stream_has_the_ids_of_the_whole(chunks, options):
    tokenizer = DMelTokenizer(**options)
    waveform = torch.randn(2, sum(chunks))
    expected, _ = tokenizer.encode(waveform)
    state, parts = tokenizer.initial_state(2), []
    for number, chunk in enumerate(waveform.split(chunks, dim=1)):
        ids, state = tokenizer.step(chunk, state)
        parts.append(ids)
        seen = sum(chunks[: number + 1])
        ready = (seen - tokenizer.look_ahead) // tokenizer.hop + 1
        assert state.frames == (ready if seen > tokenizer.look_ahead else 0)  # every frame that can be made
        assert state.samples.shape[1] <= 2 * len(tokenizer.window) + tokenizer.hop
    ids, state = tokenizer.finish(state)
    assert torch.equal(torch.cat([*parts, ids], dim=1), expected)


def test_a_frame_comes_as_soon_as_its_look_ahead_is_there():
    tokenizer, state = DMelTokenizer(), DMelTokenizer().initial_state()
    assert tokenizer.look_ahead == 400
    for samples, frames in ((400, 0), (1, 1), (398, 0), (1, 1), (399, 0), (1, 1)):
        ids, state = tokenizer.step(torch.randn(1, samples), state)
        assert ids.shape[1] == frames


@pytest.mark.parametrize("samples", [0, 1, 2, 3, 399, 400, 401, 513])
def test_hardly_any_samples(samples):
    ids, frames = DMelTokenizer().encode(torch.full((1, samples), 0.5))
    assert frames.tolist() == [0 if not samples else 1 + samples // 400]
    assert ids.shape == (1, frames, 80)
    assert (ids < 16).all()


@given(st.integers(1, 9), st.integers(-40, 40))
def test_ends_are_mirrors(length, position):
    bounced = position
    while not 0 <= bounced < length:
        bounced = 0 if length == 1 else -bounced if bounced < 0 else 2 * (length - 1) - bounced
    assert reflected(torch.tensor([position]), torch.tensor([length])).item() == bounced


def test_a_cast_of_the_model_leaves_the_ids():
    tokenizer = DMelTokenizer()
    expected, _ = tokenizer.encode(WAVEFORMS[0])
    for cast in (torch.bfloat16, torch.float16, torch.float64):
        model = torch.nn.Sequential(torch.nn.Linear(2, 2), DMelTokenizer()).to(cast)
        assert model[0].weight.dtype == cast
        assert model[1].edges.dtype == torch.float32
        assert torch.equal(model[1].encode(WAVEFORMS[0])[0], expected)
    assert DMelTokenizer().to("meta").edges.device.type == "meta"


@pytest.mark.parametrize("sample_rate", [8000, 22050, 44100, 48000])
def test_other_sample_rates_are_resampled(sample_rate):
    time = torch.arange(sample_rate, dtype=torch.float64) / sample_rate
    tone = (0.3 * torch.sin(2 * torch.pi * 1000 * time)).float()
    tokenizer = DMelTokenizer()
    ids, frames = tokenizer.encode(
        torch.stack([tone, tone]), torch.tensor([sample_rate, sample_rate // 2]), sample_rate
    )
    assert frames.tolist() == [41, 21]
    own = torch.sin(2 * torch.pi * 1000 * torch.arange(16000, dtype=torch.float64) / 16000).mul(0.3).float()
    loudest = tokenizer.encode(own)[0][0, 10].argmax()
    assert (ids[0, 1:-1].argmax(-1) == loudest).all()


def test_own_codebooks(tmp_path):
    values = np.sort(np.random.default_rng(0).normal(-3, 2, (80, 9)).astype(np.float32), axis=1)
    np.save(tmp_path / "codebook.npy", values)
    tokenizer = DMelTokenizer(codebook=tmp_path / "codebook.npy")
    assert (tokenizer.bins, tokenizer.pad_id, tokenizer.vocab_size) == (9, 9, 12)
    log_mel, _ = tokenizer.log_mel(WAVEFORMS[0])
    nearest = np.abs(log_mel[..., None].numpy() - values).argmin(-1)
    ids, _ = tokenizer.encode(WAVEFORMS[0])
    assert ids.tolist() == nearest.tolist()
    again = DMelTokenizer(**tokenizer.config)
    assert torch.equal(again.encode(WAVEFORMS[0])[0], ids)
    assert torch.equal(tokenizer.quantize(tokenizer.decode(ids)), ids)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample_rate": 4000}, "sample_rate: 4000, expected 8000 to 48000 Hz"),
        ({"high_hz": 9000.0}, r"low_hz, high_hz: 80.0 and 9000.0, expected 0 <= low < high <= 8000.0"),
        ({"hop_ms": 0.0}, "hop_ms: too small"),
        ({"n_fft": 512}, "n_fft: 512 is less than the window, 800 samples"),
        ({"bits": 8}, "bits: 8, expected 1 to 7"),
        ({"low": 2.0}, "low, high: 2.0 and 2.0, expected low < high"),
        ({"codebook": "none.npy"}, "codebook none.npy: cannot be read"),
        ({"codebook": [[1.0, 2.0]]}, r"codebook: shape \(1, 2\), expected \(80 channels, 2 to 253 bins\)"),
        ({"codebook": [[1.0, 1.0]] * 80}, "codebook: the values of a channel must be finite, and each greater"),
        ({"codebook": [["a", "b"]] * 80}, "codebook: not an array of numbers"),
    ],
)
def test_settings_are_checked(options, message):
    with pytest.raises(SigmelError, match=message):
        DMelTokenizer(**options)


TOKENIZER, SILENCE = DMelTokenizer(), torch.zeros(2, 1000)
WRONG = SILENCE.index_put((torch.tensor(1), torch.tensor(7)), torch.tensor(torch.nan))
IDS = torch.zeros(2, 5, 80, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TOKENIZER.encode(WRONG), "utterance 1, sample 7: nan, expected a finite number"),
        (lambda: TOKENIZER.encode(SILENCE.long()), r"waveform: torch.int64 \(2, 1000\), expected float"),
        (lambda: TOKENIZER.encode(SILENCE, torch.tensor([1000, 1001])), "lengths: 1000 to 1001, expected 0 to 1000"),
        (
            lambda: TOKENIZER.encode(SILENCE, torch.tensor([1000])),
            r"lengths: torch.int64 \(1,\), expected int64 \(2,\)",
        ),
        (lambda: TOKENIZER.encode(SILENCE, sample_rate=96000), "sample_rate: 96000, expected 8000 to 48000"),
        (lambda: TOKENIZER.step(SILENCE, TOKENIZER.initial_state(3)), "chunk: 2 streams, but the state is of 3"),
        (lambda: TOKENIZER.step(WRONG, TOKENIZER.initial_state(2)), "utterance 1, sample 7: nan"),
        (lambda: TOKENIZER.decode(IDS.long()), r"ids: torch.int64 \(2, 5, 80\), expected torch.uint8"),
        (lambda: TOKENIZER.decode(IDS[..., :40]), r"ids: torch.uint8 \(2, 5, 40\), expected .* 80 channels"),
        (lambda: TOKENIZER.decode(IDS + 17), "frame 0, channel 0 of utterance 0: 17 is a bos frame"),
        (lambda: TOKENIZER.decode(IDS[0] + 99), "frame 0, channel 0: 99 is no id; bins have the ids 0 to 15"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(SigmelError, match=message):
        call()


def test_what_is_beyond_an_end_may_be_no_number():
    waveforms = SILENCE.clone()
    waveforms[1, 700:] = torch.nan
    ids, _ = TOKENIZER.encode(waveforms, torch.tensor([1000, 700]))
    expected, _ = TOKENIZER.encode(SILENCE, torch.tensor([1000, 700]))
    assert torch.equal(ids, expected)


def test_what_is_beyond_an_end_may_be_anything_when_decoding():
    ids = IDS.clone()
    ids[1, 3:] = TOKENIZER.pad_id
    assert TOKENIZER.decode(ids, torch.tensor([5, 3])).shape == ids.shape


def test_it_is_imported_when_it_is_asked_for():
    import sigmel.features

    assert sigmel.features.DMelTokenizer is DMelTokenizer
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        sigmel.features.Nothing  # noqa: B018
    code = "import sys, sigmel.files.audio; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
