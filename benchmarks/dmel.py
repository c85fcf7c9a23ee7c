#!/usr/bin/env python3
"""dMel beside the authors' package `dmel`, and its embeddings beside torch's, in float32 on a CPU.

On 120 s of speech-like sound: harmonics that come and go over faint noise.
"""

from __future__ import annotations

import sys
import tempfile
import time
from contextlib import redirect_stdout
from io import StringIO
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import soundfile
import torch

sys.path.append(sys.path.pop(0))  # the package has the name of this file

from dmel import DiscretizedLogMelFbank, LogMelFbank
from side_by_side import Row, compare, options, peak, report
from torch import Tensor
from torch.nn import functional as F

from sigmel.cli import main as main_of_sigmel
from sigmel.features.dmel import DMelTokenizer
from sigmel.layers.dmel import DMelEmbedding

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
from sigmel.features.dmel import DMelTokenizer
package, ours = DiscretizedLogMelFbank(LogMelFbank(), 4), DMelTokenizer()
waveform = torch.randn({SECONDS * RATE}) * 0.1
package(waveform[None, :2000], torch.tensor([2000])), ours.encode(waveform[:2000])
"""
    mine, other = (
        peak(setup, form)
        for form in ("ours.encode(waveform)", "package(waveform[None], torch.tensor([len(waveform)]))")
    )
    return Row("memory, waveform to ids, 120 s", "MB", round(mine, 1), PEER, round(other, 1), round(other / mine, 1))


def package_file(path: Path) -> None:
    """What a user of the package would do with each file."""
    torch.set_num_threads(1)
    samples, _ = soundfile.read(path, dtype="float32")
    package = DiscretizedLogMelFbank(LogMelFbank(), 4)
    ids, _ = package(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))
    np.save(path.with_suffix(".npy"), ids[0].to(torch.uint8).numpy())


def corpus(waveform: Tensor) -> Row:
    """Files on a disk, in two processes each; what it takes to import Python's modules is left out of both."""
    with tempfile.TemporaryDirectory() as folder:
        source, piece = Path(folder, "audio"), FILE_SECONDS * RATE
        source.mkdir()
        for number in range(FILES):
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
    speed = [round(FILES * FILE_SECONDS / seconds) for seconds in times[-1]]
    return Row(
        f"sigmel dmel encode, {FILES} files", "x real time", speed[0], PEER, speed[1], round(speed[0] / speed[1], 2)
    )


def look_up(layer: DMelEmbedding, ids: Tensor) -> Tensor:
    """Each channel's row, side by side, through the linear layer."""
    channels = len(layer.tables)
    return layer.linear(layer.tables[torch.arange(channels), ids.long()].flatten(1))


def embedding(repeats: int) -> list[Row]:
    """Forward and backward."""
    layer = DMelEmbedding(80, 19, SIZE, WIDTH)
    ids, grad = torch.randint(16, (FRAMES, 80), dtype=torch.uint8), torch.randn(FRAMES, WIDTH)
    torch.testing.assert_close(layer(ids), look_up(layer, ids), rtol=1e-4, atol=1e-3)
    parameters, sums = list(layer.parameters()), torch.randn(80 * 19, WIDTH, requires_grad=True)
    flat = ids.long() + 19 * torch.arange(80)
    torch.testing.assert_close(
        torch.ops.sigmel.dmel_embed(ids, sums.view(80, 19, WIDTH)),
        F.embedding_bag(flat, sums, mode="sum"),
        rtol=1e-4,
        atol=1e-3,
    )
    return [
        compare(
            f"embedding, {FRAMES} frames, forward + backward",
            lambda: torch.autograd.grad(layer(ids), parameters, grad),
            "look-up, concat, linear",
            lambda: torch.autograd.grad(look_up(layer, ids), parameters, grad),
            repeats,
        ),
        compare(
            f"sum of rows, {FRAMES} frames, forward + backward",
            lambda: torch.autograd.grad(torch.ops.sigmel.dmel_embed(ids, sums.view(80, 19, WIDTH)), sums, grad),
            "F.embedding_bag",
            lambda: torch.autograd.grad(F.embedding_bag(flat, sums, mode="sum"), sums, grad),
            repeats,
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
    mine, other = (peak(setup, f"{form}(ids).sum().backward()") for form in ("layer", "look_up"))
    case = f"memory, embedding, {FRAMES} frames, forward + backward"
    return Row(case, "MB", round(mine, 1), "look-up, concat, linear", round(other, 1), round(other / mine, 1))


def main() -> None:
    """Run everything."""
    args = options(__doc__)
    repeats = 3 if args.quick else 21
    waveform = sound(SECONDS)
    rows = [*tokenising(waveform, repeats), tokenising_memory(), corpus(waveform)]
    rows += [*embedding(repeats), embedding_memory()]
    report(rows, args.json)


if __name__ == "__main__":
    main()
