#!/usr/bin/env python3
"""The feed-forward of routed experts beside what else there is, in float32 on a CPU, in bfloat16 on a CUDA device.

Peers: a dense feed-forward with the active parameters, which is the limit; a plain loop over the experts; on a CPU
Hugging Face's Switch Transformers and, for a few frames, the time it takes to read the weights of the experts that
they chose; on a CUDA device torch's F.grouped_mm between a gather and a scatter, without biases.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import torch
from harness import Row, Work, compare, options, report
from torch import Tensor, nn
from torch.nn import functional as F

from sigmel.errors import exit_status, optional_library
from sigmel.layers.experts import ExpertFeedForward, FeedForward
from sigmel.layers.routing import Router
from sigmel.ops import expert_mlp

Experts = tuple[Tensor, Tensor, Tensor, Tensor]


class Setting(NamedTuple):
    """Sizes of a layer, how many frames go through it, where, in which type, and how close forms are then."""

    size: int
    hidden: int
    frames: int
    device: str
    dtype: torch.dtype
    close: float

    def place(self, module: nn.Module) -> nn.Module:
        """The module on this device, in this type."""
        return module.to(self.device, self.dtype).eval()


LAYERS = 12  # of a streaming step
CPU = Setting(512, 2048, 2000, "cpu", torch.float32, 1e-4)
CUDA = Setting(1024, 4096, 16384, "cuda", torch.bfloat16, 5e-2)


def make(experts: int, setting: Setting) -> Experts:
    """Weights and biases of some experts; the biases are zero, as not every peer has biases."""
    layer = setting.place(ExpertFeedForward(setting.size, setting.hidden, experts, "relu"))
    nn.init.zeros_(layer.b1)
    nn.init.zeros_(layer.b2)
    return layer.w1, layer.b1, layer.w2, layer.b2


def dense(setting: Setting) -> nn.Module:
    """A feed-forward with as many parameters as a frame uses."""
    return setting.place(FeedForward(setting.size, setting.hidden, "relu", dropout=0.0))


def choose(frames: int, experts: int, setting: Setting) -> tuple[Tensor, Tensor, Tensor]:
    """Random frames, their experts and gates."""
    gates, chosen = torch.rand(frames, experts, device=setting.device).softmax(-1).topk(1, dim=-1)
    return torch.randn(frames, setting.size, device=setting.device, dtype=setting.dtype), chosen, gates


def loop(x: Tensor, chosen: Tensor, gates: Tensor, weights: Experts) -> Tensor:
    """A plain loop over the experts."""
    w1, b1, w2, b2 = weights
    output = torch.zeros_like(x)
    for e in range(w1.shape[0]):
        frames = (chosen[:, 0] == e).nonzero()[:, 0]
        if len(frames):
            value = F.linear(F.relu(F.linear(x[frames], w1[e], b1[e])), w2[e], b2[e])
            output.index_add_(0, frames, value * gates[frames].to(x.dtype))
    return output


def grouped(x: Tensor, chosen: Tensor, gates: Tensor, weights: Experts) -> Tensor:
    """torch's grouped products, on rows sorted by expert."""
    w1, _, w2, _ = weights
    experts, order = chosen[:, 0].sort(stable=True)
    ends = torch.searchsorted(experts, torch.arange(1, len(w1) + 1, device=x.device), out_int32=True)
    value = F.grouped_mm(F.relu(F.grouped_mm(x[order], w1.mT, offs=ends)), w2.mT, offs=ends)
    return torch.empty_like(x).index_copy(0, order, value * gates[order].to(x.dtype))


def many_frames(experts: int, setting: Setting, repeats: int) -> list[Row]:
    """As many frames as a training step has."""
    weights, plain = make(experts, setting), dense(setting)
    x, chosen, gates = choose(setting.frames, experts, setting)
    x.requires_grad_()

    def ours() -> Tensor:
        return expert_mlp(x, chosen, gates, *weights, "relu")

    def trained(work: Work, inputs: list[Tensor]) -> Work:
        return lambda: torch.autograd.grad(work(), inputs, grad)  # type: ignore[arg-type]

    name, looped = "dense, as many active parameters", "a loop over the experts"
    peers: dict[str, Work] = {name: lambda: plain(x), looped: lambda: loop(x, chosen, gates, weights)}
    inputs, grad = {name: [x, *plain.parameters()]}, torch.randn_like(x)
    if setting.device == "cuda":
        peers["F.grouped_mm on sorted rows"] = lambda: grouped(x, chosen, gates, weights)
        inputs["F.grouped_mm on sorted rows"] = [x, weights[0], weights[2]]
    for mine, other in zip(*(trained(work, [x, *weights])() for work in (ours, peers[looped])), strict=True):
        if (mine - other).norm() > setting.close * other.norm():
            raise SystemExit("the gradients differ from those of a loop over the experts")
    case = f"{setting.frames} frames, {experts} experts"
    with torch.no_grad():
        for peer, theirs in peers.items():
            if peer != name:
                torch.testing.assert_close(ours(), theirs(), atol=setting.close / 10, rtol=setting.close)
        rows = [compare(case, ours, peer, theirs, repeats) for peer, theirs in peers.items()]
        if setting.device == "cpu":
            rows.append(with_router(case, x, experts, repeats))
    case, repeats = f"{case}, forward + backward", max(3, repeats // 3)
    both = trained(ours, [x, *weights])
    return rows + [compare(case, both, peer, trained(peers[peer], inputs[peer]), repeats) for peer in inputs]


def with_router(case: str, x: Tensor, experts: int, repeats: int) -> Row:
    """The whole layer, its router included, against Hugging Face's with the same weights."""
    use, install = "the peer of a layer with its router needs", "pip install transformers"
    switch = optional_library("transformers.models.switch_transformers.modeling_switch_transformers", use, install)
    config = switch.SwitchTransformersConfig(
        d_model=CPU.size,
        d_ff=CPU.hidden,
        num_experts=experts,
        expert_capacity=len(x),
        dropout_rate=0.0,
        router_bias=True,
    )
    theirs = switch.SwitchTransformersSparseMLP(config).eval()
    router = Router(CPU.size, experts, top_k=1, jitter=0.0).eval()
    layer = ExpertFeedForward(CPU.size, CPU.hidden, experts, "relu")
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
    """A streaming step of a few frames, through layers whose weights do not fit into a cache together."""
    layers = [make(8, CPU) for _ in range(LAYERS)]
    denses = [dense(CPU) for _ in layers]
    x, _, gates = choose(frames, 8, CPU)
    choices = [choose(frames, 8, CPU)[1] for _ in layers]
    read = [
        w[e] for (w1, _, w2, _), chosen in zip(layers, choices, strict=True) for e in chosen.unique() for w in (w1, w2)
    ]
    case = f"{frames} frames, {LAYERS} layers, {len(read) / 2 / LAYERS:.1f} of 8 experts chosen"

    def ours() -> list[Tensor]:
        return [
            expert_mlp(x, chosen, gates, *weights, "relu") for chosen, weights in zip(choices, layers, strict=True)
        ]

    with torch.no_grad():
        return [
            compare(case, ours, "dense", lambda: [plain(x) for plain in denses], repeats),
            compare(case, ours, "their weights read once (sum)", lambda: [w.sum() for w in read], repeats),
        ]


def main() -> None:
    """Run everything."""
    args = options(__doc__, devices=["cpu", "cuda"])
    if args.device == "cuda":
        rows = [row for experts in (8, 16, 32, 64) for row in many_frames(experts, CUDA, args.repeats)]
    else:
        rows = [row for experts in (8, 32) for row in many_frames(experts, CPU, args.repeats)]
        rows += [row for frames in (1, 8) for row in few_frames(frames, args.repeats)]
    report(rows, args.json)


if __name__ == "__main__":
    sys.exit(exit_status(main))
