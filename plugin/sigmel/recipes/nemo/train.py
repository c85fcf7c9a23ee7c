"""Training in NeMo from a Hydra configuration, so that a killed run goes on where it stopped.

NeMo's own pattern (`Trainer`, `EncDecCTCModelBPE(cfg=cfg.model, trainer=trainer)` or the class that `model.target`
names, `fit`, `save_to`) plus what a recipe needs: checks of the manifests before anything starts, a progress bar,
`metrics.csv`, checkpoints to resume from, the average of the last checkpoints, and `model.nemo` that exists only when
it is complete. The recipe's own options are the fields of `Recipe`, under `recipe` in the configuration.
NeMo's `init_from_nemo_model: model.nemo`, at the top, begins with the weights of another model, see `initialise`.
"""

from __future__ import annotations

import argparse
import inspect
import logging
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from hydra.errors import InstantiationException
from hydra.utils import get_class
from lightning.pytorch.callbacks import ModelCheckpoint
from nemo.collections.asr.models import EncDecCTCModelBPE
from nemo.core import ModelPT
from nemo.utils import logging as nemo_logging
from omegaconf import MISSING, DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from sigmel.checkpoints.strict_loading import check_when_loaded
from sigmel.errors import SigmelError
from sigmel.files.atomic import atomic_path
from sigmel.files.manifest import write_manifest
from sigmel.models.stack import parameter_counts
from sigmel.recipes.configuration import read_configuration
from sigmel.recipes.nemo.precision import allow_fused_optimizers
from sigmel.recipes.nemo.progress import Progress
from sigmel.recipes.training import Trained, trainable

DEFAULT_TARGET = "nemo.collections.asr.models.EncDecCTCModelBPE"


@dataclass
class Recipe:
    """Options of the recipe, beside NeMo's `trainer` and `model`.

    Attributes:
        exp_dir: folder of the experiment.
        seed: seed of the initial weights, the order of the data and the augmentation.
        threads: CPU threads; None leaves the number to torch.
        log_every: steps between two rows of `metrics.csv`.
        checkpoint_every: steps between two checkpoints, which is the most that a killed run loses.
        average_last: number of checkpoints, counted from the end, whose mean the final weights are.
    """

    exp_dir: str = MISSING
    seed: int = 1
    threads: int | None = None
    log_every: int = 20
    checkpoint_every: int = 200
    average_last: int = 1

    def validate(self) -> None:
        """Raise a SigmelError that names a number below 1."""
        for name in ("log_every", "checkpoint_every", "average_last"):
            if (value := getattr(self, name)) < 1:
                raise SigmelError(f"recipe.{name}: {value} must be at least 1")


def run(args: argparse.Namespace) -> None:
    """Train as `sigmel train` was told.

    Raises:
        SigmelError: a setting or a manifest that cannot be used.
    """
    nemo_logging.setLevel(nemo_logging.ERROR)
    for name in ("lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        cfg = read_configuration(args.config, args.host_options)
        with open_dict(cfg):
            place_options(cfg, args)
        train(cfg)
    except OmegaConfBaseException as error:  # a key or a value that the configuration cannot have
        raise SigmelError(f"{', '.join(map(str, args.config))}: {error}") from error


def place_options(cfg: DictConfig, args: argparse.Namespace) -> None:
    """Write the options of `sigmel train` where a NeMo configuration has them."""
    model = cfg.model
    options = model.lm if "lm" in model else model.encoder.conf if "conf" in model.encoder else model.encoder
    options.merge_with_dotlist(args.set)
    if args.task and "task" in model:
        model.task = args.task
    elif args.task == "tts":
        raise SigmelError(f"--task tts: the model of {args.config[-1]} does not speak (no model.task)")
    cfg.setdefault("recipe", {}).exp_dir = str(args.output)
    if args.seed is not None:
        cfg.recipe.seed = args.seed
    model.tokenizer.dir = str(args.tokenizer)
    for section, data in ((model.train_ds, args.train), (model.validation_ds, args.valid)):
        section["archives" if "lm" in model else "manifest_filepath"] = str(data)


def check_manifest(name: str, section: DictConfig, model: DictConfig, exp_dir: Path) -> None:
    """Check every utterance of a data set before training, see `trainable`.

    If utterances are left out, the section then names a manifest of the others, `<exp_dir>/<name>.jsonl`.

    Raises:
        SigmelError: see `trainable`.
    """
    frame = model.preprocessor.window_stride * _encoder_options(model).get("subsampling_factor", 1)
    listed = exp_dir / f"{name}.skipped.jsonl"
    kept, skipped = trainable(Path(section.manifest_filepath), Path(model.tokenizer.dir), frame, listed)
    if skipped:
        section.manifest_filepath = str(exp_dir / f"{name}.jsonl")
        write_manifest(section.manifest_filepath, kept)


def check_resumable(checkpoint: Path, cfg: DictConfig, settings: Path) -> None:
    """Raise a SigmelError if `checkpoint` cannot be read, or was made with other settings than `cfg`."""
    if settings.read_text() != OmegaConf.to_yaml(cfg, resolve=True):
        raise SigmelError(
            f"{settings.parent} was begun with other settings (see {settings.name}); remove it to start anew"
        )
    try:
        torch.load(checkpoint, map_location="cpu", weights_only=False)["state_dict"]
    except Exception as error:  # a damaged file fails in many ways
        raise SigmelError(f"{checkpoint}: a damaged checkpoint; remove it to go on from an earlier one") from error


def initialise(model: ModelPT, cfg: DictConfig) -> None:
    """Begin with all weights of the file that `init_from_nemo_model` names, if the configuration has this key.

    NeMo alone leaves parameters that the file lacks at their random start, and drops parameters that the model
    lacks. This stays so if `init_from_nemo_model` is a mapping that includes and excludes parts. Options of the
    encoder that differ from the file's are printed: the difference may be meant, but no weight shows it.

    Raises:
        SigmelError: NeMo cannot restore the file, or its parameters differ from the model's in names or shapes.
    """
    path = cfg.get("init_from_nemo_model")
    if isinstance(path, str):
        if not Path(path).is_file():
            raise SigmelError(f"init_from_nemo_model: {path}: no such file")
        check_when_loaded(model, lambda name: True)
    try:
        model.maybe_init_from_pretrained_checkpoint(cfg)
    except Exception as error:  # a foreign file fails in many ways
        raise SigmelError(f"init_from_nemo_model: {path}: {error}") from error
    if isinstance(path, str) and isinstance(model, EncDecCTCModelBPE):
        signature = inspect.signature(type(getattr(model.encoder, "core", model.encoder)))
        defaults = {name: parameter.default for name, parameter in signature.parameters.items()}
        theirs = defaults | _encoder_options(EncDecCTCModelBPE.restore_from(path, return_config=True))
        for name, value in (defaults | _encoder_options(model.cfg)).items():
            if value != theirs.get(name):
                print(f"encoder.{name}: {value}, but {path} has {theirs.get(name)}")


def _encoder_options(model: DictConfig) -> dict[str, Any]:
    """The options of the encoder, of `RegisteredEncoder` those of the encoder in it."""
    section = OmegaConf.to_container(model.encoder, resolve=True)
    options = section.pop("conf", None) or {}
    return {name: value for name, value in (section | options).items() if name not in ("_target_", "encoder")}


def average(model: torch.nn.Module, checkpoints: list[Path]) -> None:
    """Replace the model's weights by their mean with those of `checkpoints`."""
    states = [torch.load(path, map_location="cpu", weights_only=False)["state_dict"] for path in checkpoints]
    mean = model.state_dict()
    for key, value in mean.items():
        if value.is_floating_point():
            mean[key] = torch.stack([value.cpu(), *(state[key] for state in states)]).mean(0)
    model.load_state_dict(mean)


def train(cfg: DictConfig) -> None:
    """Train as `cfg` says; go on from the newest checkpoint if there is one.

    Raises:
        SigmelError: a setting or a manifest that cannot be used.
        SystemExit: with 130, after Ctrl-C.
    """
    recipe = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Recipe), cfg.recipe))
    recipe.validate()
    exp_dir = Path(recipe.exp_dir)
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    folder, settings = exp_dir / "checkpoints", exp_dir / "config.yaml"
    resume = max(folder.glob("*.ckpt"), key=_step, default=None)
    if resume:
        check_resumable(resume, cfg, settings)
    else:
        with atomic_path(settings) as temporary:
            temporary.write_text(OmegaConf.to_yaml(cfg, resolve=True))
    try:
        model_class = get_class(cfg.model.get("target") or DEFAULT_TARGET)
    except (ImportError, ValueError) as error:
        raise SigmelError(f"model.target: {error}") from error
    if issubclass(model_class, EncDecCTCModelBPE):
        for name in ("train", "validation"):
            check_manifest(name, cfg.model[f"{name}_ds"], cfg.model, exp_dir)

    saving = ModelCheckpoint(
        dirpath=folder,
        monitor="step",
        mode="max",
        save_top_k=recipe.average_last,
        every_n_train_steps=recipe.checkpoint_every,
    )
    # A resumed run must not see the random numbers of the first run again.
    pl.seed_everything(recipe.seed + (_step(resume) if resume else 0), verbose=False)
    progress = Progress(exp_dir / "metrics.csv", recipe.log_every)
    options = {
        "logger": False,
        "enable_checkpointing": True,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": recipe.log_every,
    }
    try:
        trainer = pl.Trainer(**{**cfg.trainer, **options}, callbacks=[progress, saving])
        allow_fused_optimizers(trainer)
        model = model_class(cfg=cfg.model, trainer=trainer)
        if not resume:
            initialise(model, cfg)
    except (TypeError, InstantiationException) as error:  # an unknown key, or a value that a class refuses
        raise SigmelError(str(error.__cause__ or error)) from error
    begin = f", from {resume.name}" if resume else ""
    print(f"training for {trainer.max_steps} steps on {torch.get_num_threads()} threads{begin}")
    try:
        trainer.fit(model, ckpt_path=resume)
    except (SystemExit, KeyboardInterrupt):
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)

    if recipe.average_last > 1:
        earlier = [path for path in folder.glob("*.ckpt") if _step(path) < trainer.global_step]
        average(model, sorted(earlier, key=_step)[1 - recipe.average_last :])
    trained = Trained(parameter_counts(model), trainer.global_step, progress.seconds)
    trained.write(exp_dir / "model.nemo", lambda path: model.save_to(str(path)))
    shutil.rmtree(folder, ignore_errors=True)


def _step(checkpoint: Path) -> int:
    """The step in a name such as `epoch=3-step=400.ckpt`."""
    return int(checkpoint.stem.rpartition("=")[2])
