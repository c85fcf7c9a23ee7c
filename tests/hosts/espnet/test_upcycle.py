"""`sigmel upcycle` of ESPnet models, and ESPnet's Conformer with routed experts."""

from pathlib import Path

import pytest
import torch
import yaml
from espnet2.bin import pack
from espnet2.main_funcs.pack_funcs import unpack
from espnet2.tasks.asr import ASRTask
from espnet2.torch_utils.load_pretrained_model import load_pretrained_model

from sigmel import SigmelError
from sigmel.cli import main
from sigmel.hosts.espnet import OmniRouterConformerEncoder
from sigmel.layers.experts import ExpertFeedForward
from sigmel.layers.masks import valid_frames
from sigmel.layers.routing import Routing, load_balance_loss
from sigmel.models.stack import parameter_counts
from sigmel.models.upcycling import UPCYCLED

OURS = {"d_model": 16, "num_layers": 2, "num_heads": 2, "ff_size": 32, "subsampling": "stack", "routing": "dense"}
STOCK = {"output_size": 16, "attention_heads": 2, "linear_units": 32, "num_blocks": 2, "cnn_module_kernel": 5}
MACARON = STOCK | {"macaron_style": True, "rel_pos_type": "latest", "normalize_before": False}
BRANCHFORMER = {"output_size": 16, "attention_heads": 2, "linear_units": 32, "num_blocks": 2, "cgmlp_linear_units": 32}
BRANCHFORMER |= {"cgmlp_conv_kernel": 5, "use_ffn": True, "macaron_ffn": True}
STREAMING = OURS | {"block_size": 12, "hop_size": 4, "look_ahead": 0}
SPEECH, LENGTHS = 0.1 * torch.randn(3, 12000), torch.tensor([12000, 8000, 5000])


@pytest.fixture
def config(corpus):
    """Function of an encoder and its options: what ESPnet trains by."""

    def make(encoder, conf, **others):
        return {
            "frontend": "log_mel",
            "frontend_conf": {"fs": "16k", "features": 16, "dither": 0.0},
            "normalize": None,
            "encoder": encoder,
            "encoder_conf": conf,
            "decoder": None,
            "model_conf": {"ctc_weight": 1.0},
            "token_type": "word",
            "token_list": str(corpus / "tokens.txt"),
            "optim": "adamw",
            "optim_conf": {"lr": 0.002},
            "max_epoch": 1,
            "num_att_plot": 0,
            "batch_type": "sorted",
            "batch_size": 4,
            "use_tensorboard": False,
            "best_model_criterion": [["valid", "loss", "min"]],
        } | others

    return make


def train(corpus, folder, *options):
    """Train with ESPnet's own command; the folder gets config.yaml and the weights."""
    data = []
    for part in ("train", "valid"):
        data += [f"--{part}_data_path_and_name_and_type", f"{corpus}/wav.scp,speech,sound"]
        data += [f"--{part}_data_path_and_name_and_type", f"{corpus}/text,text,text"]
        data += [f"--{part}_shape_file", str(shapes(corpus))]
    ASRTask.main(cmd=[*map(str, options), *data, "--output_dir", str(folder), "--ngpu", "0"])


def shapes(corpus):
    path = corpus / "shapes"
    names = [line.split()[0] for line in (corpus / "wav.scp").read_text().splitlines()]
    path.write_text("".join(f"{name} 10000\n" for name in names))
    return path


@pytest.fixture
def saved(config, tmp_path):
    """Function of an encoder and its options: a .pth of an untrained model, with its config.yaml."""

    def make(encoder, conf, **others):
        folder = tmp_path / "dense"
        folder.mkdir()
        (folder / "train.yaml").write_text(yaml.safe_dump(config(encoder, conf, **others)))
        args = ASRTask.get_parser().parse_args(["--config", str(folder / "train.yaml")])
        torch.manual_seed(0)
        model = ASRTask.build_model(args)
        (folder / "config.yaml").write_text(yaml.safe_dump(vars(args)))
        torch.save(model.state_dict(), folder / "model.pth")
        return folder / "model.pth"

    return make


def upcycled(path, *options):
    output = path.parent.with_name("moe") / path.name
    assert main(["upcycle", str(path), "--output", str(output), *options]) == 0
    return output


def restored(path, config=None):
    return ASRTask.build_model_from_file(config or path.parent / "config.yaml", path)[0].eval()


@torch.no_grad()
def outputs(model):
    """(frames, D), without padding."""
    encoded, lengths = model.encode(SPEECH, LENGTHS)
    if isinstance(encoded, tuple):  # with those of earlier layers
        encoded = encoded[0] + encoded[1][0][1]
    return torch.cat([utterance[:length] for utterance, length in zip(encoded, lengths, strict=True)])


@pytest.mark.parametrize(
    ("encoder", "conf", "options"),
    [
        ("omni_router", OURS, ("--experts", "8", "--routing", "omni")),
        ("conformer", STOCK, ("--experts", "8", "--routing", "omni")),
        ("conformer", MACARON | {"activation_type": "relu"}, ("--routing", "switch", "--top-k", "2")),
        ("conformer", STOCK | {"interctc_layer_idx": [1]}, ("--expert-layers", "every:2")),
        ("e_branchformer", BRANCHFORMER, ("--experts", "8", "--routing", "omni")),
    ],
    ids=["ours", "stock", "macaron", "interctc", "e_branchformer"],
)
def test_it_is_the_dense_model_at_first(encoder, conf, options, saved):
    dense = saved(encoder, conf, model="espnet")
    moe = upcycled(dense, *options)
    before, after = restored(dense), restored(moe)
    torch.testing.assert_close(outputs(after), outputs(before), atol=1e-5, rtol=1e-5)
    assert type(restored(moe)).__name__ == "SigmelASRModel"
    experts = [module for module in restored(moe).modules() if isinstance(module, ExpertFeedForward)]
    assert [layer.gradient_sharing for layer in experts] == [UPCYCLED["gradient_sharing"]] * len(experts) != []


@pytest.mark.parametrize("name", ["rich_asr.zip", "rich_tts.zip"])
def test_language_models(name, files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, outputs = files.FILES["espnet"][name]
    monkeypatch.setitem(files.LM, "routing", "dense")
    make(tmp_path / "dense.zip")
    assert main(["upcycle", "dense.zip", "--experts", "3", "--top-k", "2", "--output", "moe.zip"]) == 0
    before, after = (outputs(Path(path)) for path in ("dense.zip", "moe.zip"))
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)
    names = torch.load(unpack("moe.zip", "unpacked")[f"{'asr_' * ('asr' in name)}model_file"]).keys()
    assert any(key.endswith("lm.routers.0.linear.weight") for key in names)
    assert main(["upcycle", "moe.zip", "--output", "again.zip"]) == 2


def test_it_is_the_dense_model_in_streaming(saved):
    dense = saved("omni_router", STREAMING)
    before, after = (restored(path).encoder for path in (dense, upcycled(dense, "--experts", "8")))
    features = torch.randn(2, 64, 16)
    with torch.no_grad():
        hidden = [encoder(features, torch.tensor([64, 64]), infer_mode=True)[0] for encoder in (before, after)]
    torch.testing.assert_close(hidden[1], hidden[0], atol=1e-5, rtol=1e-5)


def test_an_archive_keeps_all_else(saved, tmp_path, monkeypatch):
    dense, packed = saved("conformer", STOCK), tmp_path / "dense.zip"
    monkeypatch.chdir(tmp_path)
    files = ["--asr_train_config", "dense/config.yaml", "--asr_model_file", "dense/model.pth"]
    pack.main(cmd=["asr", *files, "--option", "dense/train.yaml", "--outpath", str(packed)])
    assert main(["upcycle", str(packed), "--output", "moe.zip", "--experts", "3"]) == 0
    files = unpack("moe.zip", "unpacked")
    assert Path("unpacked/dense/train.yaml").read_bytes() == Path("dense/train.yaml").read_bytes()
    model = restored(files["asr_model_file"], files["asr_train_config"])
    torch.testing.assert_close(outputs(model), outputs(restored(dense)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("encoder", "conf", "routed"),
    [
        ("omni_router", OURS, "omni_router"),
        ("conformer", MACARON, "omni_router_conformer"),
        ("e_branchformer", BRANCHFORMER, "omni_router_e_branchformer"),
    ],
    ids=["ours", "conformer", "e_branchformer"],
)
def test_it_trains_on(encoder, conf, routed, saved, corpus, tmp_path):
    """By the configuration of the dense one and some options more."""
    dense = saved(encoder, conf)
    moe = upcycled(dense, "--experts", "3")
    options = ["--model", "sigmel_asr", "--encoder", routed, "--encoder_conf", "routing=omni"]
    options += ["--encoder_conf", "experts=3"]
    for option, value in UPCYCLED.items():
        options += ["--encoder_conf", f"{option}={str(value).lower()}"]
    train(corpus, tmp_path / "exp", "--config", dense.with_name("train.yaml"), "--init_param", moe, *options)
    state = torch.load(moe)
    trained = torch.load(tmp_path / "exp/1epoch.pth")
    assert state.keys() == trained.keys()
    for name, value in state.items():
        if name.endswith((".w1", ".w2")):
            assert torch.equal(value[0], value[1])
            assert all(not torch.equal(trained[name][e], value[e]) for e in range(3))
            assert not torch.equal(trained[name][0], trained[name][1])
        if ".routers." in name:
            assert not torch.equal(trained[name], value)
    stats = torch.load(tmp_path / "exp/checkpoint.pth", weights_only=False)["reporter"]["stats"][1]["train"]
    assert stats["aux_loss"] > 0
    restored(tmp_path / "exp/1epoch.pth", tmp_path / "exp/config.yaml")


def test_a_dense_checkpoint_loads_into_experts(saved, config):
    dense = saved("conformer", STOCK)
    torch.manual_seed(1)
    model = OmniRouterConformerEncoder(input_size=16, experts=3, normalize_gates=True, **STOCK).eval()
    load_pretrained_model(f"{dense}:encoder", model, ignore_init_mismatch=False)
    features, lengths = torch.randn(2, 60, 16), torch.tensor([60, 41])
    with torch.no_grad():
        torch.testing.assert_close(
            model(features, lengths)[0], restored(dense).encoder(features, lengths)[0], atol=1e-5, rtol=1e-5
        )
    with pytest.raises(SigmelError, match=r"it lacks: routers\.0\.linear\.weight"):  # as inference would load it
        model.load_state_dict(restored(dense).encoder.state_dict(), strict=False)


def test_padding_does_not_count_in_the_loss():
    encoder = OmniRouterConformerEncoder(input_size=16, jitter=0.0, **MACARON).train()
    _, lengths, _ = encoder(torch.randn(2, 80, 16), torch.tensor([80, 43]))
    decisions = encoder.output.routing
    valid = valid_frames(lengths, decisions[0].logits.shape[1])
    expected = sum(0.01 * load_balance_loss(decision, valid) for decision in decisions)
    torch.testing.assert_close(encoder.output.aux_loss, expected)


def test_the_load_balancing_loss_is_added_and_reported(saved):
    model = restored(upcycled(saved("conformer", STOCK), "--experts", "3")).train()
    model.encoder.routing = Routing(load_balance_weight=0.5)
    batch = {"speech": SPEECH, "speech_lengths": LENGTHS}
    batch |= {"text": torch.tensor([[2], [3], [2]]), "text_lengths": torch.tensor([1, 1, 1])}
    loss, stats, _ = model(**batch)
    assert stats["aux_loss"] >= 2 * 0.5 * 0.99
    torch.testing.assert_close(loss, stats["loss_ctc"] + stats["aux_loss"])
    loss.backward()
    for parameter in model.encoder.routers.parameters():
        assert parameter.grad.abs().sum() > 0
    counts = parameter_counts(model)
    assert counts.total - counts.active == 2 * 2 * (16 * 32 + 32 + 32 * 16 + 16)  # two of three experts, two layers
    _, stats, _ = model.eval()(**batch)
    assert 1 / 3 <= stats["routing_load"] <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation_type": "tanh"}, "activation_type: 'tanh' is none of swish, relu"),
        (
            {"positionwise_layer_type": "conv1d"},
            "feed_forward is MultiLayeredConv1d, which .*positionwise_layer_type: linear",
        ),
        ({"routing": "path:3"}, "path:3"),
    ],
)
def test_options_that_cannot_be_routed_are_named(options, message):
    with pytest.raises(SigmelError, match=message):
        OmniRouterConformerEncoder(input_size=16, **STOCK, **options)


@pytest.mark.parametrize(
    ("encoder", "conf", "message"),
    [
        ("omni_router", OURS | {"routing": "omni"}, "has experts already"),
        ("conformer", STOCK | {"activation_type": "tanh"}, "activation_type: 'tanh'"),
        ("conformer", STOCK | {"positionwise_layer_type": "conv1d"}, "only linear layers"),
        ("e_branchformer", BRANCHFORMER | {"use_ffn": False}, "no encoder.encoders.0.feed_forward.w_1.weight"),
        ("transformer", {"num_blocks": 1}, "encoder: transformer cannot be upcycled"),
    ],
)
def test_models_that_cannot_be_upcycled_are_named(encoder, conf, message, saved, tmp_path, capsys):
    path = saved(encoder, conf)
    assert main(["upcycle", str(path), "--output", str(tmp_path / "moe/model.pth")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "moe").exists()


def test_wrong_files_are_named(saved, tmp_path, capsys):
    path = saved("omni_router", OURS)
    (tmp_path / "bad.zip").write_text("no archive")
    (tmp_path / "bad.pth").write_text("no weights")
    for source, output, message in (
        (path, path.with_name("moe.pth"), "dense has a config.yaml already"),
        (path, tmp_path / "moe.zip", "moe.zip: the suffix must be .pth"),
        (tmp_path / "bad.zip", tmp_path / "moe.zip", "bad.zip: not an archive of an ESPnet model"),
        (tmp_path / "bad.pth", tmp_path / "moe/model.pth", "bad.pth: not an ESPnet model beside its config.yaml"),
    ):
        assert main(["upcycle", str(source), "--output", str(output)]) == 2
        assert message in capsys.readouterr().err
        assert not output.exists()
