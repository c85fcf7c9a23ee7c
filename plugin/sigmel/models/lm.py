"""One decoder-only Transformer that recognises and speaks: RichASR and RichTTS (arXiv 2407.15835)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sigmel.errors import SigmelError
from sigmel.layers.attention import MultiHeadAttention
from sigmel.layers.blocks import BlockState, TransformerBlock
from sigmel.layers.dmel import DMelEmbedding, DMelHeads
from sigmel.layers.dropout import Dropout
from sigmel.layers.experts import ExpertFeedForward, FeedForward
from sigmel.layers.masks import Visible, valid_frames
from sigmel.models.sequence import SPEAKER, SPEECH, TEXT, Part, Sequence, join
from sigmel.models.stack import POSITIONS, RoutedStack, check_choice, check_heads

# Layers, width and heads with which the model has the paper's numbers of parameters: 59M, 258M and 1.3B.
SIZES: dict[str, dict[str, int]] = {
    "S": {"num_layers": 18, "d_model": 512, "num_heads": 8},
    "B": {"num_layers": 36, "d_model": 768, "num_heads": 12},
    "L": {"num_layers": 46, "d_model": 1536, "num_heads": 24},
}
TEXT_BOS, TEXT_EOS = 0, 1  # text tokens follow
TEXT_SPECIAL = 2


class LMOutput(NamedTuple):
    """What training is about.

    Attributes:
        loss: scalar: that of text, that of speech, and `aux_loss`.
        text_loss: mean cross-entropy of a token; 0 where none is learned.
        speech_loss: mean cross-entropy of a channel of a frame; 0 where none is learned.
        aux_loss: of the routers, weighted; 0 without experts.
    """

    loss: Tensor
    text_loss: Tensor
    speech_loss: Tensor
    aux_loss: Tensor


@dataclass
class LMState:
    """Where generation stands.

    Attributes:
        blocks: keys and values of a layer.
        exists: (B, L) bool, which of these L positions are no padding.
    """

    blocks: list[BlockState]
    exists: Tensor

    def rows(self, index: Tensor) -> LMState:
        """Of these (N,) utterances, which may come several times."""
        return LMState([block.rows(index) for block in self.blocks], self.exists[index])

    @staticmethod
    def joined(states: list[LMState]) -> LMState:
        """One state of several, which stand at the same length."""
        blocks = [BlockState.joined(list(of_layer)) for of_layer in zip(*(one.blocks for one in states), strict=True)]
        return LMState(blocks, torch.cat([one.exists for one in states]))


class DMelLM(RoutedStack):
    """Language model over text and dMel frames.

    Recognition is the sequence speech, text, of which text is learned; speech synthesis is speaker, text, speech, of
    which speech is learned. Text and speech begin and end with tokens, or whole frames, of their own. A model may
    learn both.

    Args:
        vocab_size: text tokens, without those that begin and end a text.
        channels: C of the dMel. Default: 80.
        bins: ids a channel without those of special frames. Default: 16.
        d_model, num_layers, num_heads, ff_size: Defaults: 512, 18, 8 (size "S", see `SIZES`), 4 * d_model.
        embedding_size: of a channel. Default: 32.
        speaker_size: S of speakers' vectors; 0 for none. Default: 0.
        mask_speech: share of the input frames that are hidden in training. Default: 0.
        mask_span: frames hidden in a row, on the mean. Default: 3.
        max_length: positions, for the bias of sigmoid attention, -ln of it. Default: 2048.
        positions, attention, attention_options, activation, dropout, routing, experts, top_k, expert_layers, jitter,
            load_balance_weight, z_loss_weight: see `sigmel.models.encoder.OmniRouterEncoder`. Default of routing:
            "dense", of activation: "gelu".

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
        ff_size: int | None = None,
        embedding_size: int = 32,
        speaker_size: int = 0,
        mask_speech: float = 0.0,
        mask_span: float = 3.0,
        max_length: int = 2048,
        positions: str = "rope",
        attention: str = "softmax",
        attention_options: Mapping[str, Any] | None = None,
        activation: str = "gelu",
        dropout: float = 0.1,
        routing: str = "dense",
        experts: int = 4,
        top_k: int = 1,
        expert_layers: str = "all",
        jitter: float = 0.01,
        load_balance_weight: float = 0.01,
        z_loss_weight: float = 0.0,
    ):
        super().__init__()
        check_choice("positions", positions, tuple(POSITIONS))
        sizes = {"vocab_size": vocab_size, "channels": channels, "bins": bins, "d_model": d_model}
        sizes |= {"num_layers": num_layers, "num_heads": num_heads, "embedding_size": embedding_size}
        for name, size in sizes.items():
            if size < 1:
                raise SigmelError(f"{name}: {size} must be at least 1")
        check_heads(d_model, num_heads, positions)
        if not 0 <= mask_speech < 1 or mask_span < 1:
            raise SigmelError(f"mask_speech, mask_span: {mask_speech} and {mask_span}, expected [0, 1) and at least 1")
        self.channels, self.bins, self.speaker_size = channels, bins, speaker_size
        self.mask_speech, self.mask_span = mask_speech, mask_span
        self.bos_id, self.eos_id = bins + 1, bins + 2  # bins is the id of padding, see DMelTokenizer
        self.text_embedding = nn.Embedding(vocab_size + TEXT_SPECIAL, d_model)
        self.speech_embedding = DMelEmbedding(channels, bins + 3, embedding_size, d_model)
        self.speaker_linear = nn.Linear(speaker_size, d_model) if speaker_size else None
        self.masked = nn.Parameter(torch.zeros(d_model))
        self.input_norm = nn.LayerNorm(d_model)
        self.dropout = Dropout(dropout)

        def make_block(attend: MultiHeadAttention, feed_forward: FeedForward | ExpertFeedForward) -> TransformerBlock:
            return TransformerBlock(d_model, attend, feed_forward, dropout)

        self.build_blocks(
            make_block,
            d_model=d_model,
            num_layers=num_layers,
            num_heads=num_heads,
            ff_size=4 * d_model if ff_size is None else ff_size,
            positions=positions,
            attention=attention,
            attention_options=attention_options,
            keys=max_length,
            activation=activation,
            dropout=dropout,
            routing=routing,
            experts=experts,
            top_k=top_k,
            expert_layers=expert_layers,
            jitter=jitter,
            load_balance_weight=load_balance_weight,
            z_loss_weight=z_loss_weight,
            normalize_gates=False,
            gradient_sharing=0.0,
        )
        self.final_norm = nn.LayerNorm(d_model)
        self.text_head = nn.Linear(d_model, vocab_size + TEXT_SPECIAL)
        self.speech_heads = DMelHeads(d_model, channels, bins + 3)

    # --- Sequences

    def recognition(
        self,
        speech: Tensor,
        speech_lengths: Tensor,
        text: Tensor,
        text_lengths: Tensor,
        learn_speech: bool = False,
    ) -> Sequence:
        """RichASR: speech, then text, which is learned.

        Args:
            speech: (B, T, C) uint8 ids without special frames; speech_lengths: (B,).
            text: (B, U) int64 tokens from 0 on; text_lengths: (B,).
            learn_speech: foretell the speech as well, as a language model does. Default: False.
        """
        return self._join([self._speech(speech, speech_lengths, learn_speech), self._text(text, text_lengths, True)])

    def synthesis(
        self,
        text: Tensor,
        text_lengths: Tensor,
        speech: Tensor,
        speech_lengths: Tensor,
        speakers: Tensor | None = None,
    ) -> Sequence:
        """RichTTS: the speaker, (B, S), where the model knows of any; text, then speech, which is learned."""
        parts = [self._text(text, text_lengths, False), self._speech(speech, speech_lengths, True)]
        return self._join([*self._speaker(speakers), *parts])

    def _join(self, parts: list[Part]) -> Sequence:
        return join(parts, self.channels, self.speaker_size)

    def _text(self, text: Tensor, lengths: Tensor, learned: bool, ends: bool = True) -> Part:
        """With the tokens that begin and end it."""
        tokens = F.pad(text + TEXT_SPECIAL, (1, 1), value=TEXT_EOS)
        tokens[:, 0] = TEXT_BOS
        tokens.scatter_(1, lengths[:, None] + 1, TEXT_EOS)
        return Part(TEXT, tokens, lengths + 1 + ends, learned)

    def _speech(self, speech: Tensor, lengths: Tensor, learned: bool, ends: bool = True) -> Part:
        """With the frames that begin and end it."""
        frames = F.pad(speech, (0, 0, 1, 1), value=self.eos_id)
        frames[:, 0] = self.bos_id
        frames[torch.arange(len(frames), device=frames.device), lengths + 1] = self.eos_id
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
        """(B, L, D) vectors, each of which says what comes next, and the routers' loss, weighted."""
        x, lengths = self._embed(sequence), sequence.lengths
        valid = valid_frames(lengths, x.shape[1])
        visible = Visible(lengths, x.shape[1], chunk_size=1, left_context=None)
        x, table = self.position(x, torch.arange(x.shape[1], device=x.device), past=0)
        hidden, aux_loss, _, _ = self.run_blocks(self.dropout(x), visible, valid, table)
        return self.final_norm(hidden), aux_loss

    def text_loss(self, hidden: Tensor, sequence: Sequence) -> Tensor:
        """Mean cross-entropy of the tokens that are learned; 0 where none is."""
        before, tokens = self._learned(hidden, sequence, TEXT, sequence.text)
        return F.cross_entropy(self.text_head(before).float(), tokens) if len(tokens) else hidden.new_zeros(())

    def speech_loss(self, hidden: Tensor, sequence: Sequence) -> Tensor:
        """Mean cross-entropy of a channel of the frames that are learned; 0 where none is."""
        before, frames = self._learned(hidden, sequence, SPEECH, sequence.speech)
        return self.speech_heads.loss(before, frames) if len(frames) else hidden.new_zeros(())

    @staticmethod
    def _learned(hidden: Tensor, sequence: Sequence, kind: int, values: Tensor) -> tuple[Tensor, Tensor]:
        """Of the positions of a kind that are learned: the vectors (N, D) before them, and what stands there."""
        wanted = sequence.learned & (sequence.kinds == kind)
        wanted[:, 0] = False  # nothing comes before it
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
            for tokens, one, is_done in zip(found, token.tolist(), done.tolist(), strict=True):
                if not is_done:
                    tokens.append(one - TEXT_SPECIAL)
            hidden, state = self.write(token, state)
        return found

    def heard(self, speech: Tensor, lengths: Tensor) -> tuple[Tensor, LMState]:
        """The vectors (B, D) that say which token a text begins with, and where generation then stands."""
        begin = torch.zeros(len(speech), 0, dtype=torch.int64, device=speech.device)
        none = torch.zeros_like(lengths)
        return self._prefill(
            self._join([self._speech(speech, lengths, False), self._text(begin, none, False, ends=False)])
        )

    def write(self, tokens: Tensor, state: LMState) -> tuple[Tensor, LMState]:
        """The vectors (B, D) that say what comes after these (B,) tokens, which count `TEXT_SPECIAL`."""
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
            speakers: (B, S), where the model knows of any.
            min_frames: before an end is thought of. Default: 2, the fewest that sound can be made of.
            max_frames: at most. Default: 1000.
            temperature, top_k, top_p, generator: see `sample`.

        Yields:
            (B, C) uint8 ids, those of padding where an utterance has ended, and (B,) whether it still goes on.
        """
        empty = torch.zeros(len(text), 0, self.channels, dtype=torch.uint8, device=text.device)
        parts = [self._text(text, lengths, False), self._speech(empty, torch.zeros_like(lengths), False, ends=False)]
        hidden, state = self._prefill(self._join([*self._speaker(speakers), *parts]))
        going_on = torch.ones(len(text), dtype=torch.bool, device=text.device)
        for number in range(max_frames):
            logits = self.speech_heads(hidden).float()  # (B, C, V)
            if number >= min_frames:
                going_on = going_on & ~self._ends(logits, temperature, generator)
            if not going_on.any():
                return
            frame = sample(logits[..., : self.bins], temperature, top_k, top_p, generator).to(torch.uint8)
            yield frame.masked_fill(~going_on[:, None], self.bins), going_on
            hidden, state = self._next(self.input_norm(self.speech_embedding(frame)), state)

    def _ends(self, logits: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
        """(B,) bool, whether utterances end here: drawn once for all channels, which end together.

        The silence before an end is long or short, so that no one frame is likely to be the end: it has to be drawn,
        as what is spoken is.
        """
        if temperature == 0:
            return logits.softmax(-1)[..., self.eos_id].mean(-1) > 0.5
        probability = (logits / temperature).softmax(-1)[..., self.eos_id].mean(-1)
        return torch.rand(len(logits), device=logits.device, generator=generator) < probability

    def _prefill(self, prompt: Sequence) -> tuple[Tensor, LMState]:
        """The vectors (B, D) of the last positions; prompts are moved to the right, so that all end together."""
        x, lengths = self._embed(prompt), prompt.lengths
        longest = x.shape[1]
        position = torch.arange(longest, device=x.device)
        shifted = position - (longest - lengths)[:, None]  # (B, L), negative at padding
        x = x.gather(1, shifted.clamp(min=0)[..., None].expand_as(x))
        exists = shifted >= 0
        state = LMState([block.initial_state(len(x), None) for block, _ in self.layers()], exists[:, :0])
        return self._step(x, exists, state)

    def _next(self, x: Tensor, state: LMState) -> tuple[Tensor, LMState]:
        """One position (B, D) more."""
        return self._step(x[:, None], x.new_ones(len(x), 1, dtype=torch.bool), state)

    def _step(self, x: Tensor, exists: Tensor, state: LMState) -> tuple[Tensor, LMState]:
        """Positions (B, T, D) more; the vectors (B, D) of the last ones."""
        past = state.exists.shape[1]
        known = torch.cat([state.exists, exists], dim=1)  # (B, past + T)
        count = known.cumsum(1)[:, past:] - 1
        x, table = self.position(x, count.clamp(min=0), past)
        place = torch.arange(known.shape[1], device=x.device)
        mask = (place <= place[past:, None]) & known[:, None]
        mask = mask | (place == place[past:, None])  # padding sees itself, so that no row is empty
        blocks = []
        for (block, router), before in zip(self.layers(), state.blocks, strict=True):
            x, after = block.step(x, before, mask[:, None], exists, None, table, router)
            blocks.append(after)
        return self.final_norm(x[:, -1]), LMState(blocks, known)


def masked_spans(exists: Tensor, share: float, span: float) -> Tensor:
    """(B, L) bool, true at about this share of the positions that exist, in spans of so many on the mean."""
    begins = torch.rand(exists.shape, device=exists.device) < share / span / (1 - share + share / span)
    hidden = torch.zeros_like(exists)
    goes_on = torch.rand(exists.shape, device=exists.device) < 1 - 1 / span
    current = torch.zeros_like(exists[:, 0])
    for position in range(exists.shape[1]):
        current = (current & goes_on[:, position]) | begins[:, position]
        hidden[:, position] = current
    return hidden & exists


def sample(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """(...) int64 drawn from (..., V) logits.

    Args:
        logits: unnormalised.
        temperature: they are divided by it; 0 takes the most probable. Default: 1.
        top_k: only the k most probable. Default: None.
        top_p: only the most probable that together have this probability. Default: 1.
        generator: of the random numbers.

    Raises:
        SigmelError: a setting out of its range, by name.
    """
    if temperature < 0 or not 0 < top_p <= 1 or (top_k is not None and top_k < 1):
        told = f"{temperature}, {top_k} and {top_p}"
        raise SigmelError(f"temperature, top_k, top_p: {told}, expected at least 0, at least 1, and in (0, 1]")
    if temperature == 0 or top_k == 1:
        return logits.argmax(-1)
    logits = logits / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[..., -1:], -torch.inf)
    probabilities = logits.softmax(-1)
    if top_p < 1:
        ordered, index = probabilities.sort(dim=-1, descending=True)
        beyond = ordered.cumsum(-1) - ordered >= top_p
        probabilities = ordered.masked_fill(beyond, 0.0).gather(-1, index.argsort(-1))
    drawn = torch.multinomial(probabilities.flatten(0, -2), 1, generator=generator)
    return drawn.view(logits.shape[:-1])
