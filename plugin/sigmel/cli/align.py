"""``sigmel align``: when each word and token of known texts was said, by a CTC model of NeMo.

``sigmel align model.nemo manifest.jsonl --output DIR`` writes ``words.ctm``, ``tokens.ctm``, a TextGrid an utterance
for Praat, and ``skipped.jsonl`` with what could not be aligned, and why.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from nemo.collections.asr.models import EncDecCTCModel
from nemo.utils import logging
from tqdm import tqdm

from sigmel.decoding.search.alignment import align, confidence, ctm_lines, write_textgrid
from sigmel.decoding.search.hypothesis import Hypothesis
from sigmel.errors import SigmelError
from sigmel.files.atomic import atomic_dir
from sigmel.files.audio import read_audio
from sigmel.files.manifest import read_rows
from sigmel.hosts.nemo.graph import tokens_of
from sigmel.hosts.nemo.restore import load_model

Row = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="a CTC model (.nemo)")
    parser.add_argument("manifest", type=Path, help="utterances with `text` (JSON lines)")
    parser.add_argument("--output", type=Path, required=True, help="folder for the alignments; must not exist yet")
    parser.add_argument("--lexicon", type=Path, help="spellings: a word and its tokens a line (default: the model's)")


def run(arguments: argparse.Namespace) -> int:
    """Align a manifest."""
    logging.setLevel(logging.ERROR)
    rows = read_rows(arguments.manifest)
    model = load_model(arguments.model, EncDecCTCModel)
    tokens = tokens_of(model)
    lexicon = tokens.read_lexicon(arguments.lexicon) if arguments.lexicon else None
    seconds = float(model.cfg.preprocessor.window_stride) * model.encoder.subsampling_factor
    words: list[str] = []
    pieces: list[str] = []
    skipped: list[Row] = []
    with atomic_dir(arguments.output) as folder:
        for row, log_probs in tqdm(log_probs_of(model, rows), total=len(rows), desc="align", unit="utt"):
            name, text = str(row["id"]), row["text"].split()
            try:
                if isinstance(log_probs, str):
                    raise SigmelError(log_probs)
                found = align(log_probs.numpy(), text, tokens.names, tokens.blank, lexicon or tokens.lexicon(text))
                if not found.complete:
                    raise SigmelError(f"{len(log_probs)} frames are too few for the text: {found.reason}")
            except SigmelError as error:
                skipped.append(row | {"reason": str(error)})
                continue
            for lines, segments in ((words, found.words), (pieces, found.tokens)):
                sure = [confidence(found, one, log_probs.numpy()) for one in segments]
                lines += ctm_lines(name, segments, seconds, sure)
            _write_textgrid(folder / f"{name}.TextGrid", found, seconds)
        for file, lines in (("words.ctm", words), ("tokens.ctm", pieces)):
            (folder / file).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        (folder / "skipped.jsonl").write_text("".join(json.dumps(row) + "\n" for row in skipped), encoding="utf-8")
    print(f"{arguments.output}: {len(rows) - len(skipped)} utterances aligned, {len(skipped)} skipped")
    return 0


def _write_textgrid(path: Path, found: Hypothesis, seconds: float) -> None:
    write_textgrid(path, {"words": found.words, "tokens": found.tokens}, seconds, len(found.alignment))


def log_probs_of(model: EncDecCTCModel, rows: list[Row]) -> Iterator[tuple[Row, torch.Tensor | str]]:
    """Each row with its (T, V) log-probabilities, or why its audio cannot be used."""
    rate = int(model.preprocessor._sample_rate)
    for row in rows:
        try:
            audio = torch.from_numpy(read_audio(row["audio_filepath"], rate)[0])[None].to(model.device)
        except (SigmelError, OSError) as error:
            yield row, str(error)
            continue
        with torch.inference_mode():
            found, length, _ = model(
                input_signal=audio, input_signal_length=torch.tensor([audio.shape[1]], device=model.device)
            )
        yield row, found[0, : int(length)].float().cpu()
