"""Training a recogniser or a synthesiser in ESPnet, so that a killed run goes on where it stopped.

ESPnet's own training (`espnet2.bin.asr_train`, `tts_train`) plus what a recipe needs: checks of the manifests before
anything starts, the files ESPnet reads (`wav.scp`, `text`, shapes, a token list), `metrics.csv`, `train.json`, and
`model.zip`, packed as `espnet2.bin.pack` does, which exists only when it is complete.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import soundfile
import torch
import yaml
from espnet2.bin import pack
from espnet2.tasks.abs_task import AbsTask
from espnet2.train.reporter import Reporter
from omegaconf import OmegaConf

from sigmel.errors import SigmelError
from sigmel.files.atomic import atomic_path
from sigmel.files.manifest import Utterance
from sigmel.hosts.espnet.restore import measure, sample_rate
from sigmel.models.stack import ParameterCounts, parameter_counts
from sigmel.recipes.configuration import read_configuration
from sigmel.recipes.training import Trained, trainable, write_metrics
from sigmel.tokens.text import load_tokenizer

TASKS = {"asr": "ASRTask", "tts": "TTSTask"}  # of espnet2.tasks.<name>
UNALIGNED = 0.001  # seconds a frame: any text finds room where text is not aligned to frames


def run(args: argparse.Namespace) -> None:
    """Train as `sigmel train` was told; go on from ESPnet's checkpoint where there is one.

    Raises:
        SigmelError: a setting, a manifest or a recording that cannot be used.
    """
    exp, work, task_name = args.output, args.output / "espnet", args.task or "asr"
    config = OmegaConf.to_container(read_configuration(args.config), resolve=True)
    section = "tts_conf" if task_name == "tts" else "encoder_conf"
    if config.get("decoder") == "dmel_lm":
        section = "decoder_conf"
    config[section] = (config.get(section) or {}) | OmegaConf.to_container(OmegaConf.from_dotlist(args.set))
    seed = config.get("seed", 1) if args.seed is None else args.seed
    bpemodel = str(args.tokenizer / "tokenizer.model")
    command = ["--config", _write(exp / "train.yaml", [yaml.safe_dump(config, sort_keys=False)])]
    command += ["--token_list", _write(exp / "tokens.txt", token_list(args.tokenizer))]
    command += ["--token_type", "bpe", "--bpemodel", bpemodel, "--output_dir", str(work), "--resume", "true"]
    command += ["--seed", str(seed), "--ngpu", str(int(torch.cuda.is_available())), *args.host_options]

    task = getattr(importlib.import_module(f"espnet2.tasks.{task_name}"), TASKS[task_name])
    rate, frame, parameters = build(task, command)
    for part in ("train", "valid"):
        kept, _ = trainable(getattr(args, part), args.tokenizer, frame, exp / f"{part}.skipped.jsonl")
        scp, text, *shapes = write_corpus(kept, exp / part, rate, args.tokenizer)
        command += [f"--{part}_data_path_and_name_and_type", f"{scp},speech,sound"]
        command += [f"--{part}_data_path_and_name_and_type", f"{text},text,text"]
        command += [option for shape in shapes for option in (f"--{part}_shape_file", shape)]
    task.main(cmd=command)

    settings = yaml.safe_load((work / "config.yaml").read_text())
    phase, criterion, _ = settings["best_model_criterion"][0]
    reporter = Reporter()
    reporter.load_state_dict(torch.load(work / "checkpoint.pth", weights_only=False)["reporter"])
    rows = metrics(reporter.stats)
    write_metrics(exp / "metrics.csv", rows)
    prefix = "asr_" if task_name == "asr" else ""
    files = [f"--{prefix}train_config", str(work / "config.yaml"), "--option", bpemodel]
    files += [f"--{prefix}model_file", str(work / f"{phase}.{criterion}.ave.pth")]
    trained = Trained(parameters, int(rows[-1]["step"]), rows[-1]["seconds"])
    trained.write(exp / "model.zip", lambda path: pack.main(cmd=[task_name, *files, "--outpath", str(path)]))


def build(task: type[AbsTask], command: Sequence[str]) -> tuple[int, float, ParameterCounts]:
    """Build the model that a task would train, and measure it.

    Returns:
        The sample rate in Hz, the seconds between the frames that CTC aligns text to, and the number of parameters.
    """
    args = task.get_parser().parse_args(command)
    model = task.build_model(args).eval()
    parameters = parameter_counts(model)
    if hasattr(model, "tts"):
        return model.tts.fs, UNALIGNED, parameters
    rate = sample_rate(args.frontend_conf)
    if model.ctc_weight == 0:
        return rate, UNALIGNED, parameters
    window_stride, factor = measure(model, rate)
    return rate, window_stride * factor, parameters


def write_corpus(utterances: Sequence[Utterance], folder: Path, rate: int, tokenizer_dir: Path) -> list[str]:
    """Write `wav.scp`, `text` and the shapes ESPnet makes batches by.

    ESPnet's `--collect_stats` would find the shapes by reading all audio once more, for statistics that no model with
    a front end of its own normalisation wants.

    Returns:
        The files: wav.scp, text, speech_shape, text_shape.

    Raises:
        SigmelError: audio of another rate than the front end's, or of several channels, by name.
    """
    tokenizer = load_tokenizer(tokenizer_dir)
    shapes = []
    for utterance in utterances:
        info = soundfile.info(utterance.audio_filepath)
        if (info.samplerate, info.channels) != (rate, 1):
            raise SigmelError(
                f"{utterance.audio_filepath}: {info.samplerate} Hz and {info.channels} channels, but the front end "
                f"takes {rate} Hz and one; convert it, or set frontend_conf.fs (of dMel, sample_rate)"
            )
        shapes.append(info.frames)
    return [
        _write(folder / "wav.scp", (f"{u.id} {u.audio_filepath}" for u in utterances)),
        _write(folder / "text", (f"{u.id} {u.text}" for u in utterances)),
        _write(folder / "speech_shape", (f"{u.id} {frames}" for u, frames in zip(utterances, shapes, strict=True))),
        _write(folder / "text_shape", (f"{u.id} {len(tokenizer.encode(u.text))}" for u in utterances)),
    ]


def token_list(tokenizer_dir: Path) -> list[str]:
    """ESPnet's tokens for a SentencePiece model: blank first, then the pieces, then the end."""
    tokenizer = load_tokenizer(tokenizer_dir)
    return ["<blank>", *(tokenizer.id_to_piece(n) for n in range(tokenizer.get_piece_size())), "<sos/eos>"]


def metrics(epochs: dict[int, dict[str, dict[str, Any]]]) -> list[dict[str, float]]:
    """Rows of `metrics.csv` from ESPnet's reporter, one an epoch."""
    rows, seconds = [], 0.0
    for epoch in sorted(epochs):
        training, validation = epochs[epoch]["train"], epochs[epoch]["valid"]
        seconds += sum(part["time"].total_seconds() for part in (training, validation))
        row = {
            "step": int(training["total_count"]),
            "seconds": round(seconds, 1),
            "train_loss": float(training["loss"]),
            "aux_loss": float(training.get("aux_loss", 0.0)),
            "learning_rate": float(training["optim0_lr0"]),
            "val_loss": float(validation["loss"]),
        }
        if "attention_norm" in training:
            row["attention_norm"] = round(float(training["attention_norm"]), 4)
        rows.append(row)
    return rows


def _write(path: Path, lines: Iterable[str]) -> str:
    with atomic_path(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)
