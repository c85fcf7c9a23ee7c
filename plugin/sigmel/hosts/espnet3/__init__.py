"""ESPnet3 host: a system of ESPnet3, which names our classes in configurations.

`sigmel espnet3 --training_config ... --inference_config ... --metrics_config ...` runs `ASRSystem`, on the defaults in
this package's `conf`. In a recipe of your own, three lines of the configurations are enough:
`task: sigmel.hosts.espnet3.ASRTask`, `_target_: sigmel.hosts.espnet3.Speech2Text` for inference, and
`data_src: sigmel.hosts.espnet3.manifest` for sigmel's manifests. Task and recogniser are ESPnet's; since they are
imported through this package, every process that uses them, workers included, finds our encoders.
"""

from importlib.util import find_spec

from sigmel.errors import SigmelError

if find_spec("espnet3") is None:
    raise SigmelError("sigmel.hosts.espnet3 needs ESPnet 202611: pip install 'espnet[asr,train]', or make espnet")

from espnet2.bin.asr_inference import Speech2Text
from espnet3.systems.esp2_asr.task import ASRTask

from sigmel.hosts.espnet3.system import ASRSystem
from sigmel.hosts.registration import espnet as espnet_registration

espnet_registration.register()

__all__ = ["ASRSystem", "ASRTask", "Speech2Text"]
