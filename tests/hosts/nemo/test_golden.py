"""Files that users have: models that earlier versions saved in NeMo, and their YAML."""

import pytest
import torch
from hydra.utils import get_class
from nemo.core.classes.common import Serialization
from omegaconf import OmegaConf

from sigmel.recipes.nemo.train import Recipe

# Every public class by the path that stands in users' files; arguments make small ones.
YAML = """
recipe:
  exp_dir: exp/mine
  seed: 1
  threads: 2
  log_every: 20
  checkpoint_every: 200
  average_last: 5
objects:
  - {_target_: sigmel.hosts.nemo.OmniRouterEncoder, feat_in: 16, d_model: 16, num_layers: 1, num_heads: 2}
  - {_target_: sigmel.hosts.nemo.encoder.OmniRouterEncoder, feat_in: 16, d_model: 16, num_layers: 1, num_heads: 2}
  - {_target_: sigmel.hosts.nemo.RegisteredEncoder, encoder: omni_router, feat_in: 16, conf: {num_layers: 1}}
  - _target_: sigmel.hosts.nemo.OmniRouterConformerEncoder
    feat_in: 16
    d_model: 16
    n_layers: 1
    n_heads: 2
    experts: 2
    attention: sigmoid
  - {_target_: sigmel.hosts.nemo.DMelPreprocessor, sample_rate: 16000, features: 80, bits: 4, freq_masks: 1}
  - {_target_: sigmel.hosts.nemo.ExpertParallel, size: 2}
classes:
  - sigmel.hosts.nemo.RoutingMonitor
  - sigmel.hosts.nemo.AttentionNormMonitor
  - sigmel.hosts.nemo.lm.DMelLMModel
  - sigmel.hosts.nemo.graph.GraphCTCModel
  - sigmel.hosts.nemo.graph.GraphCTCModelBPE
  - sigmel.hosts.nemo.graph.GraphHybridModel
  - sigmel.hosts.nemo.graph.GraphHybridModelBPE
  - sigmel.hosts.nemo.GraphCTCModel
  - sigmel.hosts.nemo.GraphCTCModelBPE
  - sigmel.hosts.nemo.vocoder.NeMoVocoder
"""


@pytest.mark.parametrize("name", ["nemo.nemo", "conformer.nemo", "graph.nemo", "upcycled.nemo", "lm.nemo"])
def test_a_saved_model_gives_what_it_gave(name, files):
    _, outputs = files.FILES["nemo"][name]
    torch.testing.assert_close(outputs(files.FOLDER / name), files.expected(name), atol=1e-5, rtol=0)


def test_every_class_that_yaml_may_name_is_where_it_was():
    config = OmegaConf.create(YAML)
    for options in config.objects:
        built = Serialization.from_config_dict(options)
        assert type(built).__name__ == options._target_.rpartition(".")[2]
    for path in config.classes:
        assert get_class(path).__name__ == path.rpartition(".")[2]
    recipe = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Recipe), config.recipe))
    recipe.validate()
    assert (recipe.exp_dir, recipe.average_last) == ("exp/mine", 5)
