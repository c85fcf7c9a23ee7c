"""RichASR and RichTTS in ESPnet: a decoder whose scores are its training's, and both tasks from audio to a result."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from espnet2.asr.ctc import CTC
from torch.nn.functional import cross_entropy

from sigmel import SigmelError
from sigmel.cli import main
from sigmel.features.dmel_frontend import DMelFrontend
from sigmel.hosts.espnet import SigmelASRModel
from sigmel.hosts.espnet.class_choices import espnet_class
from sigmel.hosts.espnet.dmel_lm import DMelTokens, RichASR, RichTTS
from sigmel.tokens.text import train_tokenizer

SMALL = {"d_model": 32, "num_layers": 2, "num_heads": 2, "embedding_size": 4, "dropout": 0.0}


@pytest.fixture(scope="module")
def heard():
    """A decoder of 7 tokens, and ids (2, 9, 80) of lengths 9 and 5."""
    torch.manual_seed(0)
    ids = torch.randint(16, (2, 9, 80)).float()
    return RichASR(7, 80, **SMALL).eval(), ids, torch.tensor([9, 5])


def test_scores_are_those_of_training(heard):
    decoder, ids, lengths = heard
    ys = torch.tensor([[6, 1, 4, 2], [6, 3, 5, 6]])  # the second is shorter, padded by the end
    logits, _ = decoder(ids, lengths, ys, torch.tensor([4, 3]))
    assert logits.shape == (2, 4, 7)
    expected = logits.log_softmax(-1)
    for row, (length, count) in enumerate(((9, 4), (5, 3))):
        states = [None]
        for step in range(1, count + 1):
            scores, states = decoder.batch_score(ys[row : row + 1, :step], states, ids[row : row + 1, :length])
            torch.testing.assert_close(scores[0], expected[row, step - 1], atol=1e-5, rtol=0)


def test_hypotheses_may_be_chosen_again(heard):
    decoder, ids, _ = heard
    _, (state,) = decoder.batch_score(torch.tensor([[6]]), [None], ids[:1])
    ys = torch.tensor([[6, 1], [6, 2]])
    together, states = decoder.batch_score(ys, [state, state], ids[:1].expand(2, -1, -1))
    alone, after = decoder.score(ys[1], state, ids[0])
    torch.testing.assert_close(together[1], alone, atol=1e-6, rtol=0)
    ys = torch.tensor([[6, 2, 3], [6, 2, 4]])
    again, _ = decoder.batch_score(ys, [states[1], states[1]], ids[:1].expand(2, -1, -1))
    torch.testing.assert_close(again[0], decoder.score(ys[0], after, ids[0])[0], atol=1e-6, rtol=0)


def recogniser(**frontend):
    return SigmelASRModel(
        vocab_size=7, token_list=list("bcdefgh"), frontend=espnet_class("frontend", "dmel")(hop_ms=25.0, **frontend),
        specaug=None, normalize=None, preencoder=None, encoder=DMelTokens(80), postencoder=None,
        decoder=RichASR(7, 80, speech_weight=0.5, **SMALL), ctc=CTC(7, 80), joint_network=None, ctc_weight=0.0,
        lsm_weight=0.0, length_normalized_loss=True,
    )  # fmt: skip


def test_values_are_no_ids():
    with pytest.raises(SigmelError, match="encoder: dmel_tokens takes the ids of frontend: dmel; set ids: true"):
        recogniser()


def test_the_loss_has_that_of_speech():
    model = recogniser(ids=True)
    torch.manual_seed(1)
    text, counts = torch.tensor([[1, 2, 3], [4, -1, -1]]), torch.tensor([3, 1])
    audio, lengths = torch.randn(2, 8000), torch.tensor([8000, 5000])
    ids, frames = DMelFrontend(hop_ms=25.0).tokenizer.encode(audio, lengths)
    logits, _ = model.decoder.eval()(ids, frames, torch.tensor([[6, 1, 2, 3], [6, 4, 6, 6]]), counts + 1)
    of_text = cross_entropy(torch.cat([logits[0], logits[1, :2]]), torch.tensor([1, 2, 3, 6, 4, 6]))
    lm = model.decoder.lm
    of_speech = lm(lm.recognition(ids, frames, text.clamp(min=0), counts, learn_speech=True)).speech_loss
    loss, stats, _ = model.train()(audio, lengths, text, counts)
    torch.testing.assert_close(loss.detach().squeeze(), (of_text + 0.5 * of_speech).detach())
    torch.testing.assert_close(stats["decoder_loss"].squeeze(), 0.5 * of_speech.detach())
    loss, _, _ = model.eval()(audio, lengths, text, counts)
    torch.testing.assert_close(loss.detach().squeeze(), of_text.detach())
    assert model.decoder.aux_loss is None


def test_a_synthesiser_takes_audio_and_gives_it():
    torch.manual_seed(0)
    tts = RichTTS(5, 80, dmel={"sample_rate": 8000}, max_frames=7, speaker_size=160, **SMALL)
    text, audio = torch.tensor([[1, 2, 3], [4, 1, -1]]), torch.randn(2, 4000)
    lengths = torch.tensor([3, 2]), torch.tensor([4000, 2500])
    loss, stats, weight = tts(text, lengths[0], audio, lengths[1])
    loss.backward()
    assert (float(stats["loss"]), int(weight)) == (pytest.approx(float(loss.detach())), 2)
    assert not any(key.startswith(("dmel", "vocoder")) for key in tts.state_dict())
    out = tts.inference(text[0], spembs=torch.zeros(160))
    assert out["feat_gen"].shape[1] == 80
    assert len(out["wav"]) == max(len(out["feat_gen"]) - 1, 0) * 200
    assert (tts.fs, tts.spk_embed_dim, tts.require_vocoder) == (8000, 160, False)
    with pytest.raises(SigmelError, match=r"speech: \(2, 9, 80\); expected audio"):
        tts(text, lengths[0], torch.zeros(2, 9, 80), lengths[1])
    with pytest.raises(SigmelError, match="use_teacher_forcing"):
        tts.inference(text[0], use_teacher_forcing=True)
    with pytest.raises(SigmelError, match="odim: 64, but dMel has 80 channels"):
        RichTTS(5, 64)


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    """A folder with a manifest of tones, which are the words, and a tokenizer."""
    folder = tmp_path_factory.mktemp("tones")
    random, rows = np.random.default_rng(0), []
    for number in range(24):
        words = random.choice(["low", "mid", "high"], 1 + number % 3)
        time = np.arange(2400) / 8000
        sound = [0.3 * np.sin(2 * np.pi * 300 * 2 ** ["low", "mid", "high"].index(word) * time) for word in words]
        soundfile.write(folder / f"{number}.wav", np.concatenate(sound), 8000)
        row = {"id": f"u{number}", "audio_filepath": f"{folder}/{number}.wav", "duration": 0.3 * len(words)}
        rows.append(row | {"text": " ".join(words)})
    (folder / "some.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train_tokenizer([row["text"] for row in rows], folder / "tokenizer", "word")
    return folder


OPTIM = {
    "optim": "adamw", "optim_conf": {"lr": 3e-3}, "batch_type": "unsorted", "batch_size": 8, "num_workers": 0,
    "max_epoch": 25, "keep_nbest_models": 1, "best_model_criterion": [["valid", "loss", "min"]],
    "use_tensorboard": False, "grad_clip": 1.0, "num_att_plot": 0,
}  # fmt: skip


def run(folder, task, config):
    Path("conf.yaml").write_text(yaml.safe_dump(OPTIM | config))
    manifest = f"{folder}/some.jsonl"
    files = ["--tokenizer", f"{folder}/tokenizer", "--train", manifest, "--valid", manifest]
    options = ["--host", "espnet", "--task", task, "--config", "conf.yaml", "--output", "exp", *files]
    assert main(["train", *options]) == 0


@pytest.mark.slow
def test_richasr_from_audio_to_words(tones, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(tones, "asr", {
        "frontend": "dmel", "frontend_conf": {"fs": 8000, "hop_ms": 25.0, "ids": True}, "specaug": None,
        "normalize": None, "encoder": "dmel_tokens", "decoder": "dmel_lm", "model": "sigmel_asr",
        "decoder_conf": {"speech_weight": 0.3, **SMALL}, "model_conf": {"ctc_weight": 0.0},
    })  # fmt: skip
    assert main(["transcribe", "exp/model.zip", f"{tones}/some.jsonl", "--output", "decode"]) == 0
    rows = [json.loads(line) for line in Path("decode/some.jsonl").read_text().splitlines()]
    assert sum(row["pred_text"] == row["text"] for row in rows) > 20


@pytest.mark.slow
def test_richtts_from_words_to_sound(tones, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    conf = {"dmel": {"sample_rate": 8000}, "temperature": 0.0, "max_frames": 60, **SMALL}
    run(tones, "tts", {"odim": 80, "normalize": None, "tts": "dmel_lm", "tts_conf": conf})
    assert main(["speak", "exp/model.zip", f"{tones}/some.jsonl", "--output", "spoken"]) == 0
    rows = [json.loads(line) for line in Path("spoken/spoken.jsonl").read_text().splitlines()]
    right = 0
    for row in rows:
        samples, rate = soundfile.read(Path("spoken") / row["audio_filepath"])
        assert rate == 8000
        if row["text"] in ("low", "mid", "high") and len(samples):
            spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
            pitch = 300 * 2 ** ["low", "mid", "high"].index(row["text"])
            right += abs(np.argmax(spectrum) * 8000 / len(samples) - pitch) < 60
    assert right >= 6
