#!/usr/bin/env python3
"""The feed-forward of routed experts beside what else there is, on this machine's CPU, in float32.

Peers: a dense feed-forward with the active parameters, which is the limit; a plain loop over the experts; Hugging
Face's Switch Transformers; for a few frames, the time it takes to read the weights of the experts that they chose.
"""

from __future__ import annotations

import torch
from side_by_side import Row, Work, compare, options, report
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import SwitchTransformersConfig
from transformers.models.switch_transformers.modeling_switch_transformers import SwitchTransformersSparseMLP

from sigmel.layers.experts import ExpertFeedForward, FeedForward
from sigmel.layers.routing import Router
from sigmel.ops import expert_mlp

SIZE, HIDDEN = 512, 2048
Experts = tuple[Tensor, Tensor, Tensor, Tensor]


def make(experts: int) -> Experts:
    """Weights and biases of so many experts."""
    layer = ExpertFeedForward(SIZE, HIDDEN, experts, "relu")
    return layer.w1, layer.b1, layer.w2, layer.b2


def choose(frames: int, experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random frames, their experts and gates."""
    gates, chosen = torch.rand(frames, experts).softmax(-1).topk(1, dim=-1)
    return torch.randn(frames, SIZE), chosen, gates


def loop(x: Tensor, chosen: Tensor, gates: Tensor, weights: Experts) -> Tensor:
    """A plain loop over the experts."""
    w1, b1, w2, b2 = weights
    output = torch.zeros_like(x)
    for e in range(w1.shape[0]):
        frames = (chosen[:, 0] == e).nonzero()[:, 0]
        if len(frames):
            value = F.linear(F.relu(F.linear(x[frames], w1[e], b1[e])), w2[e], b2[e])
            output.index_add_(0, frames, value * gates[frames])
    return output


def trained(work: Work, inputs: list[Tensor]) -> Work:
    """Forward and backward of it."""
    grad = torch.randn(2000, SIZE)
    return lambda: torch.autograd.grad(work(), inputs, grad)  # type: ignore[arg-type]


def many_frames(experts: int, repeats: int) -> list[Row]:
    """2000 frames."""
    weights, dense = make(experts), FeedForward(SIZE, HIDDEN, "relu", dropout=0.0).eval()
    x, chosen, gates = choose(2000, experts)

    def ours() -> Tensor:
        return expert_mlp(x, chosen, gates, *weights, "relu")

    case = f"2000 frames, {experts} experts"
    with torch.no_grad():
        torch.testing.assert_close(ours(), loop(x, chosen, gates, weights), atol=1e-5, rtol=1e-4)
        rows = [
            compare(case, ours, "dense, as many active parameters", lambda: dense(x), repeats),
            compare(case, ours, "a loop over the experts", lambda: loop(x, chosen, gates, weights), repeats),
            with_router(case, x, experts, repeats),
        ]
    x.requires_grad_()
    rows.append(
        compare(
            f"{case}, forward + backward",
            trained(ours, [x, *weights]),
            "dense, as many active parameters",
            trained(lambda: dense(x), [x, *dense.parameters()]),
            max(3, repeats // 3),
        )
    )
    return rows


def with_router(case: str, x: Tensor, experts: int, repeats: int) -> Row:
    """The whole layer, its router included, against Hugging Face's with the same weights."""
    config = SwitchTransformersConfig(
        d_model=SIZE, d_ff=HIDDEN, num_experts=experts, expert_capacity=len(x), dropout_rate=0.0, router_bias=True
    )
    theirs = SwitchTransformersSparseMLP(config).eval()
    router = Router(SIZE, experts, top_k=1, jitter=0.0).eval()
    layer = ExpertFeedForward(SIZE, HIDDEN, experts, "relu")
    router.linear = theirs.router.classifier
    for e in range(experts):
        layer.w1[e], layer.w2[e] = theirs.experts[f"expert_{e}"].wi.weight, theirs.experts[f"expert_{e}"].wo.weight
    nn.init.zeros_(layer.b1)
    nn.init.zeros_(layer.b2)
    frames, valid = x[None], torch.ones(1, len(x), dtype=torch.bool)
    torch.testing.assert_close(layer(frames, router, valid)[0], theirs(frames), atol=1e-4, rtol=1e-4)
    name = "SwitchTransformersSparseMLP"
    return compare(f"{case}, with router", lambda: layer(frames, router, valid), name, lambda: theirs(frames), repeats)


def few_frames(frames: int, repeats: int) -> list[Row]:
    """A streaming step of so many frames, through layers whose weights do not fit into a cache together."""
    layers = [make(8) for _ in range(4)]
    denses = [FeedForward(SIZE, HIDDEN, "relu", dropout=0.0).eval() for _ in layers]
    x, chosen, gates = choose(frames, 8)
    touched = chosen.unique().tolist()
    case = f"{frames} frames, {len(touched)} of 8 experts chosen, 4 layers"
    ours: Work = lambda: [expert_mlp(x, chosen, gates, *weights, "relu") for weights in layers]  # noqa: E731
    with torch.no_grad():
        return [
            compare(case, ours, "dense", lambda: [dense(x) for dense in denses], repeats),
            compare(
                case,
                ours,
                "their weights read once (sum)",
                lambda: [weight[e].sum() for w1, _, w2, _ in layers for weight in (w1, w2) for e in touched],
                repeats,
            ),
        ]


def main() -> None:
    """Run everything."""
    args = options(__doc__)
    repeats = 3 if args.quick else 21
    rows = [*many_frames(8, repeats), *many_frames(32, repeats), *few_frames(1, repeats), *few_frames(8, repeats)]
    report(rows, args.json)


if __name__ == "__main__":
    main()
