"""A dense encoder's or language model's parameters become those of the same model with routed experts.

It is done as in "Sparse Upcycling" (arXiv 2212.05055).

Every expert is a copy of the layer's dense feed-forward, only the routers are new. With `normalize_gates` the gates of
a frame sum to 1, so that the outputs are those of the dense encoder at first. The experts come to differ because each
sees other frames: a new router sends frames to experts by chance, but like frames alike, and the load-balancing loss
keeps all of them in use. The router is taught by the main loss from the first step on, since the sum of the gates
counts as a constant in its gradient, see `sigmel.layers.routing.Router`. With `gradient_sharing` experts learn most
from all frames, as the dense feed-forward would; without it the model falls behind the dense one at first, as each
expert sees but one of E frames.
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

# What an encoder with experts that begin as copies is built with, besides its routing.
UPCYCLED = {"normalize_gates": True, "gradient_sharing": 0.8}


class Stack(NamedTuple):
    """What a stack of layers calls the parameters that upcycling is about.

    Attributes:
        feed_forward: prefix of the feed-forward of layer "{}".
        linears: its two linear layers.
        experts: what follows `feed_forward` in the names of experts.
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
    """The parameters of a dense encoder, given experts; see the head of this module.

    They are those of the encoder that is built with these options and those of `UPCYCLED`.

    Args:
        state: the dense encoder's; other parameters are kept as they are.
        stack: their names. Default: those of `sigmel.models.encoder.OmniRouterEncoder`.
        routing, experts, top_k, expert_layers: see `sigmel.models.encoder.OmniRouterEncoder`.
        seed: of the new routers.

    Raises:
        SigmelError: the encoder has experts already, or feed-forwards that are not two linear layers, or the options
            do not fit it.
    """
    state = dict(state)
    if any(name.startswith(stack.routers) for name in state):
        raise SigmelError("the model has experts already; only a dense one can be upcycled")
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
