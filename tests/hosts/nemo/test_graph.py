"""NeMo's CTC models that follow a graph: transcription, error rates, timestamps, saving."""

import numpy as np
import pytest
import soundfile
import torch
from nemo.collections.asr import models
from nemo.collections.asr.models import ASRModel
from omegaconf import OmegaConf

from sigmel import cli
from sigmel.decoding import DecodingGraph, GraphDecoder, Search, build
from sigmel.decoding.graph.arpa_ngrams import train_ngrams, write_arpa
from sigmel.decoding.graph.grammar import parse_grammar
from sigmel.decoding.graph.lexicon import Lexicon
from sigmel.errors import SigmelError
from sigmel.hosts.nemo import use_graph
from sigmel.hosts.nemo.graph import tokens_of

GRAMMAR = parse_grammar("<x> = (one | two | four)+ three;")
WORDS = {"one", "two", "three", "four"}


@pytest.fixture(scope="module", params=["ctc_bpe", "ctc", "hybrid_bpe"])
def model(request, build_model):
    return build_model(request.param)


@pytest.fixture(scope="module")
def graph(model, tmp_path_factory):
    tokens = tokens_of(model)
    path = tmp_path_factory.mktemp("graph") / "HLG.npz"
    build(tokens.names, tokens.blank, tokens.lexicon(GRAMMAR.words), GRAMMAR).save(path)
    return path


def log_probs_of(model, sound):
    model.eval()  # NeMo's transcribe() leaves parts of it as they are in training
    with torch.inference_mode():
        audio = torch.from_numpy(soundfile.read(sound, dtype="float32")[0])[None]
        encoded, lengths, *_ = model(input_signal=audio, input_signal_length=torch.tensor([audio.shape[1]]))
        if isinstance(model, models.EncDecHybridRNNTCTCBPEModel):
            return model.ctc_decoder(encoder_output=encoded), lengths
    return encoded, lengths  # a CTC model's is what its decoder says


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
    assert set(found.split()) <= WORDS

    # Validation follows it, too.
    wer = model.ctc_wer if hasattr(model, "ctc_wer") else model.wer
    (said,) = wer.decoding.ctc_decoder_predictions_tensor(*log_probs_of(model, sound))
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
    model.save_to(str(tmp_path / "greedy.nemo"))
    restored = ASRModel.restore_from(str(tmp_path / "greedy.nemo"), map_location="cpu").eval()
    assert transcribe(restored, sound).text == greedy


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


def test_a_graph_is_read_once(model, graph, sound, monkeypatch):
    read, load = [], DecodingGraph.load
    monkeypatch.setattr(DecodingGraph, "load", lambda path: read.append(path) or load(path))
    use_graph(model, graph)
    transcribe(model, sound, timestamps=True)
    assert len(read) == 1
    use_graph(model, None)


def test_words_may_be_spelled_in_their_own_way(model, sound, tmp_path):
    tokens = tokens_of(model)
    lexicon = Lexicon({"EINS": (tokens.spell("one"),)})
    build(tokens.names, tokens.blank, lexicon, parse_grammar("<x> = EINS;")).save(tmp_path / "HLG.npz")
    use_graph(model, tmp_path / "HLG.npz")
    assert transcribe(model, sound).text == "EINS"
    use_graph(model, None)


def test_a_graph_of_other_tokens_is_refused(model, tmp_path):
    names = ("a", "b", "<blk>")
    build(names, 2, Lexicon({"a": ((0,),)})).save(tmp_path / "HLG.npz")
    with pytest.raises(SigmelError, match="the graph was made for 3 tokens, the model has"):
        use_graph(model, tmp_path / "HLG.npz")
    with pytest.raises(SigmelError, match=r"nothing\.npz: no such file"):
        use_graph(model, tmp_path / "nothing.npz")


def test_words_know_how_sure_they_are(model, graph, sound):
    hybrid = isinstance(model, models.EncDecHybridRNNTCTCBPEModel)
    plain = model.cfg.aux_ctc.decoding if hybrid else model.cfg.decoding
    decoding = OmegaConf.merge(plain, {"confidence_cfg": {"preserve_word_confidence": True}})
    of_ctc = {"decoder_type": "ctc"} if hybrid else {}
    use_graph(model, graph, search=Search(beam=100.0, lattice_beam=50.0))
    model.change_decoding_strategy(decoding, verbose=False, **of_ctc)
    found = transcribe(model, sound, return_hypotheses=True)
    assert len(found.word_confidence) == len(found.text.split())
    assert all(0 < share <= 1 for share in found.word_confidence)
    assert found.word_confidence[-1] == pytest.approx(1)  # the grammar's last word is certain
    model.change_decoding_strategy(plain, verbose=False, **of_ctc)
    use_graph(model, None)


def test_lists_and_another_language_model(model, graph, sound, tmp_path):
    write_arpa(train_ngrams([["four", "four", "three"], ["one"], ["two"]], 2), tmp_path / "lm.arpa")
    search = Search(beam=100.0, lattice_beam=50.0)
    use_graph(model, graph, search=search, nbest=3)
    texts = [one.text for one in transcribe(model, sound)]
    assert len(set(texts)) == 3
    assert all(set(text.split()) <= WORDS and text.endswith("three") for text in texts)
    use_graph(model, graph, search=search)
    assert transcribe(model, sound).text == texts[0]

    use_graph(model, graph, search=search, rescore=tmp_path / "lm.arpa", rescore_scale=5.0)
    expected = GraphDecoder(graph, "kaldi", search, tmp_path / "lm.arpa", 5.0).decode(*log_probs_of(model, sound))
    rescored = transcribe(model, sound).text
    assert rescored == expected[0].text
    model.save_to(str(tmp_path / "model.nemo"))
    (tmp_path / "lm.arpa").unlink()
    restored = ASRModel.restore_from(str(tmp_path / "model.nemo"), map_location="cpu").eval()
    assert transcribe(restored, sound).text == rescored
    with pytest.raises(SigmelError, match="nbest: 0"):
        use_graph(model, graph, nbest=0)
    use_graph(model, None)


def test_a_hybrid_model_may_go_back_to_its_transducer(build_model, tmp_path, sound):
    model = build_model("hybrid_bpe")
    transducer = transcribe(model, sound).text
    tokens = tokens_of(model)
    build(tokens.names, tokens.blank, tokens.lexicon(GRAMMAR.words), GRAMMAR).save(tmp_path / "HLG.npz")
    use_graph(model, tmp_path / "HLG.npz")
    found = transcribe(model, sound).text
    assert found.endswith("three")
    model.change_decoding_strategy(decoder_type="rnnt", verbose=False)
    assert transcribe(model, sound).text == transducer
    model.change_decoding_strategy(decoder_type="ctc", verbose=False)
    assert transcribe(model, sound).text == found


def test_a_graph_is_built_of_a_models_own_tokens(model, sound, tmp_path):
    model.save_to(str(tmp_path / "model.nemo"))
    (tmp_path / "words.txt").write_text("one\nfour\n")
    files = ["--tokens", str(tmp_path / "model.nemo"), "--words", str(tmp_path / "words.txt")]
    assert cli.main(["graph", "build", *files, "-o", str(tmp_path / "HLG.npz")]) == 0
    use_graph(model, tmp_path / "HLG.npz")
    assert set(transcribe(model, sound).text.split()) <= {"one", "four"}
    use_graph(model, None)


def test_other_models_are_refused(graph):
    with pytest.raises(SigmelError, match="Linear has no CTC"):
        use_graph(torch.nn.Linear(1, 1), graph)
