"""Experts over several processes: losses, outputs, gradients, steps and checkpoints are those of one process."""

import copy

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.experimental import implicit_replication
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from sigmel.errors import SigmelError
from sigmel.layers.expert_parallel import (
    expert_mesh,
    gather_experts,
    parallelize_experts,
    spread_optimizer_state,
    whole_state,
)
from sigmel.layers.experts import ExpertFeedForward
from sigmel.layers.routing import Router, load_balance_loss
from sigmel.models.encoder import OmniRouterEncoder
from sigmel.models.stack import parameter_counts

LENGTHS = [37, 22, 9, 30, 12, 33, 24, 16]  # of the whole batch; two utterances for each of four processes
TINY = {"input_size": 8, "d_model": 16, "num_layers": 2, "num_heads": 2, "subsampling_channels": 4, "conv_kernel": 5}
TINY |= {"ff_size": 32, "experts": 4, "dropout": 0.0, "jitter": 0.0, "load_balance_weight": 0.1, "z_loss_weight": 0.01}
TINY |= {"gradient_sharing": 0.3}


class Recogniser(nn.Module):
    """An encoder and CTC, as the hosts have them."""

    def __init__(self, routing="omni", top_k=1):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = OmniRouterEncoder(**TINY, routing=routing, top_k=top_k)
        self.head = nn.Linear(16, 5)
        for router in self.encoder.routers:
            nn.init.normal_(router.linear.weight)  # it begins so small that the choices of a step could change

    def forward(self, features, lengths):
        output = self.encoder(features, lengths)
        scores = self.head(output.hidden).log_softmax(-1).transpose(0, 1)
        targets = torch.tensor([[1, 2]]).repeat(len(lengths), 1)
        ctc = F.ctc_loss(scores, targets, output.lengths, torch.full_like(lengths, 2), reduction="none")
        return ctc.mean() + output.aux_loss, output.hidden, output.aux_loss


def batch(step, rank=0, world=1):
    """A process's utterances of a batch, padded to the longest of them."""
    torch.manual_seed(step)
    features = torch.randn(len(LENGTHS), max(LENGTHS), 8)
    each = len(LENGTHS) // world
    lengths = torch.tensor(LENGTHS[rank * each : (rank + 1) * each])
    return features[rank * each : (rank + 1) * each, : lengths.max()], lengths


def adam(model):
    return torch.optim.AdamW(model.parameters(), lr=0.01, eps=1e-3)  # a larger eps, or rounding errors become steps


def train_step(model, optimizer, features, lengths):
    """As a host does it, with gradients clipped by their norm, which is far above 0.1 here."""
    optimizer.zero_grad()
    loss, hidden, aux_loss = model(features, lengths)
    loss.backward()
    with implicit_replication():
        norm = clip_grad_norm_(model.parameters(), 0.1)
    assert norm > 0.2
    optimizer.step()
    return loss.detach(), hidden.detach(), aux_loss.detach(), whole(norm)


def whole(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def close(actual, expected, what=""):
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=2e-6, msg=lambda text: f"{what}: {text}")


def close_parameters(model, expected):
    for (name, p), q in zip(model.named_parameters(), expected.parameters(), strict=True):
        close(whole(p.detach()), q.detach(), name)
        close(whole(p.grad), q.grad, f"gradient of {name}")


def mean_over_processes(x):
    dist.all_reduce(x)
    return x / dist.get_world_size()


def check_training(rank, world, mesh, routing, top_k):
    expected = Recogniser(routing, top_k)
    model = copy.deepcopy(expected)
    parallelize_experts(model, mesh)
    assert model.encoder.blocks[0].feed_forward.w1.to_local().shape == (4 // mesh.size(-1), 32, 16)
    assert rank or parameter_counts(model.encoder) == parameter_counts(expected.encoder)
    parallel = DistributedDataParallel(model)
    ours, theirs = adam(parallel), adam(expected)
    loss, hidden, aux_loss, norm = train_step(parallel, ours, *batch(0, rank, world))
    expected_loss, expected_hidden, expected_aux_loss, expected_norm = train_step(expected, theirs, *batch(0))
    close(mean_over_processes(loss), expected_loss)
    close(aux_loss, expected_aux_loss)
    close(norm, expected_norm)
    rows = len(hidden)
    close(hidden, expected_hidden[rank * rows : (rank + 1) * rows, : hidden.shape[1]])
    close_parameters(model, expected)
    gather_experts(model)
    if rank == 0:  # it needs nobody any more
        close(model(*batch(1)), expected(*batch(1)))


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.router, self.experts = Router(6, 4, top_k=2), ExpertFeedForward(6, 12, 4, "swiglu")
        nn.init.normal_(self.router.linear.weight)

    def forward(self, u, valid):
        y, decision = self.experts(u, self.router, valid)
        return y.square().sum() + load_balance_loss(decision, valid)


def check_uneven(rank, world, mesh):
    """Processes with nothing but padding, with no frame at all, and whose experts no frame chooses."""
    everything = torch.randn(world, 5, 6, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(world, 5, dtype=torch.bool)
    for case in ("padding", "no frames", "unchosen"):
        expected = Layer()
        mine, rows = valid.clone(), slice(rank, rank + 1)
        if case == "unchosen":
            expected.router.linear.bias.data[:2] = 100.0
        else:
            mine[-1] = False
        if case == "no frames" and rank == world - 1:
            rows = slice(0, 0)
        model = copy.deepcopy(expected)
        parallelize_experts(model, mesh)
        parallel = DistributedDataParallel(model)
        parallel(everything[rows], mine[rows]).backward()
        (sum_of_squares(expected, everything, mine) / world + balance(expected, everything, mine)).backward()
        for (name, p), q in zip(model.named_parameters(), expected.parameters(), strict=True):
            close(whole(p.grad), q.grad, f"{case}, {name}")


def sum_of_squares(layer, u, valid):
    return layer.experts(u, layer.router, valid)[0].square().sum()


def balance(layer, u, valid):
    return load_balance_loss(layer.router(u), valid)


def check_accumulation(rank, world, mesh):
    """Two backward passes before a step, the first without DDP's reduction."""
    expected = Recogniser()
    model = copy.deepcopy(expected)
    parallelize_experts(model, mesh)
    parallel = DistributedDataParallel(model)
    with parallel.no_sync():
        parallel(*batch(0, rank, world))[0].backward()
    parallel(*batch(1, rank, world))[0].backward()
    for step in range(2):
        expected(*batch(step))[0].backward()
    close_parameters(model, expected)


def check_fully_shard(rank, world, mesh):
    expected = Recogniser()
    model = copy.deepcopy(expected)
    parallelize_experts(model, mesh)
    experts = {p for p in model.parameters() if isinstance(p, DTensor)}
    for block in model.encoder.blocks:
        fully_shard(block, mesh=init_device_mesh("cpu", (world,)), ignored_params=experts)
    fully_shard(model, mesh=init_device_mesh("cpu", (world,)), ignored_params=experts)
    ours, theirs = adam(model), adam(expected)
    for net, optimizer, share in ((model, ours, (rank, world)), (expected, theirs, (0, 1))):
        net(*batch(0, *share))[0].backward()
        optimizer.step()
    close_parameters(model, expected)


def check_checkpoints(rank, world, mesh, folder, before, after):
    """Go on from the checkpoint of another number of processes, in either format, and write the next."""
    expected, theirs = reference(before)
    features = batch(before, rank, world)
    train_step(expected, theirs, *batch(before))
    for kind in ("whole", "sharded"):
        torch.manual_seed(rank)
        model = Recogniser()
        for p in model.parameters():
            p.data.normal_()  # all of it must come from the checkpoint
        parallelize_experts(model, mesh)
        parallel = DistributedDataParallel(model)
        optimizer = adam(parallel)
        if kind == "whole":
            checkpoint = torch.load(folder / f"{before}.pt")
            model.load_state_dict(checkpoint["model"])
            optimizer.load_state_dict(checkpoint["optimizer"])
            spread_optimizer_state(optimizer)
        else:
            state = dict(zip(("model", "optimizer"), get_state_dict(parallel, optimizer), strict=True))
            dcp.load(state, checkpoint_id=folder / f"{before}")
            set_state_dict(parallel, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
        train_step(parallel, optimizer, *features)
        close_parameters(model, expected)
        if kind == "whole":
            state = {"model": whole_state(model.state_dict()), "optimizer": whole_state(optimizer.state_dict())}
            if rank == 0:
                torch.save(state, folder / f"{after}.pt")
        else:
            state = dict(zip(("model", "optimizer"), get_state_dict(parallel, optimizer), strict=True))
            dcp.save(state, checkpoint_id=folder / f"{after}")


def reference(steps):
    """One process after so many steps."""
    model = Recogniser()
    optimizer = adam(model)
    for step in range(steps):
        train_step(model, optimizer, *batch(step))
    return model, optimizer


def check_errors(mesh):
    with pytest.raises(SigmelError, match=r"blocks.0.feed_forward are no multiple of 2 processes"):
        parallelize_experts(OmniRouterEncoder(**(TINY | {"experts": 3})), mesh)
    with pytest.raises(SigmelError, match="OmniRouterEncoder has no experts"):
        parallelize_experts(OmniRouterEncoder(**TINY, routing="dense"), mesh)
    with pytest.raises(SigmelError, match="3 dimensions"):
        parallelize_experts(OmniRouterEncoder(**TINY), init_device_mesh("cpu", (1, 1, 2)))
    with pytest.raises(SigmelError, match="2 processes are no multiple of 3"):
        expert_mesh("cpu", 3)
    model = OmniRouterEncoder(**TINY)
    parallelize_experts(model, mesh)
    with pytest.raises(SigmelError, match=r"blocks.0.feed_forward is parallel already"):
        parallelize_experts(model, mesh)


def run(rank, world, store, folder):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    try:
        if world == 4:
            check_checkpoints(rank, world, expert_mesh("cpu"), folder, before=1, after=2)
            check_training(rank, world, expert_mesh("cpu"), "omni", top_k=2)
            replicated = expert_mesh("cpu", 2)
            check_training(rank, world, replicated, "switch", top_k=1)
            check_training(rank, world, replicated, "omni", top_k=2)
            check_accumulation(rank, world, replicated)
            check_uneven(rank, world, replicated)
        else:
            mesh = init_device_mesh("cpu", (2,))
            check_checkpoints(rank, world, mesh, folder, before=2, after=3)
            for routing in ("omni", "switch"):
                for top_k in (1, 2):
                    check_training(rank, world, mesh, routing, top_k)
            check_fully_shard(rank, world, mesh)
            check_uneven(rank, world, mesh)
            check_errors(mesh)
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_several_processes_are_as_one(tmp_path, processes):
    """One test, as it takes longer to start processes than to check what they do."""
    model, optimizer = reference(1)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "1.pt")
    state = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True))
    dcp.save(state, checkpoint_id=tmp_path / "1", no_dist=True)
    processes(run, 4, tmp_path)
    processes(run, 2, tmp_path)
    expected, theirs = reference(3)
    train_step(expected, theirs, *batch(3))
    for kind in ("whole", "sharded"):
        model = Recogniser()
        optimizer = adam(model)
        if kind == "whole":
            checkpoint = torch.load(tmp_path / "3.pt")
            model.load_state_dict(checkpoint["model"])
            optimizer.load_state_dict(checkpoint["optimizer"])
        else:
            state = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True))
            dcp.load(state, checkpoint_id=tmp_path / "3", no_dist=True)
            set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
        train_step(model, optimizer, *batch(3))
        close_parameters(model, expected)


def test_there_must_be_processes():
    with pytest.raises(SigmelError, match="there is no process group"):
        expert_mesh("cpu")
