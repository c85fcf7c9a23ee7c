"""RichASR and RichTTS (arXiv 2407.15835) as a NeMo model, which is trained by Lightning and saved as `.nemo`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from nemo.collections.asr.metrics.wer import word_error_rate
from nemo.collections.asr.parts.utils.rnnt_utils import Hypothesis
from nemo.core import ModelPT
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from sigmel.errors import SigmelError
from sigmel.features.dmel_tokenizer import DMelTokenizer
from sigmel.features.vocoder import make_vocoder
from sigmel.files.audio import read_audio
from sigmel.flat_options import check_choice
from sigmel.models.lm import DMelLM
from sigmel.tokens.batches import BatchesOfLikeLength, SpokenText, SpokenTexts, collate
from sigmel.tokens.text import load_tokenizer, uncovered

TASKS = ("asr", "tts", "joint")


class DMelLMModel(ModelPT):
    """A `DMelLM` with its tokenizers, which learns to recognise, to speak, or both.

    Args:
        cfg: `task`: "asr", "tts" or "joint"; `speech_weight`: in recognition, weight of the loss of predicting the
            speech itself, as a language model does (0 for none); `dmel`: settings of `DMelTokenizer`;
            `tokenizer.dir`: folder of a SentencePiece model; `lm`: options of `DMelLM`; `train_ds` and
            `validation_ds`: `archives`, a folder that `sigmel dmel encode` made, and `max_frames` of a batch;
            `optim` as in any NeMo model.
        trainer: Lightning's. Default: None.

    Raises:
        SigmelError: a setting or a data set that cannot be used, by name.
    """

    def __init__(self, cfg: DictConfig, trainer: Trainer | None = None):
        check_choice("model.task", cfg.task, TASKS)
        self.spelling: Any = None  # NeMo's constructor asks for data loaders before there is a tokenizer
        super().__init__(cfg=cfg, trainer=trainer)
        given = cfg.tokenizer.get("model_path") or str(Path(cfg.tokenizer.dir) / "tokenizer.model")
        self.spelling = load_tokenizer(Path(self.register_artifact("tokenizer.model_path", given)))
        options = OmegaConf.to_container(cfg.dmel, resolve=True)
        self.dmel = DMelTokenizer(**options)
        lm = OmegaConf.to_container(cfg.lm, resolve=True)
        self.lm = DMelLM(self.spelling.vocab_size(), len(self.dmel.filters), self.dmel.bins, **lm)
        if not self._is_model_being_restored():
            for name, setup in (("train_ds", self.setup_training_data), ("validation_ds", self.setup_validation_data)):
                if cfg.get(name) is not None:
                    setup(cfg[name])

    # --- Data

    def setup_training_data(self, train_data_config: DictConfig) -> None:  # NeMo's names
        """Make the data loader of `train_ds`."""
        self._train_dl = self._loader("train_ds", train_data_config, shuffle=True)

    def setup_validation_data(self, val_data_config: DictConfig) -> None:
        """Make the data loader of `validation_ds`."""
        self._validation_dl = self._loader("validation_ds", val_data_config, shuffle=False)

    def _loader(self, name: str, section: DictConfig, shuffle: bool) -> DataLoader | None:
        if self.spelling is None:
            return None
        if not section.get("archives"):
            raise SigmelError(f"model.{name}.archives: names no folder of dMel archives")
        texts = SpokenTexts(Path(section.archives), self.dmel.config, self.spelling.encode)
        for row in texts.rows:
            if missing := uncovered(self.spelling, row["text"]):
                where = f"{section.archives}: {row['id']}"
                raise SigmelError(f"{where}: the tokenizer has no piece for {missing} in {row['text']!r}")
        frames = [row["frames"] for row in texts.rows]
        batches = BatchesOfLikeLength(frames, section.max_frames, section.get("seed", 0), shuffle)
        return DataLoader(texts, batch_sampler=batches, collate_fn=collate, num_workers=section.get("num_workers", 0))

    # --- Training

    def training_step(self, batch: SpokenText, batch_idx: int) -> Tensor:
        """The loss of a batch."""
        loss, parts = self._loss(batch)
        rate = self._optimizer.param_groups[0]["lr"]
        self.log_dict({"train_loss": loss.detach(), "learning_rate": rate, **parts})
        return loss

    def validation_step(self, batch: SpokenText, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """The loss and, for recognition, the word error rate of a batch."""
        loss, _ = self._loss(batch)
        found: dict[str, Any] = {"val_loss": loss, "size": len(batch.text)}
        if self.cfg.task != "tts":
            tokens = self.lm.transcribe(batch.speech, batch.speech_lengths)
            found["hypotheses"] = [self.spelling.decode(text) for text in tokens]
            rows = zip(batch.text, batch.text_lengths, strict=True)
            found["references"] = [self.spelling.decode(text[:length].tolist()) for text, length in rows]
        self._found.append(found)
        return found

    def on_validation_epoch_start(self) -> None:
        """Forget the batches of the last validation."""
        self._found: list[dict[str, Any]] = []

    def on_validation_epoch_end(self, sync_metrics: bool = False) -> None:
        """Log `val_loss` and, for recognition, `val_wer`."""
        total = sum(batch["size"] for batch in self._found)
        self.log("val_loss", sum(batch["val_loss"] * batch["size"] for batch in self._found) / total)
        if self.cfg.task != "tts":
            texts = [[text for batch in self._found for text in batch[name]] for name in ("hypotheses", "references")]
            self.log("val_wer", word_error_rate(*texts))

    def _loss(self, batch: SpokenText) -> tuple[Tensor, dict[str, Tensor]]:
        """The training loss, and its parts for the log."""
        speech, speech_lengths, text, text_lengths = batch
        loss, parts = torch.zeros((), device=speech.device), {}
        if self.cfg.task != "tts":
            weight = self.cfg.get("speech_weight", 0.0)
            heard = self.lm(self.lm.recognition(speech, speech_lengths, text, text_lengths, bool(weight)))
            loss = loss + heard.text_loss + weight * heard.speech_loss + heard.aux_loss
            parts["text_loss"] = heard.text_loss.detach()
        if self.cfg.task != "asr":
            speakers = self._voices(speech, speech_lengths)
            said = self.lm(self.lm.synthesis(text, text_lengths, speech, speech_lengths, speakers))
            loss = loss + said.speech_loss + said.aux_loss
            parts["speech_loss"] = said.speech_loss.detach()
        return loss, parts

    # --- Use

    def _voices(self, speech: Tensor, lengths: Tensor) -> Tensor | None:
        """(B, 2 C) vectors of the speakers, see `voice_print`; None for a model without a speaker_size."""
        return self.dmel.voice_print(speech, lengths) if self.lm.speaker_size else None

    def transcribe(self, paths: Sequence[str | Path], batch_size: int = 16) -> list[str]:
        """Texts of audio files.

        Raises:
            AudioError: a file that cannot be used.
        """

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            for first in range(0, len(paths), batch_size):
                audio = [read_audio(path, self.dmel.sample_rate)[0] for path in paths[first : first + batch_size]]
                rows = [torch.from_numpy(samples) for samples in audio]
                yield pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows])

        return [found.text for batch in self.transcribe_generator(batches()) for found in batch]

    @torch.no_grad()
    def transcribe_generator(
        self, batches: Iterable[Sequence[Tensor]], override_config: Any = None
    ) -> Iterator[list[Hypothesis]]:
        """Hypotheses of batches, tuples that begin with waveforms (B, samples) and lengths (B,), as NeMo's do."""
        self.eval()
        for waveforms, lengths, *_ in batches:
            tokens = self.lm.transcribe(*self.dmel.encode(waveforms.to(self.device), lengths.to(self.device)))
            yield [Hypothesis(score=0.0, y_sequence=text, text=self.spelling.decode(text)) for text in tokens]

    @torch.no_grad()
    def speak(
        self,
        texts: Sequence[str],
        voice: Tensor | None = None,
        seed: int = 0,
        vocoder: nn.Module | None = None,
        **options: Any,
    ) -> list[np.ndarray]:
        """Speak texts: (samples,) float32 sound of each text, at the sample rate of the model's dMel.

        Args:
            texts: the texts to speak.
            voice: (B, 2 C) or (1, 2 C) of `voice_print`, for a model with a speaker_size. Default: None.
            seed: of the random numbers. Default: 0.
            vocoder: made by `sigmel.features.vocoder.make_vocoder`. Default: the vocoder that needs no weights.
            **options: of `DMelLM.speak_stream`.

        Raises:
            SigmelError: the tokenizer cannot spell a text; a voice that is missing or not asked for.
        """
        self.eval()
        for text in texts:
            if missing := uncovered(self.spelling, text):
                raise SigmelError(f"the tokenizer has no piece for {missing} in {text!r}")
        rows = [torch.tensor(self.spelling.encode(text), dtype=torch.int64) for text in texts]
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        tokens = pad_sequence(rows, batch_first=True).to(self.device)
        voice = None if voice is None else voice.to(self.device).expand(len(texts), -1)
        generator = torch.Generator(self.device).manual_seed(seed)
        ids, frames = self.lm.speak(tokens, lengths, voice, generator=generator, **options)
        vocoder = make_vocoder(self.dmel).to(self.device) if vocoder is None else vocoder
        waveforms, samples = vocoder(self.dmel.decode(ids, frames), frames)
        return [row[:count].cpu().numpy() for row, count in zip(waveforms, samples.tolist(), strict=True)]

    @classmethod
    def list_available_models(cls) -> None:
        """NeMo asks for this method; there are no models to download."""
        return None
