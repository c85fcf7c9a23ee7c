#!/usr/bin/env python3
"""What the bias of sigmoid attention does: 0 against -ln n, without and with the paper's stabilisers.

Trains the tiny recipes' Conformer, without experts, with CTC on a manifest and draws attention norm and loss by step
(arXiv 2409.04431 draws the same of its models). The systems see the same batches and begin with the same weights.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path
from statistics import fmean

import torch
from harness import options, report
from matplotlib import pyplot
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from sigmel.errors import exit_status
from sigmel.features.log_mel import LogMel
from sigmel.files.atomic import atomic_path
from sigmel.files.audio import read_audio
from sigmel.files.manifest import Utterance, read_manifest
from sigmel.models.encoder import OmniRouterEncoder

BARE: dict[str, object] = {"qk_norm": False, "hybrid_norm": False, "layer_scale": None}
SYSTEMS: dict[str, dict[str, object]] = {
    "b = 0, bare": BARE | {"bias": 0.0},
    "b = -ln n, bare": BARE,
    "b = 0, stabilised": {"bias": 0.0},
    "b = -ln n, stabilised": {},
}
RATE = 16000
Batch = tuple[Tensor, Tensor, Tensor, Tensor]
Curves = dict[str, list[float]]


def batches(manifest: Path, words: dict[str, int], steps: int, size: int, seed: int) -> list[Batch]:
    """Batches of utterances of about one length, one a step: features, their lengths, targets, their lengths."""
    utterances = sorted(read_manifest(manifest), key=lambda utterance: utterance.duration)
    groups = list(itertools.zip_longest(*[iter(utterances)] * size))
    log_mel, generator = LogMel(RATE).eval(), torch.Generator().manual_seed(seed)
    chosen = [groups[n] for n in torch.randint(len(groups) - 1, (steps,), generator=generator)]
    return [batch(manifest.parent, group, words, log_mel) for group in tqdm(chosen, desc="features")]


def batch(folder: Path, group: tuple[Utterance, ...], words: dict[str, int], log_mel: LogMel) -> Batch:
    """One batch."""
    waves = [torch.from_numpy(read_audio(folder / utterance.audio_filepath, RATE)[0]) for utterance in group]
    targets = [torch.tensor([words[word] for word in utterance.text.split()]) for utterance in group]
    padded = nn.utils.rnn.pad_sequence(waves, batch_first=True)
    features, lengths = log_mel(padded, torch.tensor([len(wave) for wave in waves]))
    return features, lengths, torch.cat(targets), torch.tensor([len(target) for target in targets])


def train(attention: dict[str, object], data: list[Batch], words: int, seed: int, name: str) -> Curves:
    """Attention norm (mean over layers) and loss of each step."""
    torch.manual_seed(seed)
    encoder = OmniRouterEncoder(
        d_model=144,
        num_layers=4,
        ff_size=288,
        subsampling="stack",
        routing="dense",
        attention="sigmoid",
        attention_options=attention,
        dropout=0.0,
    ).train()
    head = nn.Linear(144, words + 1)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=2e-3)
    warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 200))
    curves: Curves = {"attention norm": [], "loss": []}
    for features, lengths, targets, target_lengths in tqdm(data, desc=name):
        output = encoder(features, lengths)
        scores = head(output.hidden).log_softmax(-1).transpose(0, 1)
        loss = F.ctc_loss(scores, targets, output.lengths, target_lengths, zero_infinity=True)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        warmup.step()
        assert output.attention_norms is not None  # in training
        curves["attention norm"].append(round(float(output.attention_norms.mean()), 4))
        curves["loss"].append(round(float(loss.detach()), 4))
    return curves


def draw(found: dict[str, Curves], path: Path) -> None:
    """Draw attention norm and loss of all systems."""
    figure, panels = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axes, metric in zip(panels, ("attention norm", "loss"), strict=True):
        for number, (name, curves) in enumerate(found.items()):
            smooth = torch.tensor(curves[metric]).unfold(0, 10, 1).mean(1)
            axes.plot(
                range(10, 10 + len(smooth)), smooth, "--" if "= 0" in name else "-", color=f"C{number}", label=name
            )
        axes.set(xlabel="step", ylabel=metric, yscale="log")
        axes.grid(alpha=0.3)
    panels[1].legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("manifest", type=Path, help="of a recipe, such as egs/fsdd/asr1/data/*/train.jsonl")
    parser.add_argument("--steps", type=int, default=800, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--plot", type=Path, required=True, help="PNG to write")


def main() -> None:
    """Train, draw, write."""
    args = options(__doc__, add_arguments)
    steps = min(20, args.steps) if args.quick else args.steps
    known = sorted({word for utterance in read_manifest(args.manifest) for word in utterance.text.split()})
    words = {word: number for number, word in enumerate(known, start=1)}  # 0 is the blank
    data = batches(args.manifest, words, steps, args.batch_size, args.seed)
    found = {name: train(attention, data, len(words), args.seed, name) for name, attention in SYSTEMS.items()}
    draw(found, args.plot)
    rows = [
        {
            "system": name,
            "attention norm of the first step": f"{curves['attention norm'][0]:.2f}",
            "loss, mean of the last 100 steps": f"{fmean(curves['loss'][-100:]):.2f}",
        }
        for name, curves in found.items()
    ]
    report(rows, args.json, steps=steps, curves=found)


if __name__ == "__main__":
    sys.exit(exit_status(main))
