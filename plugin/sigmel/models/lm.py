"""A decoder-only Transformer that recognises and speaks: RichASR and RichTTS (arXiv 2407.15835)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sigmel.errors import SigmelError
from sigmel.features.special_frames import add_special, special_ids
from sigmel.flat_options import check_positive, flat_options, split_options
from sigmel.layers.blocks import BlockState
from sigmel.layers.dmel import DMelEmbedding, DMelHeads
from sigmel.layers.masks import Visible, masked_spans
from sigmel.layers.routing import Routing
from sigmel.models.sampling import sample
from sigmel.models.stack import RoutedStack, StackOptions
from sigmel.models.token_sequence import PADDING, SPEAKER, SPEECH, TEXT, Part, Sequence, join

TEXT_BOS, TEXT_EOS = 0, 1
TEXT_SPECIAL = 2  # how many tokens come before those of the text


class LMOutput(NamedTuple):
    """The losses of a batch.

    Attributes:
        loss: scalar: the sum of the other three.
        text_loss: mean cross-entropy of a token; 0 where no text is learned.
        speech_loss: mean cross-entropy of a channel of a frame; 0 where no speech is learned.
        aux_loss: of the routers, weighted; 0 without experts.
    """

    loss: Tensor
    text_loss: Tensor
    speech_loss: Tensor
    aux_loss: Tensor


@dataclass
class LMState:
    """The past of sequences that are being generated.

    Attributes:
        blocks: keys and values of a layer.
        exists: (B, L) bool, false at those of the L positions that are padding.
    """

    blocks: list[BlockState]
    exists: Tensor


@flat_options(StackOptions, Routing)
class DMelLM(RoutedStack):
    """Language model over text and dMel frames.

    Recognition is the sequence speech, text, of which text is learned; speech synthesis is speaker, text, speech, of
    which speech is learned. Text begins and ends with tokens of its own, and speech with whole frames of its own. A
    model may learn both.

    The paper's sizes S, B and L (59M, 258M and 1.3B parameters) have 18, 36 and 46 layers of width 512, 768 and 1536
    with 8, 12 and 24 heads.

    Args:
        vocab_size: text tokens, without those that begin and end a text.
        channels: C of the dMel. Default: 80.
        bins: ids a channel without those of special frames. Default: 16.
        d_model, num_layers, num_heads: see `StackOptions`. Defaults: 512, 18 and 8, size S.
        embedding_size: of a channel. Default: 32.
        speaker_size: S of speakers' vectors; 0 for none. Default: 0.
        mask_speech: share of the input frames that are hidden in training. Default: 0.
        mask_span: mean number of frames hidden in a row. Default: 3.
        max_length: positions, for the bias of sigmoid attention, -ln of their number. Default: 2048.
        activation: see `StackOptions`. Default: "gelu".
        routing: see `sigmel.layers.routing.Routing`. Default: "dense".
        **options: others of `sigmel.models.stack.StackOptions` and of `sigmel.layers.routing.Routing`.

    Raises:
        SigmelError: options that are unknown or contradict each other, by name.
    """

    def __init__(
        self,
        vocab_size: int,
        channels: int = 80,
        bins: int = 16,
        d_model: int = 512,
        num_layers: int = 18,
        num_heads: int = 8,
        embedding_size: int = 32,
        speaker_size: int = 0,
        mask_speech: float = 0.0,
        mask_span: float = 3.0,
        max_length: int = 2048,
        activation: str = "gelu",
        routing: str = "dense",
        **options: Any,
    ):
        options |= {"d_model": d_model, "num_layers": num_layers, "num_heads": num_heads}
        options |= {"activation": activation, "routing": routing}
        stack, routing_options, _ = split_options(options, StackOptions, Routing)
        super().__init__(stack, routing_options)
        check_positive(vocab_size=vocab_size, channels=channels, bins=bins, embedding_size=embedding_size)
        if not 0 <= mask_speech < 1 or mask_span < 1:
            raise SigmelError(f"mask_speech, mask_span: {mask_speech} and {mask_span}, expected [0, 1) and at least 1")
        self.channels, self.bins, self.speaker_size = channels, bins, speaker_size
        self.mask_speech, self.mask_span = mask_speech, mask_span
        self.pad_id, self.bos_id, self.eos_id = special_ids(bins)
        entries = self.eos_id + 1
        self.text_embedding = nn.Embedding(vocab_size + TEXT_SPECIAL, d_model)
        self.speech_embedding = DMelEmbedding(channels, entries, embedding_size, d_model)
        self.speaker_linear = nn.Linear(speaker_size, d_model) if speaker_size else None
        self.masked = nn.Parameter(torch.zeros(d_model))
        self.input_norm = nn.LayerNorm(d_model)
        self.build_blocks(keys=max_length)
        self.text_head = nn.Linear(d_model, vocab_size + TEXT_SPECIAL)
        self.speech_heads = DMelHeads(d_model, channels, entries)

    # --- Sequences

    def recognition(
        self,
        speech: Tensor,
        speech_lengths: Tensor,
        text: Tensor,
        text_lengths: Tensor,
        learn_speech: bool = False,
    ) -> Sequence:
        """The sequences of RichASR: speech, then text, which is learned.

        Args:
            speech: (B, T, C) uint8 ids without special frames; speech_lengths: (B,).
            text: (B, U) int64 tokens from 0 on; text_lengths: (B,).
            learn_speech: predict the speech as well, as a language model does. Default: False.
        """
        parts = [self._speech(speech, speech_lengths, learn_speech), self._text(text, text_lengths, True)]
        return join(parts, self.channels, self.speaker_size)

    def synthesis(
        self,
        text: Tensor,
        text_lengths: Tensor,
        speech: Tensor,
        speech_lengths: Tensor,
        speakers: Tensor | None = None,
    ) -> Sequence:
        """The sequences of RichTTS: the speaker, if the model has a speaker_size, text, then speech, which is learned.

        Args:
            text, text_lengths, speech, speech_lengths: see `recognition`.
            speakers: (B, speaker_size). Default: None.

        Raises:
            SigmelError: speakers that are missing, not asked for, or of another size.
        """
        parts = [self._text(text, text_lengths, False), self._speech(speech, speech_lengths, True)]
        return join([*self._speaker(speakers), *parts], self.channels, self.speaker_size)

    def _text(self, text: Tensor, lengths: Tensor, learned: bool, ends: bool = True) -> Part:
        """Text with the token that begins it and, if it ends, the token that ends it."""
        tokens = F.pad(text + TEXT_SPECIAL, (1, 1), value=TEXT_EOS)
        tokens[:, 0] = TEXT_BOS
        tokens.scatter_(1, lengths[:, None] + 1, TEXT_EOS)
        return Part(TEXT, tokens, lengths + 1 + ends, learned)

    def _speech(self, speech: Tensor, lengths: Tensor, learned: bool, ends: bool = True) -> Part:
        """Speech with the frame that begins it and, if it ends, the frame that ends it."""
        frames, _ = add_special(speech, lengths, self.bins)
        return Part(SPEECH, frames, lengths + 1 + ends, learned)

    def _speaker(self, speakers: Tensor | None) -> list[Part]:
        if (speakers is None) != (self.speaker_linear is None):
            raise SigmelError(
                f"speakers: {'missing' if speakers is None else 'given'}; speaker_size is {self.speaker_size}"
            )
        if speakers is None:
            return []
        if speakers.shape[1:] != (self.speaker_size,):
            raise SigmelError(f"speakers: {tuple(speakers.shape)}, expected (batch, {self.speaker_size})")
        ones = torch.ones(len(speakers), dtype=torch.int64, device=speakers.device)
        return [Part(SPEAKER, speakers[:, None], ones, False)]

    # --- Training

    def forward(self, sequence: Sequence) -> LMOutput:
        """The losses of a batch."""
        hidden, aux_loss = self.hidden(sequence)
        text_loss, speech_loss = self.text_loss(hidden, sequence), self.speech_loss(hidden, sequence)
        return LMOutput(text_loss + speech_loss + aux_loss, text_loss, speech_loss, aux_loss)

    def hidden(self, sequence: Sequence) -> tuple[Tensor, Tensor]:
        """(B, L, D) vectors, from each of which the next position is predicted, and the routers' weighted loss."""
        x = self._embed(sequence)
        output = self.run_blocks(x, Visible(sequence.lengths, x.shape[1], chunk_size=1, left_context=None))
        return output.hidden, output.aux_loss

    def text_loss(self, hidden: Tensor, sequence: Sequence) -> Tensor:
        """Mean cross-entropy of the tokens that are learned; 0 if there are no such tokens."""
        before, tokens = self._learned(hidden, sequence, TEXT, sequence.text)
        return F.cross_entropy(self.text_head(before).float(), tokens) if len(tokens) else hidden.new_zeros(())

    def speech_loss(self, hidden: Tensor, sequence: Sequence) -> Tensor:
        """Mean cross-entropy of a channel of the frames that are learned; 0 if there are no such frames."""
        before, frames = self._learned(hidden, sequence, SPEECH, sequence.speech)
        return self.speech_heads.loss(before, frames) if len(frames) else hidden.new_zeros(())

    @staticmethod
    def _learned(hidden: Tensor, sequence: Sequence, kind: int, values: Tensor) -> tuple[Tensor, Tensor]:
        """Of the positions of a kind that are learned: the vectors (N, D) before them, and their values."""
        wanted = sequence.learned & (sequence.kinds == kind)
        wanted[:, 0] = False  # no position stands before the first
        return hidden[:, :-1][wanted[:, 1:]], values[wanted[sequence.kinds == kind]]

    def _embed(self, sequence: Sequence) -> Tensor:
        """(B, L, D), zero at padding."""
        kinds = sequence.kinds
        x = self.masked.new_zeros(*kinds.shape, self.d_model)
        speech = self.speech_embedding(sequence.speech)
        if self.training and self.mask_speech:
            hidden = masked_spans(kinds == SPEECH, self.mask_speech, self.mask_span)[kinds == SPEECH]
            speech = torch.where(hidden[:, None], self.masked.to(speech.dtype), speech)
        values = {TEXT: self.text_embedding(sequence.text), SPEECH: speech}
        if self.speaker_linear is not None:
            values[SPEAKER] = self.speaker_linear(sequence.speakers)
        for kind, rows in values.items():
            x = x.masked_scatter((kinds == kind)[..., None], self.input_norm(rows).to(x.dtype))
        return x

    # --- Generation

    @torch.no_grad()
    def transcribe(self, speech: Tensor, lengths: Tensor, max_length: int = 256) -> list[list[int]]:
        """Text tokens of each utterance, the most probable one at each step.

        Args:
            speech: (B, T, C) uint8 ids without special frames.
            lengths: (B,).
            max_length: tokens, at most. Default: 256.
        """
        hidden, state = self.heard(speech, lengths)
        found: list[list[int]] = [[] for _ in range(len(speech))]
        done = torch.zeros(len(speech), dtype=torch.bool, device=speech.device)
        for _ in range(max_length):
            logits = self.text_head(hidden)
            logits[:, TEXT_BOS] = -torch.inf
            token = logits.argmax(-1)
            done = done | (token == TEXT_EOS)
            if done.all():
                break
            for tokens, next_token, is_done in zip(found, token.tolist(), done.tolist(), strict=True):
                if not is_done:
                    tokens.append(next_token - TEXT_SPECIAL)
            hidden, state = self.write(token, state)
        return found

    def heard(self, speech: Tensor, lengths: Tensor) -> tuple[Tensor, LMState]:
        """The vectors (B, D) after speech, from which the first text tokens are predicted, and the state there."""
        empty = torch.zeros(len(speech), 0, dtype=torch.int64, device=speech.device)
        begin = self._text(empty, torch.zeros_like(lengths), False, ends=False)
        return self._prefill([self._speech(speech, lengths, False), begin])

    def write(self, tokens: Tensor, state: LMState) -> tuple[Tensor, LMState]:
        """The vectors (B, D) after these (B,) tokens, which are numbered from `TEXT_SPECIAL`, and the state there."""
        return self._next(self.input_norm(self.text_embedding(tokens)), state)

    def speak(
        self, text: Tensor, lengths: Tensor, speakers: Tensor | None = None, **options: Any
    ) -> tuple[Tensor, Tensor]:
        """dMel of texts: (B, T, C) uint8 ids without special frames, and their (B,) lengths; see `speak_stream`."""
        frames = [torch.zeros(len(text), 0, self.channels, dtype=torch.uint8, device=text.device)]
        made = torch.zeros_like(lengths)
        for frame, exists in self.speak_stream(text, lengths, speakers, **options):
            frames.append(frame[:, None])
            made = made + exists
        return torch.cat(frames, dim=1), made

    @torch.no_grad()
    def speak_stream(
        self,
        text: Tensor,
        lengths: Tensor,
        speakers: Tensor | None = None,
        min_frames: int = 2,
        max_frames: int = 1000,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """dMel of texts, frame by frame.

        Args:
            text: (B, U) int64 tokens; lengths: (B,).
            speakers: (B, speaker_size), for a model with a speaker_size. Default: None.
            min_frames: an utterance does not end before. Default: 2, the fewest that sound can be made of.
            max_frames: an utterance ends there at the latest. Default: 1000.
            temperature, top_k, top_p, generator: see `sigmel.models.sampling.sample`.

        Yields:
            (B, C) uint8 ids of a frame, those of padding where an utterance has ended, and (B,) bool, whether it still
            goes on.
        """
        empty = torch.zeros(len(text), 0, self.channels, dtype=torch.uint8, device=text.device)
        parts = [self._text(text, lengths, False), self._speech(empty, torch.zeros_like(lengths), False, ends=False)]
        hidden, state = self._prefill([*self._speaker(speakers), *parts])
        going_on = torch.ones(len(text), dtype=torch.bool, device=text.device)
        for number in range(max_frames):
            logits = self.speech_heads(hidden).float()  # (B, C, V)
            if number >= min_frames:
                going_on = going_on & ~self._ends(logits, temperature, generator)
            if not going_on.any():
                return
            frame = sample(logits[..., : self.bins], temperature, top_k, top_p, generator).to(torch.uint8)
            yield frame.masked_fill(~going_on[:, None], self.pad_id), going_on
            hidden, state = self._next(self.input_norm(self.speech_embedding(frame)), state)

    def _ends(self, logits: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
        """(B,) bool, whether utterances end here: drawn once for all channels, which end together.

        The silence before an end may be long or short, so that no frame of it is likely to be the last: the end has to
        be drawn, as frames are.
        """
        if temperature == 0:
            return logits.softmax(-1)[..., self.eos_id].mean(-1) > 0.5
        probability = (logits / temperature).softmax(-1)[..., self.eos_id].mean(-1)
        return torch.rand(len(logits), device=logits.device, generator=generator) < probability

    def _prefill(self, parts: list[Part]) -> tuple[Tensor, LMState]:
        """The vectors (B, D) of the last positions of prompts, which all end together."""
        prompt = join(parts, self.channels, self.speaker_size, padding_first=True)
        exists = prompt.kinds != PADDING
        state = LMState([block.initial_state(len(exists), None) for block, _ in self.layers()], exists[:, :0])
        return self._step(self._embed(prompt), exists, state)

    def _next(self, x: Tensor, state: LMState) -> tuple[Tensor, LMState]:
        """The vectors (B, D) after one position (B, D) more."""
        return self._step(x[:, None], x.new_ones(len(x), 1, dtype=torch.bool), state)

    def _step(self, x: Tensor, exists: Tensor, state: LMState) -> tuple[Tensor, LMState]:
        """The vectors (B, D) of the last of positions (B, T, D) that follow; `exists` (B, T) is false at padding."""
        known = torch.cat([state.exists, exists], dim=1)
        number = (known.cumsum(1)[:, state.exists.shape[1] :] - 1).clamp(min=0)
        x, blocks = self.step_blocks(x, number, known, state.blocks, causal=True)
        return x[:, -1], LMState(blocks, known)
