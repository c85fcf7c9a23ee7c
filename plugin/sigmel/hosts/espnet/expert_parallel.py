"""Expert parallelism in ESPnet's training: `asr_train` with the option `--expert_parallel`.

`torchrun --nproc_per_node 4 -m sigmel.hosts.espnet.expert_parallel --expert_parallel 4
--multiprocessing_distributed false [options of asr_train]`

Checkpoints are whole, as of one process: training can go on from them with any number of processes, with this program
or with `asr_train`, and ESPnet decodes with them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, ClassVar

from espnet2.tasks.asr import ASRTask
from espnet2.train.trainer import Trainer
from torch import nn
from torch.distributed.tensor.experimental import implicit_replication
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from sigmel.errors import SigmelError, exit_status
from sigmel.hosts.registration import espnet as espnet_registration
from sigmel.layers.expert_parallel import expert_mesh, parallelize_experts, spread_optimizer_state, whole_state

# At the top of the module, since a spawned worker imports this module anew and must find our classes as well.
espnet_registration.register()

# Options of ESPnet that cannot be used: the value that switches an option off, and the reason.
REFUSED = {
    "num_att_plot": (0, "one process runs the model alone, without the experts of the others"),
    "create_graph_in_tensorboard": (False, "one process runs the model alone, without the experts of the others"),
    "use_amp": (False, "torch's gradient scaler cannot take gradients of which some are spread and some are not"),
}


class ExpertParallelTrainer(Trainer):
    """ESPnet's trainer for a model whose experts are spread: clips all gradients together, and saves all experts."""

    _held: ClassVar[list[RemovableHandle]] = []

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """See `Trainer`."""
        parser.add_argument(
            "--expert_parallel", type=int, default=0, help="processes that share the experts; 0: each has all of them"
        )

    @staticmethod
    def resume(*, optimizers: Sequence[Optimizer], **others: Any) -> None:
        """See `Trainer`."""
        Trainer.resume(optimizers=optimizers, **others)
        for optimizer in optimizers:
            spread_optimizer_state(optimizer)

    @classmethod
    def train_one_epoch(cls, *, model: nn.Module, optimizers: Sequence[Optimizer], **others: Any) -> bool:
        """See `Trainer`."""
        while cls._held:
            cls._held.pop().remove()
        with implicit_replication():
            invalid = super().train_one_epoch(model=model, optimizers=optimizers, **others)
        # After validation one process saves alone. Here all processes still run together, and can gather the experts.
        cls._held += [_hold(part) for part in (getattr(model, "module", model), *optimizers)]
        return invalid


def _hold(part: nn.Module | Optimizer) -> RemovableHandle:
    """Make a model or an optimizer save the whole of its present state from now on."""
    whole = whole_state(part.state_dict())
    return part.register_state_dict_post_hook(lambda _, state, *others: state.update(whole))


class ExpertParallelASRTask(ASRTask):
    """ESPnet's recogniser task with the option `expert_parallel`."""

    trainer = ExpertParallelTrainer

    @classmethod
    def build_optimizers(cls, args: argparse.Namespace, model: nn.Module) -> list[Optimizer]:
        """Spread the experts of the model, which is on its device, and then make its optimizers; see `AbsTask`.

        Raises:
            SigmelError: an option of `REFUSED`, or see `expert_mesh` and `parallelize_experts`.
        """
        if args.expert_parallel:
            for option, (off, reason) in REFUSED.items():
                if getattr(args, option) != off:
                    raise SigmelError(f"{option}: not with expert_parallel, since {reason}; set {option}: {off}")
            device = next(model.parameters()).device
            parallelize_experts(model, expert_mesh(device.type, args.expert_parallel))
        return super().build_optimizers(args, model=model)


if __name__ == "__main__":
    sys.exit(exit_status(ExpertParallelASRTask.main))
