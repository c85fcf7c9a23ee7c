"""Say the texts of a manifest with a synthesiser that ESPnet packed.

``python -m sigmel.recipes.espnet.speak --model model.zip --output spoken texts.jsonl`` writes sound (``spoken/wav/``)
and a manifest of it (``spoken/spoken.jsonl``), which a recogniser can be tried on.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from espnet2.bin.tts_inference import Text2Speech
from espnet2.main_funcs.pack_funcs import unpack

from sigmel.errors import SigmelError, exit_status
from sigmel.files.manifest import Utterance, read_manifest
from sigmel.hosts.registration import espnet as espnet_registration
from sigmel.recipes.options import at_least
from sigmel.recipes.spoken import write_spoken

espnet_registration.register()


def load_model(archive: Path, folder: Path, seed: int) -> Text2Speech:
    """Build ESPnet's synthesiser of an archive, unpacked into a folder.

    Raises:
        SigmelError: there is no such file, or it is no archive of an ESPnet synthesiser.
    """
    if not archive.is_file():
        raise SigmelError(f"{archive}: no such model; train one first")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        files = unpack(archive, folder)
        return Text2Speech(files["train_config"], files["model_file"], device=device, seed=seed, always_fix_seed=True)
    except Exception as error:  # a foreign file fails in many ways
        raise SigmelError(f"{archive}: not a synthesiser that ESPnet packed ({error})") from error


def say(model: Text2Speech, texts: Sequence[Utterance]) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the number of a text and its samples."""
    for number, text in enumerate(texts):
        yield number, model(text.text)["wav"].cpu().numpy()


def main(argv: Sequence[str] | None = None) -> int:
    """Speak from the command line."""
    parser = argparse.ArgumentParser(description="Say the texts of a manifest with a model that ESPnet packed.")
    parser.add_argument("texts", type=Path, help="manifest (JSON lines); if it has sound, that is not heard")
    parser.add_argument("--model", type=Path, required=True, help="the archive")
    parser.add_argument("--output", type=Path, required=True, help="folder for the sound; must not exist yet")
    parser.add_argument("--seed", type=at_least(0), default=1, help="of the random numbers (default: %(default)s)")
    return run(parser.parse_args(argv))


def run(args: argparse.Namespace) -> int:
    """Speak the texts that `sigmel speak` was given."""
    texts = list(read_manifest(args.texts))
    with tempfile.TemporaryDirectory() as unpacked:
        model = load_model(args.model, Path(unpacked), args.seed)
        print(write_spoken(args.output, texts, say(model, texts), model.fs))
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
