"""One model, two layouts: what it is trained on is what it generates by, alone or in any batch."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sigmel import SigmelError
from sigmel.layers.dmel import DMelEmbedding, DMelHeads
from sigmel.layers.masks import masked_spans
from sigmel.models.lm import TEXT_BOS, TEXT_EOS, TEXT_SPECIAL, DMelLM
from sigmel.models.sampling import sample
from sigmel.models.token_sequence import PADDING, SPEAKER, SPEECH, TEXT

SMALL = {"vocab_size": 10, "d_model": 32, "num_layers": 2, "num_heads": 2, "channels": 6, "bins": 4, "dropout": 0.0}
VARIANTS = [
    {},
    {"attention": "sigmoid", "max_length": 64},
    {"routing": "omni", "experts": 2},
    {"positions": "alibi", "activation": "swiglu"},
    {"positions": "sinusoidal", "speaker_size": 3},
]
SPEECH_LENGTHS, TEXT_LENGTHS = torch.tensor([9, 4, 0]), torch.tensor([2, 0, 5])


def model(**options):
    made = DMelLM(**{**SMALL, **options}).eval()
    for block in made.blocks:  # sigmoid attention begins with next to nothing
        if block.attention.layer_scale is not None:
            torch.nn.init.ones_(block.attention.layer_scale)
    return made


def batch(made):
    speech = torch.randint(made.bins, (3, 9, made.channels), dtype=torch.uint8)
    speakers = torch.randn(3, made.speaker_size) if made.speaker_size else None
    return speech, torch.randint(10, (3, 5)), speakers


@pytest.mark.parametrize(
    ("layers", "width", "heads", "millions"), [(18, 512, 8, 59), (36, 768, 12, 258), (46, 1536, 24, 1300)]
)
def test_sizes_are_those_of_the_paper(layers, width, heads, millions):
    with torch.device("meta"):
        model = DMelLM(vocab_size=30, num_layers=layers, d_model=width, num_heads=heads)
    counted = sum(p.numel() for p in model.parameters())
    assert round(counted / 1e6, -2 if millions == 1300 else 0) == millions


def test_the_embedding_is_a_linear_layer_over_all_channels():
    layer = DMelEmbedding(5, 7, 3, 11)
    ids = torch.randint(7, (20, 5), dtype=torch.uint8)
    expected = layer.linear(torch.cat([F.embedding(ids[:, c].long(), layer.tables[c]) for c in range(5)], dim=-1))
    torch.testing.assert_close(layer(ids), expected)
    torch.testing.assert_close(layer(ids[:3]), expected[:3])
    wanted = torch.autograd.grad(expected.square().sum(), list(layer.parameters()))
    found = torch.autograd.grad(layer(ids).square().sum(), list(layer.parameters()))
    torch.testing.assert_close(found, wanted)


def test_heads_are_apart():
    heads, x, ids = DMelHeads(8, 3, 5), torch.randn(4, 8), torch.randint(5, (4, 3), dtype=torch.uint8)
    expected = torch.stack([F.cross_entropy(heads(x)[:, c], ids[:, c].long()) for c in range(3)]).mean()
    torch.testing.assert_close(heads.loss(x, ids), expected)


def test_layouts():
    made = model(speaker_size=3)
    speech, text, speakers = batch(made)
    recognition = made.recognition(speech, SPEECH_LENGTHS, text, TEXT_LENGTHS)
    assert recognition.kinds.tolist() == [
        [SPEECH] * 11 + [TEXT] * 4,
        [SPEECH] * 6 + [TEXT] * 2 + [PADDING] * 7,
        [SPEECH] * 2 + [TEXT] * 7 + [PADDING] * 6,
    ]
    assert torch.equal(recognition.learned, recognition.kinds == TEXT)
    assert recognition.text.tolist() == [
        *(TEXT_BOS, *(text[0, :2] + TEXT_SPECIAL).tolist(), TEXT_EOS),
        *(TEXT_BOS, TEXT_EOS),
        *(TEXT_BOS, *(text[2] + TEXT_SPECIAL).tolist(), TEXT_EOS),
    ]
    special = torch.full((6,), made.bos_id), torch.full((6,), made.eos_id)
    expected = [special[0], *speech[0], special[1], special[0], *speech[1, :4], special[1], *special]
    assert recognition.speech.tolist() == [frame.tolist() for frame in expected]
    synthesis = made.synthesis(text, TEXT_LENGTHS, speech, SPEECH_LENGTHS, speakers)
    assert synthesis.kinds[1].tolist() == [SPEAKER] + [TEXT] * 2 + [SPEECH] * 6 + [PADDING] * 7
    assert torch.equal(synthesis.learned, synthesis.kinds == SPEECH)
    assert torch.equal(synthesis.speakers, speakers)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_padding_changes_no_loss(options):
    made = model(**options)
    speech, text, speakers = batch(made)
    for layout in ("recognition", "synthesis"):

        def sequence(rows, layout=layout):
            sounds, sound_lengths = speech[rows], SPEECH_LENGTHS[rows]
            words, word_lengths = text[rows], TEXT_LENGTHS[rows]
            if layout == "recognition":
                return made.recognition(sounds, sound_lengths, words, word_lengths)
            who = None if speakers is None else speakers[rows]
            return made.synthesis(words, word_lengths, sounds, sound_lengths, who)

        together = made(sequence(slice(None)))
        lengths = (TEXT_LENGTHS if layout == "recognition" else SPEECH_LENGTHS) + 2
        alone = torch.stack([made(sequence(slice(n, n + 1))).loss for n in range(3)])
        losses = together.text_loss + together.speech_loss
        alone = alone - torch.stack([made(sequence(slice(n, n + 1))).aux_loss for n in range(3)])
        torch.testing.assert_close(losses, (alone * lengths).sum() / lengths.sum())


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_generation_foretells_what_training_learns(options):
    """The probability of what is generated, step by step, is the loss of the whole."""
    made = model(**options)
    speech, text, speakers = batch(made)
    tokens = made.transcribe(speech, SPEECH_LENGTHS, max_length=4)
    for number, found in enumerate(tokens):
        alone = speech[number : number + 1, : SPEECH_LENGTHS[number]], SPEECH_LENGTHS[number : number + 1]
        assert made.transcribe(*alone, max_length=4) == [found]
        for step in range(len(found)):  # each is what the whole sequence finds most probable there
            sequence = made.recognition(*alone, torch.tensor([found[:step]], dtype=torch.int64), torch.tensor([step]))
            losses = []
            for token in range(10):
                target = sequence._replace(
                    text=sequence.text.index_fill(0, torch.tensor([step + 1]), token + TEXT_SPECIAL)
                )
                learned = torch.zeros_like(target.learned)
                learned[0, -1] = True
                losses.append(made(target._replace(learned=learned)).text_loss)
            assert int(torch.stack(losses).argmin()) == found[step]
    frames, lengths = made.speak(text, TEXT_LENGTHS, speakers, max_frames=5, temperature=0)
    for number in range(3):
        who = None if speakers is None else speakers[number : number + 1]
        words = text[number : number + 1, : TEXT_LENGTHS[number]], TEXT_LENGTHS[number : number + 1]
        alone, length = made.speak(*words, who, max_frames=5, temperature=0)
        assert length.item() == lengths[number]
        assert torch.equal(alone[0, :length], frames[number, :length])
        for step in range(length):
            loss = [
                made(
                    made.synthesis(
                        *words, torch.cat([alone[:, :step], frame[None, None]], 1), length * 0 + step + 1, who
                    )
                )
                for frame in (alone[0, step], (alone[0, step] + 1) % made.bins)
            ]
            assert loss[0].speech_loss < loss[1].speech_loss


@pytest.mark.parametrize("options", [{}, {"positions": "alibi"}, {"attention": "sigmoid", "max_length": 64}], ids=str)
def test_bfloat16_learns_what_float32_does(options):
    made = model(**options)
    speech, text, _ = batch(made)
    sequence = made.synthesis(text, TEXT_LENGTHS, speech, SPEECH_LENGTHS)
    losses, gradients = [], []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses.append(made(sequence).loss)
        found = torch.autograd.grad(losses[-1], list(made.parameters()), allow_unused=True)
        gradients.append(torch.cat([one.flatten() for one in found if one is not None]))
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-2)
    assert F.cosine_similarity(*gradients, dim=0) > 0.99


def test_it_learns_to_recognise_and_to_speak():
    torch.manual_seed(0)
    made = DMelLM(**SMALL)
    text, lengths = torch.tensor([[1, 2, 3], [4, 5, 0]]), torch.tensor([3, 2])
    speech = torch.randint(4, (2, 6, 6), dtype=torch.uint8)
    frames = torch.tensor([6, 4])
    optimizer = torch.optim.Adam(made.parameters(), lr=3e-3)
    for _ in range(120):
        optimizer.zero_grad()
        heard = made(made.recognition(speech, frames, text, lengths))
        said = made(made.synthesis(text, lengths, speech, frames))
        (heard.loss + said.loss).backward()
        optimizer.step()
    made.eval()
    assert made.transcribe(speech, frames) == [[1, 2, 3], [4, 5]]
    spoken, found = made.speak(text, lengths, temperature=0, max_frames=20)
    assert found.tolist() == [6, 4]
    assert torch.equal(spoken[0], speech[0])
    assert torch.equal(spoken[1, :4], speech[1, :4])
    streamed = [frame for frame, _ in made.speak_stream(text, lengths, temperature=0, max_frames=20)]
    assert torch.equal(torch.stack(streamed, dim=1), spoken)


def test_an_end_is_drawn_once_for_all_channels():
    """Of a model that gives each frame one chance in five to be the end, whatever else it says."""
    made = model()
    with torch.no_grad():
        made.speech_heads.linear.weight.zero_()
        bias = made.speech_heads.linear.bias.view(*made.speech_heads.shape)
        bias.fill_(-20.0)
        bias[:, 0], bias[:, made.eos_id] = np.log(0.8), np.log(0.2)
    text, lengths = torch.zeros(400, 2, dtype=torch.int64), torch.full((400,), 2)
    generator = torch.Generator().manual_seed(0)
    _, frames = made.speak(text, lengths, min_frames=0, max_frames=60, generator=generator)
    assert abs(frames.float().mean() - 4) < 0.7  # of a geometric distribution
    assert abs(float((frames == 0).float().mean()) - 0.2) < 0.06
    _, frames = made.speak(text[:2], lengths[:2], max_frames=7, temperature=0)
    assert frames.tolist() == [7, 7]
    assert made.speak(text, lengths, min_frames=5, max_frames=60, generator=generator)[1].min() == 5


def test_masked_frames_are_not_heard():
    made = model(mask_speech=0.9, mask_span=100.0)
    speech, text, _ = batch(made)
    sequence = made.recognition(speech, SPEECH_LENGTHS, text, TEXT_LENGTHS)
    other = sequence._replace(speech=(sequence.speech + 1) % 4)
    hidden = lambda exists, *_: exists  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sigmel.models.lm.masked_spans", hidden)
        made.train()
        torch.testing.assert_close(made(sequence).loss, made(other).loss)
        made.eval()  # nothing is masked outside training
        assert made(sequence).loss != made(other).loss


def test_spans_begin_and_end_by_chance():
    exists = torch.rand(20, 300) < 0.9
    torch.manual_seed(0)
    hidden = masked_spans(exists, 0.3, 4.0)
    torch.manual_seed(0)
    begins, goes_on = torch.rand(20, 300) < 0.3 / 4 / (0.7 + 0.3 / 4), torch.rand(20, 300) < 1 - 1 / 4
    current = torch.zeros(20, dtype=torch.bool)
    for position in range(300):
        current = (current & goes_on[:, position]) | begins[:, position]
        assert torch.equal(hidden[:, position], current & exists[:, position])


def test_spans_have_the_share_and_the_length_asked_for():
    exists = torch.rand(50, 1000) < 0.9
    hidden = masked_spans(exists, 0.3, 4.0)
    assert not hidden[~exists].any()
    assert hidden[exists].float().mean() == pytest.approx(0.3, abs=0.02)
    begun = hidden[:, 1:] & ~hidden[:, :-1]
    assert 2.5 < hidden.sum() / begun.sum() < 4.5  # positions that do not exist cut some


def test_samples():
    logits = torch.tensor([0.0, 1.0, 2.0, 3.0]).expand(20000, 4)
    drawn = torch.bincount(sample(logits), minlength=4) / 20000
    torch.testing.assert_close(drawn, logits[0].softmax(-1), atol=0.02, rtol=0)
    hot = torch.bincount(sample(logits, temperature=2.0), minlength=4) / 20000
    torch.testing.assert_close(hot, (logits[0] / 2).softmax(-1), atol=0.02, rtol=0)
    assert (sample(logits, temperature=0) == 3).all()
    assert set(sample(logits, top_k=2).tolist()) == {2, 3}
    assert set(sample(logits, top_p=0.7).tolist()) == {2, 3}  # the most probable one has 0.64
    assert set(sample(logits, top_p=0.6).tolist()) == {3}
    first, second = (sample(logits, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 5}, "num_heads: 5 does not divide d_model: 32"),
        ({"bins": 0}, "bins: 0 must be at least 1"),
        ({"mask_speech": 1.0}, "mask_speech, mask_span: 1.0 and 3.0"),
        ({"positions": "absolute"}, "positions: 'absolute' is none of"),
        ({"routing": "some"}, "routing"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(SigmelError, match=message):
        model(**options)


def test_speakers_are_checked():
    for options, speakers, message in (
        ({}, torch.zeros(3, 3), "speakers: given; speaker_size is 0"),
        ({"speaker_size": 3}, None, "speakers: missing; speaker_size is 3"),
        ({"speaker_size": 3}, torch.zeros(3, 4), r"speakers: \(3, 4\), expected \(batch, 3\)"),
    ):
        made = model(**options)
        speech, text, _ = batch(made)
        with pytest.raises(SigmelError, match=message):
            made.synthesis(text, TEXT_LENGTHS, speech, SPEECH_LENGTHS, speakers)
    for wrong in ({"temperature": -1.0}, {"top_p": 0.0}, {"top_k": 0}):
        with pytest.raises(SigmelError, match="temperature, top_k, top_p"):
            sample(torch.zeros(3), **wrong)
