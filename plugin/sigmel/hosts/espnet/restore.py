"""ESPnet's inference classes, built from a model file: an archive that ESPnet packed, or a `.pth`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.bin.asr_inference import Speech2Text
from espnet2.bin.tts_inference import Text2Speech
from espnet2.main_funcs.pack_funcs import unpack

from sigmel.errors import SigmelError, reading
from sigmel.files.audio import parse_sample_rate
from sigmel.hosts.registration import espnet as espnet_registration

espnet_registration.register()


def load_speech2text(path: Path, beam_size: int = 5, kind: type[Speech2Text] = Speech2Text) -> Speech2Text:
    """Build ESPnet's recogniser, whose search weighs CTC and decoder as its training did.

    Args:
        path: archive that ESPnet packed, or a `.pth` with its `config.yaml` beside it.
        beam_size: hypotheses kept. Default: 5.
        kind: ESPnet's class, or a class like it.

    Raises:
        SigmelError: there is no such file, or ESPnet cannot build a recogniser from it.
    """
    with _files(path, "asr_") as files:
        config = yaml.safe_load(Path(files["asr_train_config"]).read_text(encoding="utf-8"))
        ctc_weight = config.get("model_conf", {}).get("ctc_weight", 0.5)  # ESPnet's default
        model = kind(**files, beam_size=beam_size, ctc_weight=ctc_weight, lm_weight=0.0, penalty=0.0)
        if model.tokenizer is not None:
            model.tokenizer.tokens2text([])  # SentencePiece reads its file when first used, which is gone by then
        return model


def load_text2speech(path: Path, seed: int) -> Text2Speech:
    """Build ESPnet's synthesiser, which says every text with the same random numbers, see `load_speech2text`."""
    with _files(path, "") as files:
        model = Text2Speech(**files, seed=seed, always_fix_seed=True)
        model.preprocess_fn("", {"text": ""})  # reads the tokenizer's file
        return model


@contextmanager
def _files(path: Path, prefix: str) -> Iterator[dict[str, Any]]:
    """The files that a model is built from, and its device, as options of ESPnet's classes."""
    if not path.is_file():
        raise SigmelError(f"{path}: no such model; train one first")
    with tempfile.TemporaryDirectory() as folder:
        files = {f"{prefix}train_config": path.parent / "config.yaml", f"{prefix}model_file": path}
        with reading(path, "a model that ESPnet saved for this use"):
            files = files if path.suffix == ".pth" else unpack(path, folder)
            yield {**files, "device": "cuda" if torch.cuda.is_available() else "cpu"}


def sample_rate(frontend_conf: Mapping[str, Any]) -> int:
    """Hz that a recogniser's front end takes."""
    return parse_sample_rate(frontend_conf.get("fs", 16000))


@torch.no_grad()
def measure(model: ESPnetASRModel, rate: int) -> tuple[float, int]:
    """The seconds between two feature frames, and the feature frames an encoder frame.

    Both are measured on noise, since ESPnet's classes do not tell them.

    Args:
        model: in eval mode.
        rate: Hz.
    """
    device, samples = next(model.parameters()).device, 10 * rate
    speech, length = 0.1 * torch.randn(1, samples, device=device), torch.tensor([samples], device=device)
    features, frames = int(model._extract_feats(speech, length)[1]), int(model.encode(speech, length)[1])
    return round(samples / features) / rate, round(features / frames)
