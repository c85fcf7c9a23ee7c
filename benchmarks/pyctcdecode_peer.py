"""Texts that pyctcdecode finds in the frames of a folder, and the time; runs in pyctcdecode's own environment.

`fsa_peers.py` writes the folder and starts this program, whose answer is a line of JSON.
"""

import json
import statistics
import sys
import time
from pathlib import Path

import kenlm  # noqa: F401  (without it pyctcdecode ignores language models)
import numpy as np
from pyctcdecode import build_ctcdecoder


def main(folder: Path) -> None:
    """Decode the frames of the folder `repeats` times, and answer."""
    task = json.loads((folder / "task.json").read_text())
    with np.load(folder / "frames.npz") as archive:
        frames = [archive[str(number)] for number in range(len(archive.files))]
    decoder = build_ctcdecoder(
        task["labels"], str(folder / "lm.arpa"), task["words"], alpha=task["lm_scale"], beta=task["word_score"]
    )
    times = []
    for _ in range(task["repeats"]):
        began = time.perf_counter()
        texts = [decoder.decode(utterance, beam_width=task["beams"]) for utterance in frames]
        times.append(time.perf_counter() - began)
    print(json.dumps({"seconds": statistics.median(times), "texts": texts}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
