"""A CTC recogniser with routed experts, run without its host, to look into it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sigmel import registry
from sigmel.data.audio import read_audio
from sigmel.errors import SigmelError
from sigmel.features.log_mel import LogMel
from sigmel.models.encoder import EncoderOutput, OmniRouterEncoder

if TYPE_CHECKING:
    from sigmel.models.checkpoint import Recogniser

BLANK = 0
Row = dict[str, Any]


class RoutedRecogniser(nn.Module):
    """Log-mel front end, encoder with routers, and one linear layer over tokens, the first of them blank.

    Args:
        model: what a host saved.

    Attributes:
        encoder: the encoder.
        sample_rate: Hz.
        window_stride: seconds between two feature frames.
        names: of the tokens, blank included.
        layer_routers: for each layer with experts the number of its router.

    Raises:
        SigmelError: the encoder is none of ours, has no routers, or the parameters are not its own.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, model: Recogniser):
        super().__init__()
        from sentencepiece import SentencePieceProcessor

        from sigmel.models.checkpoint import END

        self.frontend = LogMel(**model.frontend)
        encoder = registry.build("encoder", model.encoder, input_size=self.frontend.output_size(), **model.options)
        if not isinstance(encoder, OmniRouterEncoder) or not len(encoder.routers):
            raise SigmelError(f"encoder: {model.encoder} has no routers here (dense?), so nothing is routed")
        try:
            encoder.load_state_dict(model.state)
        except RuntimeError as error:
            raise SigmelError(f"encoder: its parameters do not fit its options: {error}") from error
        self.encoder = encoder
        self.sample_rate: int = model.frontend["sample_rate"]
        self.window_stride: float = model.frontend["window_stride"]
        self.names = ["<blank>", *model.pieces]
        self.layer_routers = [encoder.router_of_layer[layer] for layer in sorted(encoder.router_of_layer)]
        self.register_buffer("weight", model.weight)
        self.register_buffer("bias", model.bias)
        self._silent = ("<blank>", END)
        self._tokenizer = SentencePieceProcessor(model_proto=model.tokenizer)

    def forward(self, waveforms: Tensor, lengths: Tensor) -> EncoderOutput:
        """Encode (B, samples) waveforms of (B,) lengths in samples."""
        return self.encoder(*self.frontend(waveforms, lengths))

    def tokens(self, hidden: Tensor) -> Tensor:
        """(B, T) int64, the best token of each of (B, T, D) encoder frames."""
        return F.linear(hidden, self.weight, self.bias).argmax(-1)

    def text(self, tokens: Tensor) -> str:
        """The words of an utterance's (T,) best tokens: greedy CTC search."""
        spoken = [self.names[token] for token in tokens.unique_consecutive().tolist()]
        return self._tokenizer.decode_pieces([piece for piece in spoken if piece not in self._silent])


def load_recogniser(path: Path) -> RoutedRecogniser:
    """Load a ``.nemo``, ESPnet's packed ``.zip``, or a ``.pth`` with its ``config.yaml`` beside it, for inference.

    Raises:
        SigmelError: naming the file: there is none, its suffix is another, or it holds no CTC recogniser with our
            encoder, our log-mel front end and routers.
    """
    from sigmel.models.checkpoint import READERS

    if path.suffix not in READERS:
        raise SigmelError(f"{path}: the suffix must be one of {', '.join(READERS)}")
    if not path.is_file():
        raise SigmelError(f"{path}: no such model; train one first")
    model = READERS[path.suffix](path)
    try:
        recogniser = RoutedRecogniser(model)
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
    device = model.weight.device
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
