"""Makes what lies here: files as users have them on their disks, and what each of them gives.

    .venv/bin/python tests/hosts/golden/make.py nemo [FILE...]
    .venv-espnet/bin/python tests/hosts/golden/make.py espnet [FILE...]

Every later version has to read these files and to give these outputs: a file is made once, by the version that brings
its kind, and then stays as it is. `FILES` says how each is made and how its outputs are found, which lie beside it as
`<file>.npy`. Those that are here were made by commit 2de2ee0 or earlier ones, before the modules of sigmel moved.
"""

import contextlib
import importlib
import io
import sys
import tempfile
from pathlib import Path

import numpy as np
import sentencepiece
import torch
import yaml

from sigmel.checkpoints import espnet, nemo
from sigmel.checkpoints.checkpoint import END, FRONTEND, CTCModel
from sigmel.cli import main

FOLDER = Path(__file__).parent
PIECES = ["<unk>", "▁one", "▁three", "▁two"]
FRONT_END = FRONTEND | {"features": 16}
ENCODER = {"d_model": 16, "num_layers": 2, "num_heads": 2, "ff_size": 24, "subsampling": "stack", "routing": "omni"}
SMALL = {"d_model": 8, "ff_size": 8, "block": "transformer"}
UPCYCLE = ["--experts", "3", "--routing", "omni", "--top-k", "2"]
DMEL = {"sample_rate": 16000, "channels": 8}
LM = {"d_model": 8, "num_layers": 2, "num_heads": 2, "ff_size": 8, "embedding_size": 2, "experts": 2}
LM |= {"routing": "omni"}


def audio() -> torch.Tensor:
    """(1, 24000) a rising tone that grows louder, in noise."""
    time = np.arange(24000) / 16000
    noise = np.random.default_rng(0).standard_normal(24000)
    samples = 0.3 * time * np.sin(2 * np.pi * (200 + 600 * time) * time) + 0.01 * noise
    return torch.from_numpy(samples.astype(np.float32))[None]


def tokenizer() -> bytes:
    """Four words, without the tables of Unicode normalisation, which would be the largest part of all this."""
    model = io.BytesIO()
    options = {"model_type": "word", "vocab_size": 4, "bos_id": -1, "eos_id": -1, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["one two three"]),
        model_writer=model,
        normalization_rule_name="identity",
        **options,
    )
    return model.getvalue()


def random_model(pieces: list[str], **options) -> CTCModel:
    """A recogniser that has learned nothing, the same each time."""
    from sigmel.models.encoder import OmniRouterEncoder

    options = ENCODER | options
    torch.manual_seed(0)
    encoder = OmniRouterEncoder(input_size=16, **options)
    linear = torch.nn.Linear(encoder.output_size(), 1 + len(pieces)).requires_grad_(False)
    state = dict(encoder.state_dict())
    return CTCModel(FRONT_END, "omni_router", options, state, linear.weight, linear.bias, pieces, tokenizer())


# --- NeMo


def nemo_model(path: Path):
    """Any model, as NeMo restores it."""
    from nemo.core import ModelPT

    import sigmel.hosts.nemo  # noqa: F401

    return ModelPT.restore_from(str(path), map_location="cpu").eval()


def nemo_log_probs(path: Path) -> torch.Tensor:
    """(T, V + 1), blank last."""
    with torch.inference_mode():
        return nemo_model(path)(input_signal=audio(), input_signal_length=torch.tensor([24000]))[0][0]


def nemo_graph_text(path: Path) -> torch.Tensor:
    """The text that a model's graph finds, as the numbers of its characters."""
    model = nemo_model(path)
    with torch.inference_mode():
        log_probs, lengths, _ = model(input_signal=audio(), input_signal_length=torch.tensor([24000]))
        (found,) = model.decoding.ctc_decoder_predictions_tensor(log_probs, lengths)
    return torch.tensor([ord(character) for character in found.text])


def nemo_lm(path: Path) -> torch.Tensor:
    """Scores of the text that follows some speech, then the frames that are spoken of some text."""
    model = nemo_model(path)
    text, lengths = torch.tensor([[1, 3, 2]]), torch.tensor([3])
    with torch.inference_mode():
        hidden, _ = model.lm.hidden(model.lm.recognition(*model.dmel.encode(audio()), text, lengths))
        frames, _ = model.lm.speak(text, lengths, temperature=0, max_frames=6)
        return torch.cat([model.lm.text_head(hidden[0, -4:]).flatten(), frames.flatten()])


def make_nemo(path: Path) -> None:
    """A CTC model with our encoder, as NeMo writes it."""
    nemo.write_ctc(random_model(PIECES), path)
    nemo_model(path).save_to(str(path))


def make_nemo_conformer(path: Path) -> None:
    """A CTC model with NeMo's own Conformer and routed experts in it."""
    from nemo.collections.asr.models import EncDecCTCModelBPE
    from omegaconf import OmegaConf

    make_nemo(path)
    config = nemo_model(path).cfg
    Path("tokenizer").mkdir()
    Path("tokenizer/tokenizer.model").write_bytes(tokenizer())
    Path("tokenizer/vocab.txt").write_text("".join(f"{piece}\n" for piece in PIECES))
    config.tokenizer = {"dir": "tokenizer", "type": "bpe"}
    config.decoder.feat_in = 8
    config.encoder = OmegaConf.create(
        {
            "_target_": "sigmel.hosts.nemo.OmniRouterConformerEncoder",
            "feat_in": 16,
            "d_model": 8,
            "n_layers": 2,
            "n_heads": 2,
            "ff_expansion_factor": 1,
            "use_bias": False,
            "conv_kernel_size": 5,
            "subsampling_conv_channels": 4,
            "routing": "path:1",
            "experts": 3,
            "attention": "sigmoid",
        }
    )
    torch.manual_seed(0)
    EncDecCTCModelBPE(cfg=config).save_to(str(path))


def make_nemo_graph(path: Path) -> None:
    """A CTC model that follows a graph."""
    from sigmel.hosts.nemo import use_graph

    nemo.write_ctc(random_model(PIECES, **SMALL), path)
    make_graph(Path("HLG.npz"))
    model = nemo_model(path)
    use_graph(model, "HLG.npz", backend="kaldi")
    model.save_to(str(path))


def make_nemo_upcycled(path: Path) -> None:
    """A dense CTC model with our encoder, given experts by `sigmel upcycle`."""
    nemo.write_ctc(random_model(PIECES, routing="dense", **SMALL), Path("dense.nemo"))
    assert main(["upcycle", "dense.nemo", *UPCYCLE, "--output", str(path)]) == 0


def make_nemo_lm(path: Path) -> None:
    """A language model over dMel that recognises and speaks."""
    from omegaconf import OmegaConf

    from sigmel.hosts.nemo.lm import DMelLMModel

    Path("tokenizer").mkdir()
    Path("tokenizer/tokenizer.model").write_bytes(tokenizer())
    config = {"task": "joint", "speech_weight": 0.3, "dmel": DMEL, "tokenizer": {"dir": "tokenizer"}, "lm": LM}
    torch.manual_seed(0)
    DMelLMModel(OmegaConf.create(config | {"target": "sigmel.hosts.nemo.lm.DMelLMModel"})).save_to(str(path))


# --- ESPnet


def espnet_recogniser(path: Path) -> torch.nn.Module:
    """ESPnet's recogniser of an archive."""
    from sigmel.hosts.espnet.restore import load_speech2text

    return load_speech2text(path, beam_size=1).asr_model


def espnet_log_probs(path: Path) -> torch.Tensor:
    """(T, 1 + V), blank first."""
    model = espnet_recogniser(path)
    with torch.inference_mode():
        return model.ctc.log_softmax(model.encode(audio(), torch.tensor([24000]))[0])[0]


def espnet_rich_asr(path: Path) -> torch.Tensor:
    """(U, V) scores of the text that follows some speech."""
    model = espnet_recogniser(path)
    with torch.inference_mode():
        ids, lengths = model.encode(audio(), torch.tensor([24000]))
        return model.decoder(ids, lengths, torch.tensor([[5, 2, 4, 3]]), torch.tensor([4]))[0][0]


def espnet_rich_tts(path: Path) -> torch.Tensor:
    """(T, C) the log-mel that is spoken of some text."""
    from sigmel.hosts.espnet.restore import load_text2speech

    return load_text2speech(path, seed=0)("one two three")["feat_gen"]


def make_espnet(path: Path) -> None:
    """A CTC model with our encoder."""
    espnet.write_ctc(random_model([*PIECES, END]), path)


def trained_by_espnet(task: str, config: dict) -> list[str]:
    """Write what ESPnet leaves of a training: config.yaml and model.pth, here. Returns the options that name them."""
    from sigmel.hosts.registration import espnet as espnet_registration

    espnet_registration.register()
    Path("tokenizer.model").write_bytes(tokenizer())
    config |= {"token_list": ["<blank>", *PIECES, END], "token_type": "bpe", "bpemodel": "tokenizer.model"}
    Path("train.yaml").write_text(yaml.safe_dump(config))
    task_class = getattr(importlib.import_module(f"espnet2.tasks.{task}"), f"{task.upper()}Task")
    args = task_class.get_parser().parse_args(["--config", "train.yaml", "--output_dir", "."])
    torch.manual_seed(0)
    model = task_class.build_model(args)
    Path("config.yaml").write_text(yaml.safe_dump(vars(args), sort_keys=False))
    torch.save(model.state_dict(), "model.pth")
    prefix = "asr_" if task == "asr" else ""
    return [task, f"--{prefix}train_config", "config.yaml", f"--{prefix}model_file", "model.pth"]


def make_espnet_conformer(path: Path) -> None:
    """A CTC model with ESPnet's own Conformer, packed by ESPnet and given experts by `sigmel upcycle`."""
    from espnet2.bin import pack

    config = {
        "frontend": "log_mel",
        "frontend_conf": {"fs": 16000, "features": 16, "dither": 0.0},
        "normalize": None,
        "encoder": "conformer",
        "encoder_conf": {
            "output_size": 8,
            "attention_heads": 2,
            "linear_units": 8,
            "num_blocks": 2,
            "cnn_module_kernel": 5,
        },
        "decoder": None,
        "model_conf": {"ctc_weight": 1.0},
    }
    options = trained_by_espnet("asr", config)
    pack.main(cmd=[*options, "--option", "tokenizer.model", "--outpath", "dense.zip"])
    assert main(["upcycle", "dense.zip", *UPCYCLE, "--output", str(path)]) == 0


def make_espnet_rich_asr(path: Path) -> None:
    """A language model over dMel that recognises."""
    from espnet2.bin import pack

    config = {
        "frontend": "dmel",
        "frontend_conf": {"fs": 16000, "channels": 8, "freq_width": 0, "ids": True},
        "normalize": None,
        "encoder": "dmel_tokens",
        "decoder": "dmel_lm",
        "decoder_conf": {"speech_weight": 0.3, **LM},
        "model": "sigmel_asr",
        "model_conf": {"ctc_weight": 0.0},
    }
    pack.main(cmd=[*trained_by_espnet("asr", config), "--option", "tokenizer.model", "--outpath", str(path)])


def make_espnet_rich_tts(path: Path) -> None:
    """A language model over dMel that speaks."""
    from espnet2.bin import pack

    conf = {"dmel": DMEL, "temperature": 0.0, "max_frames": 6, **LM}
    config = {"odim": 8, "normalize": None, "tts": "dmel_lm", "tts_conf": conf}
    pack.main(cmd=[*trained_by_espnet("tts", config), "--option", "tokenizer.model", "--outpath", str(path)])


# --- No host


def make_graph(path: Path) -> None:
    """A decoding graph: a grammar over `PIECES`, the blank last."""
    from sigmel.decoding.graph.build import build
    from sigmel.decoding.graph.grammar import parse_grammar
    from sigmel.decoding.graph.lexicon import Lexicon

    lexicon = Lexicon({"one": ((1,),), "three": ((2,),), "two": ((3,),)})
    build((*PIECES, "<blk>"), 4, lexicon, parse_grammar("<x> = (one | two)+ three;")).save(path)


def graph_words(path: Path) -> torch.Tensor:
    """The number, and the first and the last frame of each word that a graph finds in random scores."""
    from sigmel.decoding import GraphDecoder

    log_probs = (3 * torch.randn(1, 30, 5, generator=torch.Generator().manual_seed(0))).log_softmax(-1)
    (found,) = GraphDecoder(path, backend="kaldi").decode(log_probs, torch.tensor([30]))
    names = ["one", "two", "three"]
    return torch.tensor([[names.index(word.name), word.start, word.end] for word in found.words])


def make_dmel(path: Path) -> None:
    """A dMel archive of two utterances."""
    from sigmel.features.dmel_tokenizer import DMelTokenizer
    from sigmel.tokens.archive import dmel_archive_writer

    tokenizer = DMelTokenizer(**DMEL)
    with dmel_archive_writer(path, tokenizer.config) as archive:
        for name, samples in (("long", audio()), ("short", audio()[:, :9000])):
            archive.write(name, tokenizer.encode(samples)[0][0].numpy(), text="one", duration=samples.shape[1] / 16000)


def dmel_ids(path: Path) -> torch.Tensor:
    """(frames, C) ids of the utterances, one after the other."""
    from sigmel.tokens.archive import DMelArchive

    archive = DMelArchive(path)
    assert [row["id"] for row in archive.rows] == ["long", "short"]
    assert archive.tokenizer["channels"] == 8
    return torch.cat([torch.from_numpy(np.array(archive[name])) for name in ("long", "short")])


# Environment -> file -> how it is made, and what it gives.
FILES = {
    "nemo": {
        "nemo.nemo": (make_nemo, nemo_log_probs),
        "conformer.nemo": (make_nemo_conformer, nemo_log_probs),
        "graph.nemo": (make_nemo_graph, nemo_graph_text),
        "upcycled.nemo": (make_nemo_upcycled, nemo_log_probs),
        "lm.nemo": (make_nemo_lm, nemo_lm),
    },
    "espnet": {
        "espnet.zip": (make_espnet, espnet_log_probs),
        "conformer.zip": (make_espnet_conformer, espnet_log_probs),
        "rich_asr.zip": (make_espnet_rich_asr, espnet_rich_asr),
        "rich_tts.zip": (make_espnet_rich_tts, espnet_rich_tts),
    },
    "none": {"graph.npz": (make_graph, graph_words), "speech.dmel": (make_dmel, dmel_ids)},
}


def expected(name: str) -> torch.Tensor:
    """What a file gave when it was made."""
    return torch.from_numpy(np.load(FOLDER / f"{name}.npy"))


if __name__ == "__main__":
    environment, *names = sys.argv[1:]
    for name, (make, outputs) in FILES[environment].items():
        if not names or name in names:
            with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # so that no path is in a file
                make(FOLDER / name)
            np.save(FOLDER / f"{name}.npy", outputs(FOLDER / name).numpy())
