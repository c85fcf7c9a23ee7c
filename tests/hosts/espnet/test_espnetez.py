"""espnetez trains with our encoder, on dump files as its users have them."""

import torch
from espnetez.config import from_yaml
from espnetez.trainer import Trainer

CONFIG = """
frontend: log_mel
frontend_conf: {fs: 16k, features: 16}
normalize: null
encoder: omni_router
encoder_conf: {d_model: 16, num_layers: 2, num_heads: 2, ff_size: 32, subsampling: stack}
decoder: null
model: sigmel_asr
model_conf: {ctc_weight: 1.0}
best_model_criterion: [[valid, loss, min]]
max_epoch: 1
num_att_plot: 0
batch_type: sorted
batch_size: 4
use_tensorboard: false
token_type: word
"""


def test_statistics_and_training(corpus, tmp_path):
    (tmp_path / "train.yaml").write_text(CONFIG)
    config = from_yaml("asr", tmp_path / "train.yaml")
    config["token_list"] = (corpus / "tokens.txt").read_text().splitlines()
    trainer = Trainer(
        task="asr",
        train_config=config,
        train_dump_dir=str(corpus),
        valid_dump_dir=str(corpus),
        data_info={"speech": ["wav.scp", "sound"], "text": ["text", "text"]},
        output_dir=str(tmp_path / "exp"),
        stats_dir=str(tmp_path / "stats"),
        ngpu=0,
    )
    trainer.collect_stats()
    assert len((tmp_path / "stats/train/speech_shape").read_text().splitlines()) == 8
    trainer.train()
    weights = torch.load(tmp_path / "exp/valid.loss.best.pth", weights_only=True)
    assert any(name.startswith("encoder.core.routers") for name in weights)
