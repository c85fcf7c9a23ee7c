"""`sigmel align`: when each word and token of known texts was said, by a CTC model of NeMo.

`sigmel align model.nemo manifest.jsonl --output DIR` writes `words.ctm`, `tokens.ctm`, a TextGrid an utterance for
Praat, and `skipped.jsonl` with the utterances that could not be aligned, each with its reason.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from sigmel.decoding.search.alignment import align, confidence, ctm_lines, write_textgrid
from sigmel.errors import SigmelError
from sigmel.files.atomic import atomic_dir
from sigmel.files.manifest import read_rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `sigmel align`."""
    parser.add_argument("model", type=Path, help="a CTC model (.nemo)")
    parser.add_argument("manifest", type=Path, help="utterances with `text` (JSON lines)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to make; must not exist yet")
    parser.add_argument("--lexicon", type=Path, help="spellings: a word and its tokens a line (default: the model's)")


def run(args: argparse.Namespace) -> int:
    """Align a manifest; 1 if utterances could not be aligned."""
    from tqdm import tqdm

    from sigmel.hosts.nemo.ctc import CTCModel

    rows = read_rows(args.manifest)
    model = CTCModel(args.model)
    lexicon = model.tokens.read_lexicon(args.lexicon) if args.lexicon else None
    ctm: dict[str, list[str]] = {"words": [], "tokens": []}
    skipped: list[str] = []
    with atomic_dir(args.output) as folder:
        for row in tqdm(rows, desc="align", unit="utt"):
            try:
                log_probs = model.log_probs(row)
                found = align(log_probs, row["text"].split(), model.tokens, lexicon)
                if not found.complete:
                    raise SigmelError(f"{len(log_probs)} frames are too few for the text: {found.reason}")
            except (SigmelError, OSError) as error:
                skipped.append(json.dumps(row | {"reason": str(error)}))
                continue
            tiers = {"words": found.words, "tokens": found.tokens}
            for tier, segments in tiers.items():
                sure = [confidence(found, segment, log_probs) for segment in segments]
                ctm[tier] += ctm_lines(str(row["id"]), segments, model.frame_seconds, sure)
            write_textgrid(folder / f"{row['id']}.TextGrid", tiers, model.frame_seconds, len(log_probs))
        for file, lines in (("words.ctm", ctm["words"]), ("tokens.ctm", ctm["tokens"]), ("skipped.jsonl", skipped)):
            (folder / file).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    print(f"{args.output}: {len(rows) - len(skipped)} utterances aligned, {len(skipped)} skipped")
    return 1 if skipped else 0
