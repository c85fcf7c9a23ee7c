"""Upcycling: routed experts for a dense encoder or language model, out of its parameters (arXiv 2212.05055).

Every expert is a copy of the layer's dense feed-forward; only the routers are new. With `normalize_gates` the gates of
a frame sum to 1, so that the outputs are those of the dense model at first. The experts come to differ because each
sees other frames: a new router sends frames to experts by chance, but similar frames to the same expert, and the
load-balancing loss keeps all experts in use. The router learns from the main loss from the first step on, since the
sum of the gates counts as a constant in its gradient, see `sigmel.layers.routing.Router`. With `gradient_sharing`
experts learn mostly from all frames, as the dense feed-forward would; without it the model falls behind the dense
model at first, as each expert sees only one of E frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count, takewhile
from typing import NamedTuple

import torch
from torch import Tensor

from sigmel.errors import SigmelError
from sigmel.layers.routed_feed_forward import expert_copies
from sigmel.layers.routing import Routing

# The options, besides routing, of a model whose experts begin as copies.
UPCYCLED = {"normalize_gates": True, "gradient_sharing": 0.8}


class Stack(NamedTuple):
    """The names of the parameters of a stack of layers that upcycling changes.

    Attributes:
        feed_forward: prefix of the feed-forward of layer "{}".
        linears: the two linear layers of a feed-forward.
        experts: follows `feed_forward` in the names of experts.
        routers: prefix of the routers.
    """

    feed_forward: str
    linears: tuple[str, str]
    experts: str
    routers: str

    def within(self, prefix: str) -> Stack:
        """The names of the same parameters in a model that has the stack under a prefix."""
        return self._replace(feed_forward=prefix + self.feed_forward, routers=prefix + self.routers)


OURS = Stack("blocks.{}.feed_forward.", ("linear1", "linear2"), "", "routers.")


def upcycle(
    state: Mapping[str, Tensor],
    stack: Stack = OURS,
    routing: str = "omni",
    experts: int = 4,
    top_k: int = 1,
    expert_layers: str = "all",
    seed: int = 1,
) -> dict[str, Tensor]:
    """Give a dense model experts, see the head of this module.

    Args:
        state: the parameters of the dense model; those of other parts are kept as they are.
        stack: the names of parameters. Default: those of our encoder and of `sigmel.models.lm.DMelLM`.
        routing, experts, top_k, expert_layers: see `sigmel.layers.routing.Routing`.
        seed: of the new routers. Default: 1.

    Returns:
        The parameters of the model that is built with these options and those of `UPCYCLED`.

    Raises:
        SigmelError: the model has experts already, or feed-forwards that are not two linear layers, or the options do
            not fit the model.
    """
    state = dict(state)
    if any(name.startswith(stack.routers) for name in state):
        raise SigmelError("the model has experts already; only a dense model can be upcycled")
    first = f"{stack.linears[0]}.weight"
    prefixes = list(takewhile(lambda prefix: prefix + first in state, map(stack.feed_forward.format, count())))
    if not prefixes:
        raise SigmelError(f"the weights have no {stack.feed_forward.format(0)}{first}, so no layer can be upcycled")
    weight = state[prefixes[0] + first]
    if weight.dim() != 2:
        raise SigmelError(f"{prefixes[0]}{first} is {tuple(weight.shape)}; only linear layers can become experts")
    if routing == "dense":
        raise SigmelError("routing: 'dense' has no experts; take switch, omni or path:<k>")
    options = Routing(routing, experts, top_k, expert_layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        routers = options.build_routers(len(prefixes), weight.shape[1])
    for layer, prefix in enumerate(prefixes):
        if (router := routers.of(layer)) is not None:
            copies = expert_copies(state, prefix, stack.linears, router.num_experts)
            state |= {f"{prefix}{stack.experts}{name}": value for name, value in copies.items()}
    return state | {f"{stack.routers}{name}": value.to(weight.dtype) for name, value in routers.state_dict().items()}
