"""Recognisers with routed experts: what the study asks of any host's, and those that run without a host."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from sentencepiece import SentencePieceProcessor
from torch import Tensor, nn
from torch.nn import functional as F

from sigmel import registry
from sigmel.checkpoints import format_of
from sigmel.checkpoints.checkpoint import BLANK as BLANK_TOKEN
from sigmel.checkpoints.checkpoint import END, CTCModel
from sigmel.errors import SigmelError, reading
from sigmel.features.log_mel import LogMel
from sigmel.files.batches import Row, read_batches
from sigmel.layers.routing import RoutingDecision
from sigmel.routing_study.statistics import check_frames, decisions_of, routers_of

BLANK = 0  # the number of the blank token


class Encoded(NamedTuple):
    """What an encoder made of a batch.

    Attributes:
        hidden: (B, T, D), the encoder's output.
        lengths: (B,) int64, the frames of each utterance.
        routing: the decision of each layer with experts.
        routers: the number of the router, from 0, of each of these layers.
    """

    hidden: Tensor
    lengths: Tensor
    routing: tuple[RoutingDecision, ...]
    routers: tuple[int, ...]


class RoutedRecogniser(nn.Module):
    """A recogniser whose encoder has routers, in any host.

    Subclasses say how to recognise, in `encode`, `tokens` and `spell`, and in `texts` if that is not greedy search by
    CTC; this class records what the routers decide.

    Args:
        encoder: the encoder, which calls its routers layer by layer.
        sample_rate: Hz.
        frame_seconds: seconds between two encoder frames.
        names: tokens that a frame may be recognised as, blank first; empty for a model that gives no token to a frame.

    Attributes:
        silent: names of the tokens that make no text.

    Raises:
        SigmelError: the encoder has no routers.
    """

    silent: Collection[str] = (BLANK_TOKEN, END)

    def __init__(self, encoder: nn.Module, sample_rate: int, frame_seconds: float, names: Sequence[str]):
        super().__init__()
        if not routers_of(encoder):
            raise SigmelError(f"encoder: {type(encoder).__name__} has no routers here (dense?), so nothing is routed")
        self.encoder = encoder
        self.sample_rate = sample_rate
        self.frame_seconds = frame_seconds
        self.names = list(names)

    def forward(self, waveforms: Tensor, lengths: Tensor) -> Encoded:
        """Encode (B, samples) waveforms of (B,) lengths in samples.

        Raises:
            SigmelError: layers with experts see other numbers of frames than the encoder gives.
        """
        with decisions_of(self.encoder) as decisions:
            hidden, lengths = self.encode(waveforms, lengths)
        check_frames(decisions, hidden.shape[1:2])
        routers, routing = zip(*decisions, strict=True)
        return Encoded(hidden, lengths, routing, routers)

    def encode(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Call the encoder once: (B, T, D) and (B,) lengths in frames, of (B, samples) and (B,) lengths in samples."""
        raise NotImplementedError

    def tokens(self, hidden: Tensor) -> Tensor:
        """(B, T) int64, the number of the best token for each of (B, T, D) encoder frames."""
        raise NotImplementedError

    def texts(self, hidden: Tensor, lengths: Tensor) -> list[str]:
        """The text of each utterance, of (B, T, D) encoder frames and their (B,) lengths."""
        return [self.text(row[:length]) for row, length in zip(self.tokens(hidden), lengths, strict=True)]

    def text(self, tokens: Tensor) -> str:
        """The text of an utterance's (T,) best tokens by CTC: repeated tokens count once, silent tokens not at all."""
        spoken = [self.names[token] for token in tokens.unique_consecutive().tolist()]
        return self.spell([token for token in spoken if token not in self.silent])

    def spell(self, tokens: list[str]) -> str:
        """The text that tokens make."""
        raise NotImplementedError


class CTCRecogniser(RoutedRecogniser):
    """A CTC recogniser that needs no host: log-mel, one of our encoders, one linear layer over tokens; greedy search.

    Args:
        model: the recogniser as plain data.

    Raises:
        SigmelError: the encoder is not in the registry, has no routers, or has other parameters.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, model: CTCModel):
        frontend = LogMel(**model.frontend)
        encoder = registry.build("encoder", model.encoder, input_size=frontend.output_size(), **model.options)
        frame_seconds = model.frontend["window_stride"] * encoder.subsampling_factor
        super().__init__(encoder, model.frontend["sample_rate"], frame_seconds, [BLANK_TOKEN, *model.pieces])
        try:
            encoder.load_state_dict(model.state)
        except RuntimeError as error:
            raise SigmelError(f"encoder: the parameters do not fit the options: {error}") from error
        self.frontend = frontend
        self.register_buffer("weight", model.weight)
        self.register_buffer("bias", model.bias)
        self._tokenizer = SentencePieceProcessor(model_proto=model.tokenizer)

    def encode(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """See `RoutedRecogniser.encode`."""
        hidden, lengths, *_ = self.encoder(*self.frontend(waveforms, lengths))
        return hidden, lengths

    def tokens(self, hidden: Tensor) -> Tensor:
        """See `RoutedRecogniser.tokens`."""
        return F.linear(hidden, self.weight, self.bias).argmax(-1)

    def spell(self, tokens: list[str]) -> str:
        """See `RoutedRecogniser.spell`."""
        return self._tokenizer.decode_pieces(tokens)


def load_recogniser(path: Path) -> RoutedRecogniser:
    """Load a model file of any kind in `sigmel.checkpoints`, for inference without its host.

    Of a model with CTC and another decoder, the CTC part is used.

    Raises:
        NeedsHost: the model is no CTC recogniser with our encoder and our log-mel front end.
        SigmelError: the file cannot be read, or the encoder has no routers; the message names the file.
    """
    with reading(path, "a recogniser"):
        recogniser = CTCRecogniser(format_of(path).read_ctc(path, hybrid=True))
    return recogniser.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def batches(
    model: RoutedRecogniser, rows: Sequence[Row], batch_size: int, skipped: list[Row]
) -> Iterator[tuple[list[Row], Tensor, Tensor]]:
    """Read the audio of rows of a manifest in order; rows without usable audio go to `skipped`, with a `reason`.

    Yields:
        The rows of a batch, their (B, samples) waveforms, and the (B,) lengths of these in samples.
    """
    device = next(model.parameters()).device
    for read, waveforms in read_batches(rows, model.sample_rate, batch_size, skipped):
        padded = nn.utils.rnn.pad_sequence([torch.from_numpy(samples) for samples in waveforms], batch_first=True)
        lengths = torch.tensor([len(samples) for samples in waveforms])
        yield read, padded.to(device), lengths.to(device)
