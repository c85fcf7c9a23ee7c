"""`sigmel upcycle`: a dense model becomes one with routed experts that gives the same outputs at first.

The options and the feed-forwards of the encoder or language model are edited in the model file. All else is kept,
whatever it is, so no host is needed. See `sigmel.models.upcycling` for what becomes of the parameters.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sigmel.checkpoints import KINDS, format_of
from sigmel.errors import SigmelError, reading
from sigmel.models.upcycling import UPCYCLED, upcycle


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `sigmel upcycle`."""
    parser.description = (
        f"{parser.description} The encoder, or the language model over dMel, is sigmel's with routing: dense, or the "
        "encoder is one of NeMo or ESPnet. Each expert becomes a copy of the layer's feed-forward (of two, the "
        "second), so that the outputs stay the same until the model is trained on: see docs/upcycling.md."
    )
    parser.add_argument("source", type=Path, help=f"dense model: {KINDS}")
    parser.add_argument("-o", "--output", type=Path, required=True, help="new file of the same kind")
    parser.add_argument("--routing", default="omni", help="switch, omni or path:<k> (default: %(default)s)")
    parser.add_argument("--experts", type=int, default=4, help="experts of a layer (default: %(default)s)")
    parser.add_argument("--top-k", type=int, default=1, help="experts a frame is sent to (default: %(default)s)")
    parser.add_argument("--expert-layers", default="all", help="all, every:<n> or 4x2-4x4 (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the new routers (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Upcycle a model file."""
    model_file = format_of(args.source)
    if args.output.suffix != args.source.suffix:
        raise SigmelError(f"--output {args.output}: the suffix must be {args.source.suffix}, that of the dense model")
    if args.output.exists():
        raise SigmelError(f"{args.output} exists already; remove it, or take another name")
    options = {name: getattr(args, name) for name in ("routing", "experts", "top_k", "expert_layers")}
    with reading(args.source, "a dense model"):
        checkpoint = model_file.read(args.source)
        stack = model_file.add_experts(checkpoint.config, options | UPCYCLED)
        checkpoint.state = upcycle(checkpoint.state, stack, **options, seed=args.seed)
    model_file.write(checkpoint, args.output)
    print(f"{args.output}: {args.experts} experts, {args.routing}, from {args.source}")
    return 0
