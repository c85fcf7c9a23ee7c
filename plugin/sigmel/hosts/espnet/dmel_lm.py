"""RichASR and RichTTS (arXiv 2407.15835) as a decoder and a synthesiser of ESPnet; each holds a `DMelLM`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from espnet2.asr.decoder.abs_decoder import AbsDecoder
from espnet2.asr.encoder.abs_encoder import AbsEncoder
from espnet2.torch_utils.device_funcs import force_gatherable
from espnet2.tts.abs_tts import AbsTTS
from torch import Tensor

from sigmel.checkpoints.strict_loading import check_when_loaded
from sigmel.errors import SigmelError
from sigmel.features.dmel_tokenizer import DMelTokenizer
from sigmel.features.vocoder import make_vocoder
from sigmel.flat_options import flat_options
from sigmel.layers.masks import valid_frames
from sigmel.layers.streaming_state import map_state
from sigmel.models.lm import TEXT_EOS, TEXT_SPECIAL, DMelLM, LMState

try:
    from espnet2.legacy.nets.scorer_interface import BatchScorerInterface
except ImportError:  # before 202611
    from espnet.nets.scorer_interface import BatchScorerInterface


class DMelTokens(AbsEncoder):
    """`encoder: dmel_tokens`: no encoder, but hands the ids of `frontend: dmel` with `ids: true` to the decoder."""

    def __init__(self, input_size: int):
        super().__init__()
        self._size = input_size

    def output_size(self) -> int:
        """The number of channels, C."""
        return self._size

    def forward(self, xs_pad: Tensor, ilens: Tensor, prev_states: Any = None) -> tuple[Tensor, Tensor, None]:
        """(B, T, C) ids and their (B,) lengths, as they come."""
        return xs_pad, ilens, None


@flat_options(DMelLM, without=["vocab_size", "channels"])
class RichASR(AbsDecoder, BatchScorerInterface):
    """`decoder: dmel_lm`: a language model that reads dMel frames and goes on in text.

    It scores the hypotheses of ESPnet's beam search and keeps keys and values for them. Use it with `ctc_weight: 0.0`,
    and with `model: sigmel_asr` if `speech_weight` or experts are to count in training.

    Args:
        vocab_size: ESPnet's tokens, of which the last token begins and ends a sentence.
        encoder_output_size: C.
        bins: ids a channel, 2 ** `bits` of the front end. Default: 16.
        speech_weight: weight of the loss of predicting the speech itself. Default: 0.0.
        **conf: options of `sigmel.models.lm.DMelLM`.

    Attributes:
        aux_loss: loss of the last forward pass in training, which `SigmelASRModel` takes away and adds to its own.
    """

    aux_loss: Tensor | None = None

    def __init__(
        self, vocab_size: int, encoder_output_size: int, bins: int = 16, speech_weight: float = 0.0, **conf: Any
    ):
        super().__init__()
        self.lm = DMelLM(vocab_size - 1, encoder_output_size, bins, **conf)
        self.eos, self.speech_weight = vocab_size - 1, speech_weight
        check_when_loaded(self, lambda name: "lm." in name)

    def forward(self, hs_pad: Tensor, hlens: Tensor, ys_in_pad: Tensor, ys_in_lens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, U, vocab_size) logits of the token after each of (B, U) tokens, and their (B,) lengths.

        Args:
            hs_pad: (B, T, C) ids.
            hlens: (B,) frames.
            ys_in_pad: (B, U) tokens, of which the first begins the sentence.
            ys_in_lens: (B,) tokens.
        """
        text = ys_in_pad[:, 1:].clamp(max=self.eos - 1)  # ESPnet pads with the token that ends a sentence
        learn_speech = self.speech_weight > 0
        sequence = self.lm.recognition(self._ids(hs_pad), hlens, text, ys_in_lens - 1, learn_speech)
        hidden, aux_loss = self.lm.hidden(sequence)
        if self.training:
            self.aux_loss = aux_loss
            if self.speech_weight:
                self.aux_loss = aux_loss + self.speech_weight * self.lm.speech_loss(hidden, sequence)
        # Text begins after the speech and the two frames around it.
        place = hlens[:, None] + 2 + torch.arange(ys_in_pad.shape[1], device=hlens.device)
        place = place.clamp(max=hidden.shape[1] - 1)[..., None].expand(-1, -1, hidden.shape[2])
        return self._logits(hidden.gather(1, place)), ys_in_lens

    def batch_init_state(self, x: Tensor) -> None:
        """The state without a past, None."""

    def init_state(self, x: Tensor) -> None:
        """The state without a past, None."""

    def score(self, ys: Tensor, state: LMState | None, x: Tensor) -> tuple[Tensor, LMState]:
        """(vocab_size,) log-probabilities of the next token, and the state with all tokens.

        Args:
            ys: (U,) tokens, of which the first begins the sentence.
            state: of all tokens but the last; None if there is one token.
            x: (T, C) ids.
        """
        scores, states = self.batch_score(ys[None], [state], x[None])
        return scores[0], states[0]

    def batch_score(self, ys: Tensor, states: list[LMState | None], xs: Tensor) -> tuple[Tensor, list[LMState]]:
        """`score` for hypotheses that are equally long: (B, vocab_size), and B states."""
        known = [state for state in states if state is not None]
        if known:
            hidden, state = self.lm.write(ys[:, -1] + TEXT_SPECIAL, map_state(lambda *each: torch.cat(each), *known))
        else:
            hidden, state = self.lm.heard(self._ids(xs), torch.full((len(xs),), xs.shape[1], device=xs.device))
        after = [map_state(lambda x, n=n: x[[n]], state) for n in range(len(ys))]
        return self._logits(hidden).float().log_softmax(-1), after

    def _ids(self, hs_pad: Tensor) -> Tensor:
        return hs_pad.round().to(torch.uint8)

    def _logits(self, hidden: Tensor) -> Tensor:
        """(..., vocab_size) logits, of which the last is that of the end."""
        logits = self.lm.text_head(hidden)
        return torch.cat([logits[..., TEXT_SPECIAL:], logits[..., TEXT_EOS, None]], dim=-1)


@flat_options(DMelLM, without=["vocab_size", "channels", "bins"])
class RichTTS(AbsTTS):
    """`tts: dmel_lm`: a language model that reads text and goes on in dMel frames, which a vocoder turns into sound.

    It makes tokens of audio itself, so use it with `odim: 80` (the channels) and `normalize: null`.

    Args:
        idim: tokens of text.
        odim: C.
        dmel: settings of `DMelTokenizer`. Default: those of the tokenizer.
        temperature, top_p, max_frames: see `DMelLM.speak_stream`. Defaults: 0.9, 1.0 and 1000.
        **conf: options of `DMelLM`. With `speaker_size: 160`, twice C, training takes `voice_print` of the audio where
            no `spembs` are given; inference always needs `spembs` then.

    Raises:
        SigmelError: settings that do not fit together.
    """

    spks = langs = None  # which ESPnet reads

    def __init__(
        self,
        idim: int,
        odim: int,
        dmel: Mapping[str, Any] | None = None,
        temperature: float = 0.9,
        top_p: float = 1.0,
        max_frames: int = 1000,
        **conf: Any,
    ):
        super().__init__()
        self.dmel = DMelTokenizer(**(dmel or {}))
        if len(self.dmel.filters) != odim:
            raise SigmelError(f"odim: {odim}, but dMel has {len(self.dmel.filters)} channels")
        self.lm = DMelLM(idim, odim, self.dmel.bins, **conf)
        self.fs = self.dmel.sample_rate
        self.spk_embed_dim = self.lm.speaker_size or None
        self.sampling = {"temperature": temperature, "top_p": top_p, "max_frames": max_frames}
        self.vocoder = make_vocoder(self.dmel)
        check_when_loaded(self, lambda name: "lm." in name)

    @property
    def require_vocoder(self) -> bool:
        """Whether ESPnet has to bring a vocoder: no, this model has one that needs no weights."""
        return False

    def forward(
        self,
        text: Tensor,
        text_lengths: Tensor,
        feats: Tensor,
        feats_lengths: Tensor,
        spembs: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Loss, figures and weight of a batch.

        Args:
            text: (B, U) tokens; text_lengths: (B,).
            feats: (B, samples) audio at the sample rate of the dMel; feats_lengths: (B,).
            spembs: (B, speaker_size) vectors of the speakers. Default: see the class.
        """
        if feats.ndim != 2:
            raise SigmelError(f"speech: {tuple(feats.shape)}; expected audio (odim: {self.lm.channels}, no features)")
        ids, frames = self.dmel.encode(feats, feats_lengths)
        ids = ids * valid_frames(frames, ids.shape[1])[..., None]
        if self.lm.speaker_size and spembs is None:
            spembs = self.dmel.voice_print(ids, frames)
        output = self.lm(self.lm.synthesis(text.clamp(min=0), text_lengths, ids, frames, spembs))
        stats = {"loss": output.loss.detach(), "speech_loss": output.speech_loss.detach()}
        return force_gatherable((output.loss, stats, len(text)), output.loss.device)

    def inference(self, text: Tensor, spembs: Tensor | None = None, **kwargs: Any) -> dict[str, Tensor]:
        """Speak (U,) tokens: `wav` (samples,), and `feat_gen` (T, C), the log-mel of the sound.

        Args:
            text: (U,) tokens.
            spembs: (speaker_size,) vector of the speaker, for a model with a speaker_size. Default: None.

        Raises:
            SigmelError: teacher forcing; a speaker that is missing or not asked for.
        """
        if kwargs.get("use_teacher_forcing"):
            raise SigmelError("use_teacher_forcing: RichTTS speaks freely only")
        lengths = torch.tensor([len(text)], device=text.device)
        speakers = None if spembs is None else spembs[None]
        ids, frames = self.lm.speak(text[None], lengths, speakers, **self.sampling)
        log_mel = self.dmel.decode(ids, frames)
        waveform, _ = self.vocoder(log_mel, frames)
        return {"feat_gen": log_mel[0], "wav": waveform[0]}
