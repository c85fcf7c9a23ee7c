"""`torch.ops.sigmel.expert_mlp`, and the function that people call."""

from __future__ import annotations

import torch
from torch import Tensor

from sigmel.ops.dispatch import operator
from sigmel.ops.experts import reference
from sigmel.ops.experts.reference import Inputs


def _check_experts(inputs: Inputs, keep: bool) -> None:
    """On a CPU only: to look at values on a device is to wait for the device."""
    experts, count = inputs.experts, len(inputs.w1)
    if experts.device.type == "cpu" and experts.numel():
        low, high = map(int, experts.aminmax())
        if low < -1 or high >= count:
            raise ValueError(f"experts: from {low} to {high}, expected -1, which is no expert, to {count - 1}")


_forward = operator(
    "expert_mlp",
    reference.forward,
    fake=lambda inputs, keep: (
        inputs.x.new_empty(inputs.x.shape),
        reference.kept(inputs) if keep else inputs.x.new_empty(0),
    ),
    check=_check_experts,
)
operator(
    "expert_mlp_backward",
    reference.backward,
    fake=lambda grad, before, inputs: tuple(
        x.new_empty(x.shape) for x in (inputs.x, inputs.gates, inputs.w1, inputs.b1, inputs.w2, inputs.b2)
    ),
)


def _save(ctx, inputs, output):  # type: ignore[no-untyped-def]
    *tensors, ctx.activation, _ = inputs
    ctx.save_for_backward(output[1], *tensors)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, grad, _):  # type: ignore[no-untyped-def]
    grad_x, *grads = torch.ops.sigmel.expert_mlp_backward(grad.contiguous(), *ctx.saved_tensors, ctx.activation)
    return grad_x, None, *grads, None, None


_forward.register_autograd(_backward, setup_context=_save)


def expert_mlp(
    x: Tensor,
    experts: Tensor,
    gates: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    activation: str = "silu",
) -> Tensor:
    """Feed-forward of routed experts, `sum_k gates[n, k] * FFN[experts[n, k]](x[n])`, without dropping a frame.

    Switch Transformer (arXiv 2101.03961, section 2.1), as the Omni-router paper uses it (arXiv 2507.05724). Under
    autocast x and the parameters are cast to the autocast dtype, as for a linear layer.

    Args:
        x: (N, D) frames.
        experts: (N, K) int64, chosen experts in [0, E), -1 for no expert: a frame without a choice comes out as zero.
            On CUDA, where a check would have to wait for the device, any other number is no expert either.
        gates: (N, K) weight of each choice.
        w1: (E, F, D) first projections; b1: (E, F) their biases. Of a gated activation 2 F: first what is activated,
            then what that is multiplied with.
        w2: (E, D, F) second projections; b2: (E, D) their biases.
        activation: "relu", "gelu", "silu", or gated "reglu", "geglu", "swiglu" (arXiv 2002.05202). Default: "silu".

    Returns:
        (N, D) outputs in the dtype of x (of autocast, where it is on).

    Raises:
        ValueError: an unknown activation, shapes or types that do not fit or, on a CPU, experts beyond E; the message
            names the argument.
    """
    if activation not in reference.ACTIVATIONS:
        raise ValueError(f"activation: {activation!r} is none of {', '.join(reference.ACTIVATIONS)}")
    _check(Inputs(x, experts, gates, w1, b1, w2, b2, activation))
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, w1, b1, w2, b2 = (t.to(dtype) for t in (x, w1, b1, w2, b2))
    for name, tensor in (("w1", w1), ("b1", b1), ("w2", w2), ("b2", b2)):
        if tensor.dtype != x.dtype:
            raise ValueError(f"{name}: {tensor.dtype}, but x is {x.dtype}")
    inputs = Inputs(x, experts, gates, w1, b1, w2, b2, activation)
    if torch.jit.is_tracing():  # TorchScript's tracer, which NeMo exports with, has no name for our op
        return reference.every_expert(inputs, keep=False)[0]
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, gates, w1, b1, w2, b2))
    return torch.ops.sigmel.expert_mlp(*inputs, keep)[0]


def _check(inputs: Inputs) -> None:
    x, experts, gates, w1, b1, w2, b2, activation = inputs
    if experts.dtype != torch.int64:
        raise ValueError(f"experts: {experts.dtype}, expected torch.int64")
    if w2.dim() != 3 or experts.dim() != 2:
        raise ValueError(f"w2, experts: {w2.dim()} and {experts.dim()} dimensions, expected 3 and 2")
    count, size, hidden = w2.shape
    inner = reference.inner_size(hidden, activation)
    expected = {
        "x": (x, (experts.shape[0], size)),
        "gates": (gates, tuple(experts.shape)),
        "w1": (w1, (count, inner, size)),
        "b1": (b1, (count, inner)),
        "b2": (b2, (count, size)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor.shape != shape:
            raise ValueError(f"{name}: shape {tuple(tensor.shape)}, expected {shape}")
