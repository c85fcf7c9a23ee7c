#!/usr/bin/env python3
"""dMel beside the authors' package `dmel`, and its embeddings beside torch's, in float32 on a CPU.

On 120 s of speech-like sound: harmonics that come and go over faint noise.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import soundfile
import torch
from dmel import DiscretizedLogMelFbank, LogMelFbank
from harness import Row, compare, compare_memory, options, report, row
from torch import Tensor
from torch.nn import functional as F

from sigmel.cli import main as main_of_sigmel
from sigmel.features.dmel_tokenizer import DMelTokenizer
from sigmel.layers.dmel import DMelEmbedding

Embed = Callable[[], Tensor]
PEER = "package dmel"
SECONDS, RATE = 120, 16000
FILES, FILE_SECONDS = 480, 15  # two hours, as a corpus has them
FRAMES, SIZE, WIDTH = 4800, 32, 512  # of a batch, of a channel's embedding, of the model


def sound(seconds: int) -> Tensor:
    """(samples,) at 16 kHz."""
    times = torch.arange(seconds * RATE) / RATE
    phase = (
        2 * torch.pi * torch.cumsum(140 + 50 * torch.sin(2 * torch.pi * 0.7 * times), 0, dtype=torch.float64) / RATE
    )
    loud = torch.sin(2 * torch.pi * 1.3 * times).clamp(min=0) ** 3
    voice = sum(torch.sin(k * phase).float() / k for k in range(1, 40))
    return 0.1 * loud * voice + 1e-4 * torch.randn(len(times))


def tokenising(waveform: Tensor, repeats: int) -> list[Row]:
    """Both make the same ids, with the frames that begin and end an utterance."""
    package, ours = DiscretizedLogMelFbank(LogMelFbank(), 4), DMelTokenizer()
    length = torch.tensor([len(waveform)])
    log_mel, _ = package.logmelfbank(waveform[None], length)
    expected, _ = package(waveform[None], length)
    if not torch.equal(ours.add_special(*ours.encode(waveform))[0].long(), expected):
        raise SystemExit("the ids differ")
    return [
        compare(
            "log-mel to ids, 120 s",
            lambda: ours.quantize(log_mel),
            PEER,
            lambda: package.discretize_func(log_mel),
            repeats,
        ),
        compare(
            "waveform to ids, 120 s",
            lambda: ours.add_special(*ours.encode(waveform)),
            PEER,
            lambda: package(waveform[None], length),
            repeats,
        ),
    ]


def tokenising_memory() -> Row:
    """Extra memory at its peak, ids included."""
    setup = f"""
from dmel import DiscretizedLogMelFbank, LogMelFbank
from sigmel.cli import main as main_of_sigmel
from sigmel.features.dmel_tokenizer import DMelTokenizer
package, ours = DiscretizedLogMelFbank(LogMelFbank(), 4), DMelTokenizer()
waveform = torch.randn({SECONDS * RATE}) * 0.1
package(waveform[None, :2000], torch.tensor([2000])), ours.encode(waveform[:2000])
"""
    theirs = "package(waveform[None], torch.tensor([len(waveform)]))"
    return compare_memory("memory, waveform to ids, 120 s", setup, "ours.encode(waveform)", PEER, theirs)


def package_file(path: Path) -> None:
    """What a user of the package would do with each file."""
    torch.set_num_threads(1)
    samples, _ = soundfile.read(path, dtype="float32")
    package = DiscretizedLogMelFbank(LogMelFbank(), 4)
    ids, _ = package(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))
    np.save(path.with_suffix(".npy"), ids[0].to(torch.uint8).numpy())


def corpus(waveform: Tensor, files: int) -> Row:
    """Files on a disk, in two processes each; the time that Python takes to import modules is left out of both."""
    with tempfile.TemporaryDirectory() as folder:
        source, piece = Path(folder, "audio"), FILE_SECONDS * RATE
        source.mkdir()
        for number in range(files):
            first = number * RATE % (len(waveform) - piece)
            soundfile.write(source / f"{number}.wav", waveform[first : first + piece].numpy(), RATE)
        times = []
        for turn in range(2):  # of which the first warms up
            command = ["dmel", "encode", str(source), "--output", f"{folder}/{turn}", "--workers", "2"]
            began = time.perf_counter()
            with redirect_stdout(StringIO()):
                main_of_sigmel([*command, "--shard-size", "60"])
            ours = time.perf_counter() - began
            began = time.perf_counter()
            with get_context("fork").Pool(2) as pool:
                pool.map(package_file, sorted(source.glob("*.wav")), chunksize=60)
            times.append((ours, time.perf_counter() - began))
    ours, theirs = (files * FILE_SECONDS / seconds for seconds in times[-1])
    return row(f"sigmel dmel encode, {files} files", "x real time", ours, PEER, theirs, digits=None, more=True)


def look_up(layer: DMelEmbedding, ids: Tensor) -> Tensor:
    """Each channel's row, side by side, through the linear layer."""
    channels = len(layer.tables)
    return layer.linear(layer.tables[torch.arange(channels), ids.long()].flatten(1))


def embedding(repeats: int) -> list[Row]:
    """Forward and backward."""
    layer = DMelEmbedding(80, 19, SIZE, WIDTH)
    ids, grad = torch.randint(16, (FRAMES, 80), dtype=torch.uint8), torch.randn(FRAMES, WIDTH)
    parameters, sums = list(layer.parameters()), torch.randn(80 * 19, WIDTH, requires_grad=True)
    flat = ids.long() + 19 * torch.arange(80)

    def beside(case: str, peer: str, inputs: list[Tensor], ours: Embed, theirs: Embed) -> Row:
        torch.testing.assert_close(ours(), theirs(), rtol=1e-4, atol=1e-3)
        works = [lambda embed=embed: torch.autograd.grad(embed(), inputs, grad) for embed in (ours, theirs)]
        for mine, other in zip(*(work() for work in works), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-2)
        return compare(f"{case}, {FRAMES} frames, forward + backward", works[0], peer, works[1], repeats)

    return [
        beside("embedding", "look-up, concat, linear", parameters, lambda: layer(ids), lambda: look_up(layer, ids)),
        beside(
            "sum of rows",
            "F.embedding_bag",
            [sums],
            lambda: torch.ops.sigmel.dmel_embed(ids, sums.view(80, 19, WIDTH)),
            lambda: F.embedding_bag(flat, sums, mode="sum"),
        ),
    ]


def embedding_memory() -> Row:
    """Extra memory at its peak, gradients included."""
    setup = f"""
from sigmel.layers.dmel import DMelEmbedding
layer = DMelEmbedding(80, 19, {SIZE}, {WIDTH})
ids = torch.randint(16, ({FRAMES}, 80), dtype=torch.uint8)
def look_up(ids): return layer.linear(layer.tables[torch.arange(80), ids.long()].flatten(1))
for form in (layer, look_up): form(ids[:30]).sum().backward()
layer.zero_grad(set_to_none=True)
"""
    ours, theirs = (f"{form}(ids).sum().backward()" for form in ("layer", "look_up"))
    case = f"memory, embedding, {FRAMES} frames, forward + backward"
    return compare_memory(case, setup, ours, "look-up, concat, linear", theirs)


def main() -> None:
    """Run everything."""
    args = options(__doc__)
    waveform = sound(SECONDS)
    rows = [*tokenising(waveform, args.repeats), tokenising_memory(), corpus(waveform, 60 if args.quick else FILES)]
    rows += [*embedding(args.repeats), embedding_memory()]
    report(rows, args.json)


if __name__ == "__main__":
    main()
