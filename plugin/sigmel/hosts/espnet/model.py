"""ESPnet's recogniser, with the losses and figures of routed experts in training."""

from __future__ import annotations

import warnings
from statistics import fmean
from typing import Any

from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.torch_utils.device_funcs import force_gatherable
from torch import Tensor

from sigmel.checkpoints.strict_loading import check_when_loaded
from sigmel.errors import SigmelError
from sigmel.flat_options import flat_options
from sigmel.hosts.espnet.dmel_lm import DMelTokens
from sigmel.hosts.espnet.frontend import RegisteredFrontend
from sigmel.models.encoder import EncoderOutput
from sigmel.routing_study.statistics import RoutingStatistics


@flat_options(ESPnetASRModel)
class SigmelASRModel(ESPnetASRModel):
    """ESPnetASRModel that adds the `aux_loss` of its encoder, and of the decoder `RichASR`, to the training loss.

    The `aux_loss` of an encoder is load balancing, already weighted; without experts and `RichASR` the loss is that of
    ESPnetASRModel. The reporter shows at each step `aux_loss` and `attention_norm` (mean over layers of the 2-norm of
    the attention's output, see `sigmel.models.encoder.EncoderOutput`), and in validation how the routers decide:
    `routing_entropy` (nats, mean over layers), `routing_load` (the share of the busiest expert, mean over layers),
    `routing_overlap` (mean Jaccard overlap of a frame's experts in consecutive layers) and `dead_experts` (how many
    were not chosen in the batch).

    A checkpoint that lacks or adds parameters is refused (SigmelError).

    Args:
        *args, **kwargs: see ESPnetASRModel.

    Raises:
        SigmelError: the front end gives speech tokens that would be normalised, or `DMelTokens` gets no speech tokens.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        check_when_loaded(self, lambda name: True)
        if isinstance(self.frontend, RegisteredFrontend):
            self._check_frontend(self.frontend)

    def _check_frontend(self, frontend: RegisteredFrontend) -> None:
        if isinstance(self.encoder, DMelTokens) and not getattr(frontend.core, "ids", False):
            raise SigmelError("encoder: dmel_tokens takes the ids of frontend: dmel; set ids: true in frontend_conf")
        if getattr(frontend.core, "discrete", False) and self.normalize is not None:
            raise SigmelError(
                f"normalize: {type(self.normalize).__name__} would take mean and variance of speech tokens, which "
                f"frontend: {frontend.registered} gives; set normalize: null"
            )
        if getattr(getattr(self.encoder, "core", None), "chunk_size", None) is not None:
            # ESPnet would cut the waveform, and lose a frame at each cut without saying so.
            warnings.warn(
                f"ESPnet's streaming inference cannot cut frontend: {frontend.registered}, which needs whole "
                "utterances; for streaming, use frontend: default with n_fft, win_length and hop_length",
                stacklevel=3,
            )

    def forward(
        self, speech: Tensor, speech_lengths: Tensor, text: Tensor, text_lengths: Tensor, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """See ESPnetASRModel.forward."""
        loss, stats, weight = super().forward(speech, speech_lengths, text, text_lengths, **kwargs)
        if (decoder_loss := getattr(self.decoder, "aux_loss", None)) is not None:
            self.decoder.aux_loss = None
            loss = loss + decoder_loss
            stats |= {"decoder_loss": decoder_loss.detach(), "loss": loss.detach()}
        output = getattr(self.encoder, "output", None)
        if output is None:
            return force_gatherable((loss, stats, weight), loss.device)
        self.encoder.output = None
        if output.attention_norms is not None:
            stats["attention_norm"] = output.attention_norms.mean()
        if output.routing:
            stats["aux_loss"] = output.aux_loss.detach()
            if self.training:
                loss = loss + output.aux_loss
                stats["loss"] = loss.detach()
            else:
                stats |= routing_figures(output)
        # On several devices ESPnet gathers these values, which must be tensors of one dimension.
        return force_gatherable((loss, stats, weight), loss.device)


def routing_figures(output: EncoderOutput) -> dict[str, float]:
    """The figures of one batch's routing that `SigmelASRModel` reports."""
    statistics = RoutingStatistics()
    statistics.update(output.routing, output.lengths)
    summary = statistics.summary()
    layers, overlap = summary["layers"], summary["overlap"]
    return {
        "routing_entropy": fmean(layer["entropy"] for layer in layers),
        "routing_load": fmean(max(layer["load"]) for layer in layers),
        "routing_overlap": fmean(overlap) if overlap else 1.0,
        "dead_experts": float(sum(len(layer["dead_experts"]) for layer in layers)),
    }
