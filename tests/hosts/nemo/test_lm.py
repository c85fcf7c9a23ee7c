"""RichASR and RichTTS as a NeMo model: trained by Lightning, saved, restored, and used on files."""

import lightning.pytorch as pl
import numpy as np
import pytest
import soundfile
import torch
from nemo.core import ModelPT
from omegaconf import OmegaConf

from sigmel import SigmelError
from sigmel.cli import main
from sigmel.features.dmel_tokenizer import DMelTokenizer
from sigmel.files.manifest import Utterance, read_manifest, write_manifest
from sigmel.hosts.nemo.lm import DMelLMModel
from sigmel.recipes.synthesis import Synthesiser, read_voices, speak
from sigmel.tokens.text import train_tokenizer


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Tones of three heights, which are the letters a, b and c; archives of them, and a tokenizer."""
    folder = tmp_path_factory.mktemp("tones")
    random, utterances = np.random.default_rng(0), []
    for number in range(24):
        letters = random.choice(list("abc"), 1 + number % 3)
        time = np.arange(3200) / 16000
        tones = [0.3 * np.sin(2 * np.pi * 300 * 2 ** "abc".index(letter) * time) for letter in letters]
        soundfile.write(folder / f"{number}.wav", np.concatenate(tones), 16000)
        utterances.append(Utterance(str(number), f"{number}.wav", 0.2 * len(letters), " ".join(letters)))
    write_manifest(folder / "m.jsonl", utterances)
    assert main(["dmel", "encode", str(folder / "m.jsonl"), "--output", str(folder / "dmel"), "--workers", "1"]) == 0
    train_tokenizer([u.text for u in utterances], folder / "tokenizer", "char")
    return folder


def configuration(corpus, **changes):
    data = {"archives": str(corpus / "dmel"), "max_frames": 120}
    lm = {"d_model": 32, "num_layers": 2, "num_heads": 2, "embedding_size": 4, "dropout": 0.0}
    config = {
        "task": "joint",
        "speech_weight": 0.3,
        "dmel": {},
        "tokenizer": {"dir": str(corpus / "tokenizer")},
        "lm": lm,
        "train_ds": data,
        "validation_ds": data,
        "optim": {"name": "adamw", "lr": 3e-3},
    }
    return OmegaConf.merge(config, changes)


@pytest.fixture(scope="module")
def trained(corpus):
    pl.seed_everything(0, verbose=False)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(max_steps=250, accelerator="cpu", enable_model_summary=False, num_sanity_val_steps=0, **quiet)
    model = DMelLMModel(configuration(corpus), trainer=trainer)
    trainer.fit(model)
    return model.eval(), trainer


@pytest.mark.slow
def test_it_learns_both(trained, corpus):
    model, trainer = trained
    logged = trainer.callback_metrics
    assert logged["val_wer"] < 0.2
    assert logged["text_loss"] < 0.3
    files = sorted(corpus.glob("*.wav"))[:5]
    expected = {row["id"]: row["text"] for row in model._train_dl.dataset.rows}
    texts = model.transcribe(files, batch_size=2)
    assert sum(text == expected[path.stem] for path, text in zip(files, texts, strict=True)) >= 4
    (sound,) = model.speak(["c"], temperature=0, max_frames=40)
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound)))) if len(sound) else np.zeros(1)
    assert abs(np.argmax(spectrum) * 16000 / len(sound) - 1200) < 100


@pytest.mark.slow
def test_it_is_restored(trained, corpus, tmp_path):
    model, _ = trained
    model.save_to(str(tmp_path / "model.nemo"))
    restored = ModelPT.restore_from(str(tmp_path / "model.nemo"), map_location="cpu")
    assert isinstance(restored, DMelLMModel)
    assert restored.dmel.config == model.dmel.config
    files = sorted(corpus.glob("*.wav"))[:3]
    assert restored.transcribe(files) == model.transcribe(files)
    first, second = (one.speak(["a b"], seed=3, max_frames=20)[0] for one in (model, restored))
    assert np.array_equal(first, second)


def test_speakers_by_their_sound(corpus):
    model = DMelLMModel(configuration(corpus, lm={"speaker_size": 160}, task="tts"))
    with pytest.raises(SigmelError, match="speakers: missing; speaker_size is 160"):
        model.speak(["a"])
    speech = torch.randint(16, (2, 9, 80), dtype=torch.uint8)
    voices = model.dmel.voice_print(speech, torch.tensor([9, 4]))
    mel = model.dmel.decode(speech[1:, :4])[0]
    torch.testing.assert_close(voices[1], torch.cat([mel.mean(0), mel.std(0, correction=0)]))
    sounds = model.speak(["a", "b c"], voice=voices, max_frames=6)
    assert [len(sound) <= 5 * 400 for sound in sounds] == [True, True]


@pytest.mark.slow
def test_a_manifest_is_said(trained, corpus, tmp_path, capsys):
    model, _ = trained
    model.save_to(str(tmp_path / "model.nemo"))
    command = ["speak", str(tmp_path / "model.nemo"), str(corpus / "m.jsonl"), "--max-frames", "30"]
    assert main([*command, "--output", str(tmp_path / "said")]) == 0
    assert "24 texts" in capsys.readouterr().out
    said = list(read_manifest(tmp_path / "said/said.jsonl"))
    assert [(one.id, one.text) for one in said] == [(u.id, u.text) for u in read_manifest(corpus / "m.jsonl")]
    for utterance in said:
        assert soundfile.info(tmp_path / "said" / utterance.audio_filepath).duration == utterance.duration
    assert main([*command, "--output", str(tmp_path / "again"), "--batch-size", "24"]) == 0

    texts = [str(corpus / "m.jsonl"), "--output", str(tmp_path / "x")]
    assert main(["speak", str(tmp_path / "none.nemo"), *texts]) == 2
    assert "none.nemo: no such model" in capsys.readouterr().err
    model.cfg.task = "asr"
    try:
        model.save_to(str(tmp_path / "deaf.nemo"))
    finally:
        model.cfg.task = "joint"
    assert main(["speak", str(tmp_path / "deaf.nemo"), *texts]) == 2
    assert "deaf.nemo: has not learned to speak" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_voices_are_those_of_a_manifest(corpus):
    model = DMelLMModel(configuration(corpus, lm={"speaker_size": 160}, task="tts"))
    rows = [Utterance(f"v{n}", f"{n}.wav", 0.2, "a", speaker) for n, speaker in enumerate("xyx")]
    write_manifest(corpus / "voices.jsonl", rows)
    voices = read_voices(model.dmel, corpus / "voices.jsonl")
    assert voices.keys() == {"x", "y"}
    samples, _ = soundfile.read(corpus / "1.wav", dtype="float32")
    expected = model.dmel.voice_print(*model.dmel.encode(torch.from_numpy(samples)))[0]
    torch.testing.assert_close(voices["y"], expected)
    synthesiser = Synthesiser(16000, model.dmel, lambda *_: [])
    with pytest.raises(SigmelError, match="q: --voices has none for the speaker 'z'"):
        list(speak(synthesiser, [Utterance("q", "q.wav", 1.0, "a", "z")], corpus / "voices.jsonl", 1))
    with pytest.raises(SigmelError, match="--voices: the model needs recordings of its speakers"):
        list(speak(synthesiser, [], None, 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "both"}, "model.task: 'both' is none of asr, tts, joint"),
        ({"train_ds": {"archives": ""}}, "model.train_ds.archives: names no folder"),
        ({"dmel": {"bits": 5}}, "made with other settings: bits 4, expected 5"),
        ({"lm": {"num_heads": 3}}, "num_heads: 3 does not divide"),
    ],
)
def test_settings_are_checked(corpus, changes, message):
    with pytest.raises(SigmelError, match=message):
        DMelLMModel(configuration(corpus, **changes))


def test_what_cannot_be_spelled_is_named(corpus, tmp_path):
    train_tokenizer(["a b"], tmp_path / "tokenizer", "char")
    with pytest.raises(SigmelError, match=r"dmel: \d+: the tokenizer has no piece for \['▁?c'\]"):
        DMelLMModel(configuration(corpus, tokenizer={"dir": str(tmp_path / "tokenizer")}))
    model = DMelLMModel(configuration(corpus, train_ds=None, validation_ds=None))
    with pytest.raises(SigmelError, match="no piece for"):
        model.speak(["z"])


def test_the_tokens_are_those_of_the_archives(corpus):
    model = DMelLMModel(configuration(corpus))
    batch = next(iter(model._train_dl))
    samples, _ = soundfile.read(corpus / "0.wav", dtype="float32")
    expected, frames = DMelTokenizer().encode(torch.from_numpy(samples))
    same = [torch.equal(row[: frames[0]], expected[0]) for row in batch.speech]
    assert any(same)
