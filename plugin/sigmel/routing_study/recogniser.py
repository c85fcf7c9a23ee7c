"""Recognisers with routed experts, as the analyses see them; and those that need no host to run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sigmel import registry
from sigmel.checkpoints import format_of
from sigmel.checkpoints.ctc import BLANK as BLANK_NAME
from sigmel.checkpoints.ctc import END, CTCModel
from sigmel.errors import SigmelError
from sigmel.features.log_mel import LogMel
from sigmel.files.audio import read_audio
from sigmel.layers.routing import RoutingDecision
from sigmel.routing_study.statistics import routers_of

BLANK = 0
Row = dict[str, Any]


class Encoded(NamedTuple):
    """What became of a batch.

    Attributes:
        hidden: (B, T, D), the encoder's output.
        lengths: (B,) int64, frames of it that exist.
        routing: a decision for each layer with experts.
        routers: for each of these layers the number of its router, from 0.
    """

    hidden: Tensor
    lengths: Tensor
    routing: tuple[RoutingDecision, ...]
    routers: tuple[int, ...]


class RoutedRecogniser(nn.Module):
    """A recogniser whose encoder has routers, whatever runs it.

    Subclasses say how it hears, in `encode`, `tokens` and `texts`; what its routers decide meanwhile is recorded here.

    Args:
        encoder: has the routers; whenever it is called, it calls them layer by layer.
        sample_rate: Hz.
        window_stride: seconds between two feature frames.
        subsampling_factor: feature frames an encoder frame.
        names: of the tokens that a frame may be heard as, blank first; empty where a frame is heard as none.

    Raises:
        SigmelError: the encoder has no routers.
    """

    def __init__(
        self,
        encoder: nn.Module,
        sample_rate: int,
        window_stride: float,
        subsampling_factor: int,
        names: Sequence[str],
    ):
        super().__init__()
        if not routers_of(encoder):
            raise SigmelError(f"encoder: {type(encoder).__name__} has no routers here (dense?), so nothing is routed")
        self.encoder = encoder
        self.sample_rate = sample_rate
        self.window_stride = window_stride
        self.subsampling_factor = subsampling_factor
        self.names = list(names)

    def forward(self, waveforms: Tensor, lengths: Tensor) -> Encoded:
        """Encode (B, samples) waveforms of (B,) lengths in samples.

        Raises:
            SigmelError: layers with experts see other numbers of frames than the encoder gives.
        """
        said: list[tuple[int, RoutingDecision]] = []
        with ExitStack() as hooks:
            for number, router in enumerate(routers_of(self.encoder)):
                hooks.enter_context(
                    router.register_forward_hook(
                        lambda _, __, decision, number=number: said.append((number, decision))
                    )
                )
            hidden, lengths = self.encode(waveforms, lengths)
        if any(decision.experts.shape[1] != hidden.shape[1] for _, decision in said):
            raise SigmelError("encoder: it drops frames between its layers, whose choices cannot be compared then")
        return Encoded(hidden, lengths, tuple(decision for _, decision in said), tuple(number for number, _ in said))

    def encode(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, D) and its (B,) lengths, of (B, samples) waveforms and theirs; calls the encoder once."""
        raise NotImplementedError

    def tokens(self, hidden: Tensor) -> Tensor:
        """(B, T) int64, the best of the `names` for each of (B, T, D) encoder frames."""
        raise NotImplementedError

    def texts(self, hidden: Tensor, lengths: Tensor) -> list[str]:
        """The words of each utterance: greedy search, of (B, T, D) encoder frames and their (B,) lengths."""
        raise NotImplementedError


class CTCRecogniser(RoutedRecogniser):
    """Log-mel front end, one of our encoders, and one linear layer over tokens, the first of them blank.

    Args:
        model: what a host saved.

    Raises:
        SigmelError: the encoder is none of ours, has no routers, or the parameters are not its own.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, model: CTCModel):
        from sentencepiece import SentencePieceProcessor

        frontend = LogMel(**model.frontend)
        encoder = registry.build("encoder", model.encoder, input_size=frontend.output_size(), **model.options)
        rates = (model.frontend["sample_rate"], model.frontend["window_stride"], encoder.subsampling_factor)
        super().__init__(encoder, *rates, [BLANK_NAME, *model.pieces])
        try:
            encoder.load_state_dict(model.state)
        except RuntimeError as error:
            raise SigmelError(f"encoder: its parameters do not fit its options: {error}") from error
        self.frontend = frontend
        self.register_buffer("weight", model.weight)
        self.register_buffer("bias", model.bias)
        self._silent = (BLANK_NAME, END)
        self._tokenizer = SentencePieceProcessor(model_proto=model.tokenizer)

    def encode(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """See `RoutedRecogniser.encode`."""
        hidden, lengths, *_ = self.encoder(*self.frontend(waveforms, lengths))
        return hidden, lengths

    def tokens(self, hidden: Tensor) -> Tensor:
        """See `RoutedRecogniser.tokens`."""
        return F.linear(hidden, self.weight, self.bias).argmax(-1)

    def texts(self, hidden: Tensor, lengths: Tensor) -> list[str]:
        """See `RoutedRecogniser.texts`."""
        return [self.text(heard[:length]) for heard, length in zip(self.tokens(hidden), lengths, strict=True)]

    def text(self, tokens: Tensor) -> str:
        """The words of an utterance's (T,) best tokens: greedy CTC search."""
        spoken = [self.names[token] for token in tokens.unique_consecutive().tolist()]
        return self._tokenizer.decode_pieces([piece for piece in spoken if piece not in self._silent])


def load_recogniser(path: Path) -> RoutedRecogniser:
    """Load a ``.nemo``, ESPnet's packed ``.zip``, or a ``.pth`` with its ``config.yaml`` beside it, for inference.

    A model with CTC and another decoder is heard through CTC.

    Raises:
        NeedsHost: it is no CTC recogniser with our encoder and our log-mel front end.
        SigmelError: naming the file: there is none, its suffix is another, or the encoder has no routers.
    """
    model = format_of(path).read_ctc(path, hybrid=True)
    try:
        recogniser = CTCRecogniser(model)
    except SigmelError as error:
        raise SigmelError(f"{path}: {error}") from error
    return recogniser.eval().to("cuda" if torch.cuda.is_available() else "cpu")


class Batch(NamedTuple):
    """Utterances: their rows of the manifest, (B, samples) waveforms and their (B,) lengths in samples."""

    rows: list[Row]
    waveforms: Tensor
    lengths: Tensor


def batches(model: RoutedRecogniser, rows: Sequence[Row], batch_size: int, skipped: list[Row]) -> Iterator[Batch]:
    """Read the audio of rows of a manifest in order; those without usable audio go to `skipped`, with a ``reason``."""
    device = next(model.parameters()).device
    shortest = 2 * int(model.window_stride * model.sample_rate)  # two frames: fewer cannot be normalised
    usable: list[tuple[Row, Tensor]] = []
    for number, row in enumerate(rows, start=1):
        try:
            samples = torch.from_numpy(read_audio(row["audio_filepath"], model.sample_rate)[0])
            if len(samples) < shortest:
                raise SigmelError(f"{len(samples)} samples are too few; need {shortest}")
            usable.append((row, samples))
        except (SigmelError, OSError) as error:
            skipped.append(row | {"reason": str(error)})
        if usable and (len(usable) == batch_size or number == len(rows)):
            waveforms = nn.utils.rnn.pad_sequence([samples for _, samples in usable], batch_first=True)
            lengths = torch.tensor([len(samples) for _, samples in usable])
            yield Batch([row for row, _ in usable], waveforms.to(device), lengths.to(device))
            usable = []
