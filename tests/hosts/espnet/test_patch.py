"""With the patch for ESPnet's ClassChoices, ESPnet finds our classes by itself."""

import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import espnet2.train.class_choices

PATCH = Path(__file__).parents[3] / f"patches/espnet-{version('espnet')}/class_choices.patch"
CODE = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("espnet2.train.class_choices", sys.argv[1])
patched = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(patched)
from espnet2.tasks import asr
print("found", "omni_router" in asr.encoder_choices.choices(), "sigmel_asr" in asr.model_choices.choices())
from sigmel.hosts.registration import espnet as espnet_registration
before = dict(asr.encoder_choices.classes)
espnet_registration.register()  # two ways in do no harm
print("same", before == asr.encoder_choices.classes)
"""


def test_the_patch_applies_and_lets_plugins_in(tmp_path):
    target = tmp_path / "espnet2/train/class_choices.py"
    target.parent.mkdir(parents=True)
    shutil.copy(espnet2.train.class_choices.__file__, target)
    done = subprocess.run(["git", "apply", PATCH], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([sys.executable, "-c", CODE, target], capture_output=True, text=True)
    assert "found True True" in done.stdout, done.stderr
    assert "same True" in done.stdout, done.stderr
