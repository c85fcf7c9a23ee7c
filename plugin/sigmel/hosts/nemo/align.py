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
from nemo.collections.asr.models import EncDecCTCModel, EncDecCTCModelBPE
from nemo.utils import logging
from tqdm import tqdm

from sigmel.data.atomic import atomic_dir
from sigmel.data.audio import read_audio
from sigmel.data.manifest import read_rows
from sigmel.decoding.fsa.alignment import align, confidence, ctm_lines, write_textgrid
from sigmel.decoding.fsa.hypothesis import Hypothesis
from sigmel.decoding.fsa.lexicon import Spelling, read_lexicon, spelled_lexicon
from sigmel.errors import SigmelError
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
    lexicon = read_lexicon(arguments.lexicon, tokens) if arguments.lexicon else None
    seconds = float(model.cfg.preprocessor.window_stride) * model.encoder.subsampling_factor
    words: list[str] = []
    pieces: list[str] = []
    skipped: list[Row] = []
    with atomic_dir(arguments.output) as folder:
        for row, log_probs in tqdm(_log_probs(model, rows), total=len(rows), desc="align", unit="utt"):
            name, text = str(row["id"]), row["text"].split()
            try:
                if isinstance(log_probs, str):
                    raise SigmelError(log_probs)
                spelled = lexicon or spelled_lexicon(text, lambda word: _spell(model, word), _separator(model))
                found = align(log_probs.numpy(), text, tokens, len(tokens) - 1, spelled)
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


def _log_probs(model: EncDecCTCModel, rows: list[Row]) -> Iterator[tuple[Row, torch.Tensor | str]]:
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


def _spell(model: EncDecCTCModel, word: str) -> Spelling | None:
    if isinstance(model, EncDecCTCModelBPE):
        pieces = model.tokenizer.text_to_ids(word)
        unknown = getattr(model.tokenizer, "unk_id", None)
        return None if unknown in pieces else tuple(pieces)
    characters = list(model.decoder.vocabulary)
    return tuple(map(characters.index, word)) if set(word) <= set(characters) else None


def _separator(model: EncDecCTCModel) -> int | None:
    """The space of a model of characters."""
    if isinstance(model, EncDecCTCModelBPE) or " " not in model.decoder.vocabulary:
        return None
    return list(model.decoder.vocabulary).index(" ")
