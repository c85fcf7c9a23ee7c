"""`sigmel upcycle` of NeMo models, and trainings that begin with the weights of another model."""

from pathlib import Path

import pytest
import torch
from nemo.collections.asr.models import ASRModel, EncDecCTCModel, EncDecCTCModelBPE, EncDecHybridRNNTCTCBPEModel
from omegaconf import OmegaConf, open_dict

from sigmel.cli import main
from sigmel.errors import SigmelError
from sigmel.models.upcycling import UPCYCLED
from sigmel.recipes.nemo import train

pytestmark = pytest.mark.xdist_group("nemo")

FEATURES, LENGTHS = torch.randn(3, 80, 90), torch.tensor([90, 61, 8])
DENSE = {"routing": "dense"}
REGISTERED = {"_target_": "sigmel.hosts.nemo.RegisteredEncoder", "encoder": "omni_router", "feat_in": 80}
REGISTERED |= {"conf": {"d_model": 32, "num_layers": 2, "num_heads": 2, "routing": "dense"}}


@pytest.fixture
def saved(model_config, tmp_path):
    """Function of an encoder's options: a .nemo file of an untrained CTC model."""

    def make(encoder, name="dense.nemo", cls=EncDecCTCModelBPE, kind="ctc_bpe"):
        torch.manual_seed(0)
        config = model_config(kind)
        config.encoder = encoder
        cls(cfg=config).save_to(str(tmp_path / name))
        return str(tmp_path / name)

    return make


@pytest.fixture
def ours(model_config):
    """Function of options of our encoder: its configuration."""
    return lambda **options: model_config("ctc_bpe", **options).encoder


def upcycled(path, *options):
    output = str(Path(path).with_name("moe.nemo"))
    assert main(["upcycle", path, "--output", output, *options]) == 0
    return output


def restored(path):
    return ASRModel.restore_from(path, map_location="cpu").eval()


@torch.no_grad()
def outputs(model):
    """(frames, D), without padding."""
    encoded, lengths = model.encoder(audio_signal=FEATURES, length=LENGTHS)
    return torch.cat([utterance[:, :length].T for utterance, length in zip(encoded, lengths, strict=True)])


@torch.no_grad()
def streamed_outputs(encoder):
    caches = encoder.get_initial_cache_state(3)
    names = ("cache_last_channel", "cache_last_time", "cache_last_channel_len")
    outputs = []
    for chunk in FEATURES.split(encoder.streaming_cfg.chunk_size, dim=-1):
        length = torch.full((3,), chunk.shape[-1])
        output, _, *caches = encoder(audio_signal=chunk, length=length, **dict(zip(names, caches, strict=True)))
        outputs.append(output)
    return torch.cat(outputs, dim=-1)


def assert_equal_at_first(dense, moe):
    torch.testing.assert_close(outputs(moe), outputs(dense), atol=1e-5, rtol=1e-5)
    others = [name for name in dense.state_dict() if "feed_forward" not in name]
    assert all(torch.equal(dense.state_dict()[name], moe.state_dict()[name]) for name in others)


def test_our_dense_encoder(ours, saved, capsys):
    path = saved(ours(**DENSE, chunk_size=4, left_context=8))
    moe = upcycled(path, "--experts", "8", "--routing", "omni")
    assert "moe.nemo: 8 experts, omni, from" in capsys.readouterr().out
    model, dense = restored(moe), restored(path)
    assert [len(model.encoder.core.routers), model.encoder.core.routers[0].num_experts] == [1, 8]
    assert_equal_at_first(dense, model)
    streamed = [streamed_outputs(encoder) for encoder in (dense.encoder, model.encoder)]
    torch.testing.assert_close(streamed[1], streamed[0], atol=1e-5, rtol=1e-5)
    assert model.tokenizer.vocab == dense.tokenizer.vocab
    assert model.cfg.optim == dense.cfg.optim


def test_an_encoder_by_its_name_in_the_registry(saved):
    path = saved(REGISTERED)
    model = restored(upcycled(path, "--routing", "switch", "--experts", "3", "--top-k", "2"))
    assert [router.top_k for router in model.encoder.core.routers] == [2, 2]
    assert_equal_at_first(restored(path), model)


@pytest.mark.parametrize(
    ("cls", "kind"), [(EncDecCTCModel, "ctc"), (EncDecHybridRNNTCTCBPEModel, "hybrid_bpe")], ids=["ctc", "hybrid"]
)
def test_nemos_own_conformer_in_any_model(cls, kind, conformer_config, saved):
    path = saved(conformer_config(use_bias=kind == "ctc").encoder, cls=cls, kind=kind)
    model = restored(upcycled(path, "--experts", "3", "--expert-layers", "every:2"))
    assert type(model) is cls
    assert_equal_at_first(restored(path), model)


def test_a_language_model(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, outputs = files.FILES["nemo"]["lm.nemo"]
    monkeypatch.setitem(files.LM, "routing", "dense")
    make(tmp_path / "dense.nemo")
    path = Path(upcycled("dense.nemo", "--experts", "3", "--top-k", "2"))
    torch.testing.assert_close(outputs(path), outputs(Path("dense.nemo")), atol=1e-5, rtol=1e-5)
    lm = files.nemo_model(path).lm
    assert [(router.num_experts, router.top_k) for router in lm.routers] == [(3, 2)]
    assert lm.blocks[0].feed_forward.gradient_sharing == UPCYCLED["gradient_sharing"]


@pytest.mark.parametrize("stock", [False, True], ids=["ours", "stock"])
def test_it_trains_on_and_is_saved(stock, ours, conformer_config, saved, trainer, tmp_path, model_config):
    path = saved(conformer_config().encoder if stock else ours(**DENSE))
    model, training = restored(upcycled(path, "--experts", "2")), trainer(steps=2)
    model.set_trainer(training)
    model.setup_training_data(model_config("ctc_bpe").train_ds)
    training.fit(model)
    layer = model.encoder.layers[0].feed_forward2 if stock else model.encoder.core.blocks[0].feed_forward
    experts = layer.experts if stock else layer
    assert experts.gradient_sharing == UPCYCLED["gradient_sharing"]
    assert not torch.equal(experts.w1[0], experts.w1[1])
    model.save_to(str(tmp_path / "trained.nemo"))
    assert torch.equal(outputs(restored(str(tmp_path / "trained.nemo"))), outputs(model.eval()))


def test_what_cannot_be_upcycled_is_named(ours, saved, tmp_path, capsys):
    dense, moe = saved(ours(**DENSE)), saved(ours(), "experts.nemo")
    (tmp_path / "bad.nemo").write_text("no archive")
    (tmp_path / "there.nemo").write_text("")
    before = sorted(tmp_path.iterdir())
    for source, options, message in (
        (moe, (), "experts.nemo: the model has experts already"),
        (dense, ("--routing", "dense"), "dense.nemo: routing: 'dense' has no experts"),
        (dense, ("--routing", "path:3"), "path:3"),
        (dense, ("--experts", "1"), "experts: 1"),
        (dense, ("--expert-layers", "3x4"), "'3x4' make 3 layers; the stack has 2"),
        (dense, ("--output", str(tmp_path / "there.nemo")), "there.nemo exists already"),
        (dense, ("--output", str(tmp_path / "out.zip")), "out.zip: the suffix must be .nemo"),
        (str(tmp_path / "dense.onnx"), (), "dense.onnx: the suffix must be one of .nemo"),
        (str(tmp_path / "none.nemo"), (), "none.nemo: no such file"),
        (str(tmp_path / "bad.nemo"), (), "bad.nemo: not a .nemo file that can be read"),
    ):
        assert main(["upcycle", source, "--output", str(tmp_path / "out.nemo"), *options]) == 2
        assert message in capsys.readouterr().err
        assert sorted(tmp_path.iterdir()) == before


def test_an_encoder_of_another_kind_is_named(saved, tmp_path, capsys):
    block = {"filters": 8, "repeat": 1, "kernel": [3], "stride": [2], "dilation": [1], "dropout": 0.0}
    block |= {"residual": False}
    jasper = {"_target_": "nemo.collections.asr.modules.ConvASREncoder", "feat_in": 80, "activation": "relu"}
    path = saved(jasper | {"jasper": [block]})
    assert main(["upcycle", path, "--output", str(tmp_path / "out.nemo")]) == 2
    assert "ConvASREncoder cannot be upcycled" in capsys.readouterr().err


@pytest.fixture
def training(model_config, tmp_path):
    """Function of a file to begin with and the encoder's options: a training of one step that changes nothing."""

    def make(path, **encoder):
        model = model_config("ctc_bpe", **encoder)
        model.optim.lr = 0.0
        recipe = {"exp_dir": str(tmp_path / "exp"), "log_every": 1, "seed": 7}
        trainer = {"accelerator": "cpu", "max_steps": 1, "val_check_interval": 1, "check_val_every_n_epoch": None}
        return OmegaConf.create({"recipe": recipe, "trainer": trainer, "model": model, "init_from_nemo_model": path})

    return make


@pytest.mark.parametrize("experts", [False, True], ids=["dense", "upcycled"])
def test_a_training_begins_with_every_weight_of_a_file(experts, ours, saved, training, tmp_path, capsys):
    path, options = saved(ours(**DENSE)), DENSE
    if experts:
        path, options = upcycled(path, "--experts", "8"), {"experts": 8, **UPCYCLED}
    train.train(training(path, **options))
    expected, found = restored(path).state_dict(), restored(str(tmp_path / "exp/model.nemo")).state_dict()
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        if "running_" not in name and "num_batches" not in name:
            assert torch.equal(found[name], value), name
    assert ", but " not in capsys.readouterr().out


def test_an_option_that_is_not_the_files_is_told(ours, saved, training, capsys):
    path = upcycled(saved(ours(**DENSE)), "--experts", "8")
    train.train(training(path, experts=8))
    assert f"encoder.normalize_gates: False, but {path} has True" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"experts": 3}, "lacks: .*encoder.core.blocks.0.feed_forward.w1.*no place for: .*linear1.weight"),
        (DENSE | {"d_model": 16}, "size mismatch"),
    ],
)
def test_a_file_of_another_model_is_refused(options, message, ours, saved, training):
    with pytest.raises(SigmelError, match=f"(?s)dense.nemo.*{message}"):
        train.train(training(saved(ours(**DENSE)), **options))


def test_a_file_that_is_none_is_named(training, tmp_path):
    with pytest.raises(SigmelError, match=r"init_from_nemo_model: .*absent\.nemo: no such file"):
        train.train(training(str(tmp_path / "absent.nemo")))
    (tmp_path / "bad.nemo").write_text("no archive")
    with pytest.raises(SigmelError, match=r"init_from_nemo_model: .*bad\.nemo"):
        train.train(training(str(tmp_path / "bad.nemo")))


def test_parts_of_a_file_may_be_asked_for(ours, saved, training, tmp_path):
    path = saved(ours(**DENSE))
    config = training(path, experts=3)
    with open_dict(config):
        config.init_from_nemo_model = {"one": {"path": path, "include": ["subsampling"]}}
    train.train(config)
    found, expected = restored(str(tmp_path / "exp/model.nemo")).state_dict(), restored(path).state_dict()
    taken = [name for name in expected if "subsampling" in name]
    assert taken
    assert all(torch.equal(found[name], expected[name]) for name in taken)
