"""Train an ESPnet recogniser, or synthesiser, on manifests, so that a killed run goes on where it stopped.

``python -m sigmel.recipes.espnet.train --config tiny.yaml --exp-dir exp/mine --tokenizer exp/mine/tokenizer
--train train.jsonl --valid dev.jsonl [--task tts] [options of asr_train or tts_train]``

ESPnet's own training (``espnet2.bin.asr_train``) plus what a recipe needs: checks of the manifests before anything
starts, the files ESPnet reads (``wav.scp``, ``text``, shapes, a token list), ``metrics.csv``, ``train.json``, and
``model.zip``, packed as ``espnet2.bin.pack`` does, which exists only when it is complete.
"""

from __future__ import annotations

import argparse
import importlib
import sys
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

from sigmel.errors import SigmelError, exit_status
from sigmel.files.atomic import atomic_path
from sigmel.files.audio import parse_sample_rate
from sigmel.files.manifest import Utterance
from sigmel.hosts.registration import espnet as espnet_registration
from sigmel.models.stack import parameter_counts
from sigmel.recipes.configuration import read_configuration
from sigmel.recipes.trainable import trainable
from sigmel.scoring.metrics import write_metrics, write_train_facts
from sigmel.tokens.text import load_tokenizer

espnet_registration.register()

TASKS = {"asr": "ASRTask", "tts": "TTSTask"}  # of espnet2.tasks.<name>
ANY_LENGTH = 0.001  # seconds a frame: so many that any text finds room, where none is aligned to them


def task_of(name: str) -> type[AbsTask]:
    """ESPnet's class, whose import takes its time."""
    return getattr(importlib.import_module(f"espnet2.tasks.{name}"), TASKS[name])


def audio_of(task: str, config: dict[str, Any]) -> tuple[int, float]:
    """The sample rate, in Hz, that a model takes, and the seconds between the frames that CTC aligns text to."""
    if task == "tts":
        return config.get("tts_conf", {}).get("dmel", {}).get("sample_rate", 16000), ANY_LENGTH
    frontend, encoder = config.get("frontend_conf", {}), config.get("encoder_conf", {})
    frame = frontend.get("window_stride", 0.01) * encoder.get("subsampling_factor", 4)
    aligned = config.get("model_conf", {}).get("ctc_weight", 0.5) > 0
    return parse_sample_rate(frontend.get("fs", 16000)), frame if aligned else ANY_LENGTH


def write_corpus(utterances: Sequence[Utterance], folder: Path, rate: int, tokenizer_dir: Path) -> list[str]:
    """Write ``wav.scp``, ``text`` and the shapes ESPnet makes batches by.

    ESPnet's ``--collect_stats`` would find the shapes by reading all audio once more, for statistics that no model
    with a front end of its own normalisation wants.

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
    """Rows of ``metrics.csv`` from ESPnet's reporter, one an epoch."""
    rows, step, seconds = [], 0, 0.0
    for epoch in sorted(epochs):
        training, validation = epochs[epoch]["train"], epochs[epoch]["valid"]
        step = int(training["total_count"])
        seconds += sum(part["time"].total_seconds() for part in (training, validation))
        row = {
            "step": step,
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


def train(options: argparse.Namespace, espnet_options: Sequence[str]) -> None:
    """Train as the options say; go on from ESPnet's checkpoint where there is one.

    Raises:
        SigmelError: a setting, a manifest or a recording that cannot be used.
    """
    exp_dir, work = options.exp_dir, options.exp_dir / "espnet"
    config = OmegaConf.to_container(read_configuration(options.config), resolve=True)
    section = "tts_conf" if options.task == "tts" else "encoder_conf"
    if config.get("decoder") == "dmel_lm":
        section = "decoder_conf"
    config.setdefault(section, {}).update(OmegaConf.to_container(OmegaConf.from_dotlist(getattr(options, "set", []))))
    rate, frame = audio_of(options.task, config)
    command = ["--config", _write(exp_dir / "train.yaml", [yaml.safe_dump(config, sort_keys=False)])]
    for part in ("train", "valid"):
        manifest, listed = getattr(options, part), exp_dir / f"{part}.skipped.jsonl"
        kept, _ = trainable(manifest, options.tokenizer, frame, listed)
        scp, text, *shapes = write_corpus(kept, exp_dir / part, rate, options.tokenizer)
        command += [f"--{part}_data_path_and_name_and_type", f"{scp},speech,sound"]
        command += [f"--{part}_data_path_and_name_and_type", f"{text},text,text"]
        command += [option for shape in shapes for option in (f"--{part}_shape_file", shape)]
    bpemodel = str(options.tokenizer / "tokenizer.model")
    command += ["--token_list", _write(exp_dir / "tokens.txt", token_list(options.tokenizer))]
    command += ["--token_type", "bpe", "--bpemodel", bpemodel, "--output_dir", str(work), "--resume", "true"]
    command += ["--seed", str(options.seed), "--ngpu", str(int(torch.cuda.is_available()))]
    task = task_of(options.task)
    task.main(cmd=[*command, *espnet_options])

    config_file = work / "config.yaml"
    settings = yaml.safe_load(config_file.read_text())
    phase, criterion, _ = settings["best_model_criterion"][0]
    weights = work / f"{phase}.{criterion}.ave.pth"
    model, _ = task.build_model_from_file(config_file, weights)
    reporter = Reporter()
    reporter.load_state_dict(torch.load(work / "checkpoint.pth", weights_only=False)["reporter"])
    rows = metrics(reporter.stats)
    write_metrics(exp_dir / "metrics.csv", rows)
    write_train_facts(exp_dir / "train.json", rows[-1]["seconds"], int(rows[-1]["step"]), parameter_counts(model))
    with atomic_path(exp_dir / "model.zip") as temporary:
        prefix = "asr_" if options.task == "asr" else ""
        files = [f"--{prefix}train_config", str(config_file), f"--{prefix}model_file", str(weights)]
        files += ["--option", bpemodel]
        pack.main(cmd=[options.task, *files, "--outpath", str(temporary)])


def run(args: argparse.Namespace) -> None:
    """Train as `sigmel train` was told."""
    args.exp_dir, args.task = args.output, args.task or "asr"
    train(args, args.host_options)


def _write(path: Path, lines: Iterable[str]) -> str:
    with atomic_path(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Train from the command line."""
    parser = argparse.ArgumentParser(
        description="Train an ESPnet recogniser, or synthesiser, on manifests.",
        epilog="Other options are those of asr_train, or tts_train.",
        allow_abbrev=False,
    )
    parser.add_argument("--task", choices=TASKS, default="asr", help="default: %(default)s")
    parser.add_argument("--config", type=Path, action="append", required=True, help="YAML for ESPnet; a later wins")
    parser.add_argument("--exp-dir", type=Path, required=True, help="folder of the experiment")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of the SentencePiece tokenizer")
    parser.add_argument("--train", type=Path, required=True, help="manifest to train on")
    parser.add_argument("--valid", type=Path, required=True, help="manifest to choose the weights by")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    train(*parser.parse_known_args(argv))
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
