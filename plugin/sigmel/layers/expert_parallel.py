"""Expert parallelism: the experts of a model are spread over processes, and frames are sent to their experts.

The model knows nothing of this. `parallelize_experts` turns each `ExpertFeedForward` of a model into a layer that
holds its process's share of the experts (DTensors, sharded over their first dimension) and exchanges frames with the
other processes by all-to-all. Data parallelism, optimizer and training loop stay the host's.

Gradients follow the convention of data parallelism, by which the loss of a step is the mean of the processes' losses.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._functional_collectives import all_to_all_single_autograd
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_map_only

from sigmel.errors import SigmelError
from sigmel.layers.experts import ExpertFeedForward
from sigmel.layers.routing import Router, RoutingDecision
from sigmel.ops import expert_mlp


def expert_mesh(device_type: str, size: int | None = None) -> DeviceMesh:
    """All processes as a mesh of (replicas, size): `size` neighbours share the experts, and each such group has all.

    Args:
        device_type: "cpu" or "cuda", where the model is.
        size: how many processes share the experts. Default: all.

    Raises:
        SigmelError: there is no process group, or `size` does not divide the number of processes.
    """
    if not dist.is_initialized():
        raise SigmelError(
            "expert parallelism: there is no process group; start the processes with torchrun or the host's launcher, "
            "and call torch.distributed.init_process_group first"
        )
    world = dist.get_world_size()
    size = world if size is None else size
    if size < 1 or world % size:
        raise SigmelError(f"expert parallelism: {world} processes are no multiple of {size}; take a size that divides")
    return init_device_mesh(device_type, (world // size, size), mesh_dim_names=("replicas", "experts"))


def parallelize_experts(model: nn.Module, mesh: DeviceMesh) -> None:
    """Spread the experts of a model over a mesh, in place. All processes of the mesh call this, and later the model.

    The model has to be on its device. The optimizer is made afterwards, and the model is wrapped afterwards:
    DistributedDataParallel is told here to leave the experts alone, which get their gradients here; `fully_shard` is
    told by its own argument ignored_params. The weights become those of the mesh's first process.

    From then on the losses of routing are those of all processes' frames together, the same number on each process.
    Every process must run the model equally often, if need be on padding alone.

    Args:
        model: a model with experts. The names and the shapes of its parameters stay the same, and so do state dicts,
            except that the weights of experts are DTensors; whole weights can be loaded as well.
        mesh: of one dimension, the processes that share the experts; or of two, (replicas, experts), where each row
            has all experts, as with `torch.distributed.fsdp.fully_shard`. The processes of the mesh must be those over
            which the host averages gradients. See `expert_mesh`.

    Raises:
        SigmelError: the mesh has more dimensions, the model has no experts or is parallel already, or the number of a
            layer's experts is no multiple of the processes that share them.
    """
    if mesh.ndim > 2:
        raise SigmelError(f"mesh: {mesh.ndim} dimensions; expected (experts) or (replicas, experts)")
    shares = mesh.size(-1)
    layers = _layers(model, ExpertFeedForward)
    if not layers:
        raise SigmelError(f"parallelize_experts: {type(model).__name__} has no experts; is its routing dense?")
    for name, layer in layers.items():
        if isinstance(layer, ParallelExpertFeedForward):
            raise SigmelError(f"parallelize_experts: {name} is parallel already")
        if len(layer.w1) % shares:
            raise SigmelError(
                f"parallelize_experts: the {len(layer.w1)} experts of {name} are no multiple of {shares} processes; "
                "change the number of either"
            )
    placements = [*[Replicate()] * (mesh.ndim - 1), Shard(0)]
    for layer in layers.values():
        for name, whole in list(layer.named_parameters()):
            shard = distribute_tensor(whole.detach(), mesh, placements)
            setattr(layer, name, nn.Parameter(shard, requires_grad=whole.requires_grad))
        layer.__class__ = ParallelExpertFeedForward  # as fully_shard does: the module stays, with its name and hooks
    _ignore_in_ddp(model, _ignored_in_ddp(model) | _names(layers))


def gather_experts(model: nn.Module) -> None:
    """Give each process the whole model again, the inverse of `parallelize_experts`; all processes call this."""
    layers = _layers(model, ParallelExpertFeedForward)
    for layer in layers.values():
        for name, shard in list(layer.named_parameters()):
            whole = cast(DTensor, shard.detach()).full_tensor()
            setattr(layer, name, nn.Parameter(whole, requires_grad=shard.requires_grad))
        layer.__class__ = ExpertFeedForward
    _ignore_in_ddp(model, _ignored_in_ddp(model) - _names(layers))


def _layers(model: nn.Module, kind: type[ExpertFeedForward]) -> dict[str, ExpertFeedForward]:
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, kind)}


def _names(layers: dict[str, ExpertFeedForward]) -> set[str]:
    return {f"{prefix}.{name}" for prefix, layer in layers.items() for name, _ in layer.named_parameters()}


def _ignored_in_ddp(model: nn.Module) -> set[str]:
    return set(getattr(model, "_ddp_params_and_buffers_to_ignore", ()))


def _ignore_in_ddp(model: nn.Module, names: set[str]) -> None:
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, names)


class ParallelExpertFeedForward(ExpertFeedForward):
    """An `ExpertFeedForward` with this process's share of the experts; made by `parallelize_experts`."""

    @property
    def mesh(self) -> DeviceMesh:
        """The mesh, of dimensions (experts) or (replicas, experts)."""
        return cast(DTensor, self.w1).device_mesh

    def forward(self, u: Tensor, router: Router, valid: Tensor) -> tuple[Tensor, RoutingDecision]:
        """See `ExpertFeedForward`; the losses of the decision are those of all processes' frames."""
        y, decision = super().forward(u, router, valid)
        return y, decision._replace(total=partial(_Total.apply, self.mesh))

    def mlp(self, x: Tensor, experts: Tensor, gates: Tensor) -> Tensor:
        """See `ExpertFeedForward`."""
        group = self.mesh.get_group(-1)
        shares = self.mesh.size(-1)
        flat = experts.flatten()
        order = flat.argsort(stable=True)[(flat < 0).sum() :]  # choices by expert, and so by process
        sent = torch.bincount(flat[order], minlength=len(self.w1)).view(shares, -1)  # (process, its experts)
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=group)
        outgoing, incoming = sent.sum(1).tolist(), received.sum(1).tolist()

        rows = all_to_all_single_autograd(x[order // experts.shape[1]], incoming, outgoing, group)
        own = torch.arange(received.shape[1], device=x.device).repeat(shares).repeat_interleave(received.flatten())
        w1, b1, w2, b2 = self._weights()
        rows = expert_mlp(rows, own[:, None], gates.new_ones(len(own), 1), w1, b1, w2, b2, self.activation)
        rows = all_to_all_single_autograd(rows, outgoing, incoming, group)

        rows = rows * gates.flatten()[order, None].to(rows.dtype)
        return rows.new_zeros(flat.shape[0], x.shape[1]).index_copy(0, order, rows).unflatten(0, experts.shape).sum(1)

    def _own(self, weight: Tensor) -> Tensor:
        """This process's experts of a parameter, whose gradient becomes the mean over processes."""
        share = cast(DTensor, weight).to_local()
        if share.requires_grad:
            share.register_hook(partial(_mean_gradient, self.mesh))
        return share

    def _mean(self, grads: Tensor) -> Tensor:
        """See `ExpertFeedForward`; the processes have equally many experts."""
        return _sum(self.mesh, range(self.mesh.ndim - 1, self.mesh.ndim), super()._mean(grads)) / self.mesh.size(-1)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """See `nn.Module`; whole tensors are spread as the parameters are."""
        for name, parameter in self.named_parameters():
            value = state_dict.get(prefix + name)
            if value is not None and value.shape == parameter.shape:
                state_dict[prefix + name] = _spread(value, parameter)
        super()._load_from_state_dict(state_dict, prefix, *args)


class _Total(torch.autograd.Function):
    """Sum over all processes of a mesh, and of gradients: each process's loss depends on the inputs of all."""

    @staticmethod
    def forward(ctx: Any, mesh: DeviceMesh, x: Tensor) -> Tensor:
        ctx.mesh = mesh
        return _sum(mesh, range(mesh.ndim), x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        return None, _sum(ctx.mesh, range(ctx.mesh.ndim), grad)


def _mean_gradient(mesh: DeviceMesh, grad: Tensor) -> Tensor:
    """The mean over all processes of a gradient that all-to-all has summed over those that share the experts."""
    return _sum(mesh, range(mesh.ndim - 1), grad) / mesh.size()


def _sum(mesh: DeviceMesh, dimensions: range, x: Tensor) -> Tensor:
    total = x.clone(memory_format=torch.contiguous_format)
    for dimension in dimensions:
        dist.all_reduce(total, group=mesh.get_group(dimension))
    return total


def whole_state(state: dict[str, Any]) -> dict[str, Any]:
    """A state dict of a model or an optimizer with its DTensors gathered, on the CPU; all processes call this."""
    return tree_map_only(DTensor, lambda value: value.full_tensor().cpu(), state)


def spread_optimizer_state(optimizer: torch.optim.Optimizer) -> None:
    """Spread a whole state that an optimizer has loaded, as the parameters are spread; all processes call this."""
    for parameter, state in optimizer.state.items():
        if isinstance(parameter, DTensor):
            for name, value in state.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    state[name] = _spread(value, parameter)


def _spread(value: Tensor, like: Tensor) -> Tensor:
    like = cast(DTensor, like)
    return value if isinstance(value, DTensor) else distribute_tensor(value, like.device_mesh, like.placements)
