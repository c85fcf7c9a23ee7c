"""Mix-in of sigmel's NeMo encoders: their auxiliary loss goes to the model, their routing to an observer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nemo.core.classes.mixins import AccessMixin
from torch import Tensor

from sigmel.layers.routing import RoutingDecision


class EncoderMixin(AccessMixin):
    """Mix-in of NeMo encoders with routed experts.

    Attributes:
        routing_observer: called after each forward pass over whole utterances with the decisions, one for each layer
            with routed experts, and the (B,) lengths in encoder frames, as `RoutingStatistics().update` is. Default:
            None.
        attention_norms: (L,) of the last batch in training, see `sigmel.models.encoder.EncoderOutput`.
    """

    routing_observer: Callable[[Sequence[RoutingDecision], Tensor], None] | None = None
    attention_norms: Tensor | None = None

    def report_routing(self, routing: Sequence[RoutingDecision], lengths: Tensor, aux_loss: Tensor) -> None:
        """Show the decisions to the observer; in training, hand the loss to the model as NeMo's "adapter_loss".

        In `training_step` the model adds the losses registered under this name to its own loss, logs and clears them.
        """
        if self.routing_observer is not None:
            self.routing_observer(routing, lengths)
        if self.training and aux_loss.requires_grad:
            guid = getattr(self, "model_guid", None)
            self.set_access_enabled(access_enabled=True, guid=guid)
            self.register_accessible_tensor(name="adapter_loss", tensor=aux_loss)
