"""NeMo's CTC models that follow a graph: transcription, error rates, timestamps, saving."""

import numpy as np
import pytest
import soundfile
import torch
from nemo.collections.asr import models
from nemo.collections.asr.models import ASRModel

from sigmel.decoding.fsa import Search, build
from sigmel.decoding.fsa.grammar import parse_grammar
from sigmel.decoding.fsa.lexicon import Lexicon, spelled_lexicon
from sigmel.errors import SigmelError
from sigmel.hosts.nemo import use_graph
from sigmel.hosts.nemo.graph import tokens_of

GRAMMAR = parse_grammar("<x> = (one | two | four)+ three;")


CLASSES = {
    "ctc": models.EncDecCTCModel,
    "ctc_bpe": models.EncDecCTCModelBPE,
    "hybrid_bpe": models.EncDecHybridRNNTCTCBPEModel,
}


@pytest.fixture(scope="module")
def build_model(model_config):
    """Function of a kind: a model with random weights."""
    return lambda kind: CLASSES[kind](cfg=model_config(kind))


def spell(model):
    if hasattr(model, "tokenizer"):
        return lambda word: tuple(model.tokenizer.text_to_ids(word))
    return lambda word: tuple(list(model.decoder.vocabulary).index(character) for character in word)


@pytest.fixture(scope="module", params=["ctc_bpe", "ctc"])
def model(request, build_model):
    return build_model(request.param).eval()


@pytest.fixture(scope="module")
def graph(model, tmp_path_factory):
    names = tokens_of(model)
    separator = None if hasattr(model, "tokenizer") else names.index(" ")
    lexicon = spelled_lexicon(GRAMMAR.words, spell(model), separator)
    path = tmp_path_factory.mktemp("graph") / "HLG.npz"
    build(names, len(names) - 1, lexicon, GRAMMAR).save(path)
    return path


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("sound") / "sound.wav"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(32000), 16000)
    return str(path)


def transcribe(model, sound, **options):
    (found,) = model.transcribe([sound], batch_size=1, verbose=False, **options)
    return found


def test_text_follows_the_graph_and_so_it_does_when_restored(model, graph, sound, tmp_path):
    greedy = transcribe(model, sound).text
    use_graph(model, graph, "kaldi", Search(beam=30.0))
    found = transcribe(model, sound).text
    assert found.endswith("three")
    assert set(found.split()) <= {"one", "two", "three", "four"}

    # Validation follows it, too.
    with torch.inference_mode():
        audio = torch.from_numpy(soundfile.read(sound, dtype="float32")[0])[None]
        log_probs, lengths, _ = model(input_signal=audio, input_signal_length=torch.tensor([audio.shape[1]]))
    (said,) = model.wer.decoding.ctc_decoder_predictions_tensor(log_probs, lengths)
    assert said.text == found

    model.save_to(str(tmp_path / "model.nemo"))
    restored = ASRModel.restore_from(str(tmp_path / "model.nemo"), map_location="cpu").eval()
    assert transcribe(restored, sound).text == found
    assert restored.cfg.graph_decoding.beam == 30.0
    restored.save_to(str(tmp_path / "again.nemo"))
    again = ASRModel.restore_from(str(tmp_path / "again.nemo"), map_location="cpu").eval()
    assert transcribe(again, sound).text == found

    use_graph(model, None)
    assert transcribe(model, sound).text == greedy


def test_timestamps_are_those_of_the_words(model, graph, sound):
    use_graph(model, graph)
    found = transcribe(model, sound, timestamps=True)
    words = found.timestamp["word"]
    assert " ".join(word["word"] for word in words) == found.text
    assert found.text.endswith("three")
    ends = [(word["start_offset"], word["end_offset"]) for word in words]
    assert all(start < end for start, end in ends)
    assert ends == sorted(ends)
    assert all("start" in word for word in words)  # seconds, by NeMo
    assert transcribe(model, sound).text == found.text
    use_graph(model, None)


def test_words_may_be_spelled_in_their_own_way(model, sound, tmp_path):
    names = tokens_of(model)
    lexicon = Lexicon({"EINS": (spell(model)("one"),)})
    build(names, len(names) - 1, lexicon, parse_grammar("<x> = EINS;")).save(tmp_path / "HLG.npz")
    use_graph(model, tmp_path / "HLG.npz")
    assert transcribe(model, sound).text == "EINS"
    use_graph(model, None)


def test_a_graph_of_other_tokens_is_refused(model, tmp_path):
    names = ("a", "b", "<blk>")
    build(names, 2, Lexicon({"a": ((0,),)})).save(tmp_path / "HLG.npz")
    with pytest.raises(SigmelError, match="the graph was made for 3 tokens, the model has"):
        use_graph(model, tmp_path / "HLG.npz")
    with pytest.raises(FileNotFoundError):
        use_graph(model, tmp_path / "nothing.npz")


def test_other_models_are_refused(build_model, graph):
    with pytest.raises(SigmelError, match="is no CTC model"):
        use_graph(build_model("hybrid_bpe"), graph)
