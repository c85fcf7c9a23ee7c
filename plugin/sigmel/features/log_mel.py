"""The log-mel spectrogram that every recipe uses, in any host."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sigmel.errors import SigmelError
from sigmel.flat_options import check_choice
from sigmel.layers.masks import valid_frames

WINDOWS = {"hann": torch.hann_window, "hamming": torch.hamming_window, "blackman": torch.blackman_window}
LOG_GUARD = 2.0**-24  # added to a mel energy before its logarithm is taken
STD_GUARD = 1e-5


class LogMel(nn.Module):
    """Log-mel spectrogram, with the values and the options of NeMo's AudioToMelSpectrogramPreprocessor.

    So a model has the same features in both toolkits: pre-emphasis, centred STFT with zeros beyond the ends, power,
    Slaney's mel filters, natural logarithm, and each channel of an utterance brought to mean 0 and deviation 1.

    Args:
        sample_rate: Hz. Default: 16000.
        window_size: seconds. Default: 0.025.
        window_stride: seconds between two frames. Default: 0.01.
        window: "hann", "hamming" or "blackman". Default: "hann".
        features: mel channels F. Default: 80.
        n_fft: points of the transform; None is the next power of two of the window. Default: None.
        preemph: x[t] - preemph * x[t - 1]; 0 for none. Default: 0.97.
        normalize: "per_feature", or None for the logarithm as it is. Default: "per_feature".
        dither: deviation of the noise added in training. Default: 1e-5.

    Raises:
        SigmelError: a setting out of its range, by name.
    """

    window: Tensor
    filters: Tensor

    def __init__(
        self,
        sample_rate: int = 16000,
        window_size: float = 0.025,
        window_stride: float = 0.01,
        window: str = "hann",
        features: int = 80,
        n_fft: int | None = None,
        preemph: float = 0.97,
        normalize: str | None = "per_feature",
        dither: float = 1e-5,
    ):
        super().__init__()
        check_choice("window", window, WINDOWS)
        if normalize not in (None, "per_feature"):
            raise SigmelError(f"normalize: '{normalize}' is neither per_feature nor null")
        self.window_length, self.hop = int(window_size * sample_rate), int(window_stride * sample_rate)
        if min(self.window_length, self.hop, features) < 1:
            raise SigmelError("window_size, window_stride and features must each be at least one sample or channel")
        self.n_fft = n_fft or 2 ** math.ceil(math.log2(self.window_length))
        if self.n_fft < self.window_length:
            raise SigmelError(f"n_fft: {self.n_fft} is less than the window, {self.window_length} samples")
        self.preemph, self.normalize, self.dither = preemph, normalize, dither
        self.register_buffer("window", WINDOWS[window](self.window_length, periodic=False), persistent=False)
        self.register_buffer("filters", mel_filters(sample_rate, self.n_fft, features), persistent=False)

    def output_size(self) -> int:
        """The number of mel channels, F."""
        return self.filters.shape[0]

    @torch.no_grad()
    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compute features.

        Args:
            waveforms: (B, samples) float in [-1, 1]; samples at and beyond an utterance's length do not matter.
            lengths: (B,) int64, in samples.

        Returns:
            (B, T, F) features, zero at and beyond their (B,) lengths, samples // hop.
        """
        x = waveforms.float()
        if self.training and self.dither:
            x = x + self.dither * torch.randn_like(x)
        if self.preemph:
            x = torch.cat([x[:, :1], x[:, 1:] - self.preemph * x[:, :-1]], dim=1)
        x = x * valid_frames(lengths, x.shape[1])
        with torch.autocast(x.device.type, enabled=False):  # half precision overflows here
            spectrum = torch.stft(
                x, self.n_fft, self.hop, self.window_length, self.window, pad_mode="constant", return_complex=True
            )
            power = torch.view_as_real(spectrum).square().sum(-1)  # (B, bins, T)
            mel = (torch.matmul(self.filters, power) + LOG_GUARD).log()  # (B, F, T)
        lengths = lengths // self.hop
        mel = mel[..., : max(1, x.shape[1] // self.hop)]
        valid = valid_frames(lengths, mel.shape[-1])[:, None]
        if self.normalize:
            mel = normalize_channels(mel, lengths, valid)
        return (mel * valid).transpose(1, 2), lengths


def normalize_channels(mel: Tensor, lengths: Tensor, valid: Tensor) -> Tensor:
    """Bring each channel of each utterance (B, F, T) to mean 0 and deviation 1 over its `valid` (B, 1, T) frames."""
    count = lengths[:, None, None].clamp(min=1)
    mean = (mel * valid).sum(-1, keepdim=True) / count
    deviation = ((mel - mean).square() * valid).sum(-1, keepdim=True).div((count - 1).clamp(min=1)).sqrt()
    return (mel - mean) / (deviation + STD_GUARD)


def mel_filters(
    sample_rate: int, n_fft: int, channels: int, low_hz: float = 0.0, high_hz: float | None = None
) -> Tensor:
    """Triangular filters (channels, n_fft // 2 + 1) of equal area on Slaney's mel scale, from 0 to half the rate.

    Slaney, "Auditory Toolbox" (1998): linear to 1 kHz, logarithmic above.
    """
    step, corner, ratio = 200.0 / 3, 1000.0, math.log(6.4) / 27

    def to_mel(hertz: float) -> float:
        return hertz / step if hertz < corner else corner / step + math.log(hertz / corner) / ratio

    low, high = to_mel(low_hz), to_mel(sample_rate / 2 if high_hz is None else high_hz)
    mels = torch.linspace(low, high, channels + 2, dtype=torch.float64)
    edges = torch.where(mels < corner / step, mels * step, corner * torch.exp((mels - corner / step) * ratio))
    bins = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    area = 2 / (edges[2:] - edges[:-2])
    triangles = torch.minimum(rising, falling).clamp(min=0).float()  # rounded before and after, as librosa does
    return (triangles * area[:, None]).float()
