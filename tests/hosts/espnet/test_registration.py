"""Our classes are among ESPnet's choices, once, and nothing of the host is changed otherwise."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from espnet2.asr.encoder.abs_encoder import AbsEncoder
from espnet2.asr.encoder.transformer_encoder import TransformerEncoder
from espnet2.tasks import asr
from espnet2.train.class_choices import ClassChoices
from torch import nn

from sigmel import SigmelError, cli, register, registry
from sigmel.hosts.espnet.class_choices import add, extend
from sigmel.hosts.registration import espnet as espnet_registration


def test_every_registered_class_can_be_chosen():
    for name in registry.names("encoder"):
        assert issubclass(asr.encoder_choices.get_class(name), AbsEncoder)
    assert "log_mel" in asr.frontend_choices.choices()
    assert "sigmel_asr" in asr.model_choices.choices()


def test_registering_again_changes_nothing():
    before = dict(asr.encoder_choices.classes), list(sys.meta_path)
    espnet_registration.register()
    assert (dict(asr.encoder_choices.classes), list(sys.meta_path)) == before


def test_print_config_shows_our_options():
    options = ["--print_config", "--encoder", "omni_router", "--model", "sigmel_asr"]
    shown = python("-m", "sigmel.cli", "espnet", "asr_train", *options).stdout
    assert "encoder: omni_router\nencoder_conf:\n    d_model: 256\n" in shown
    assert "    routing: omni\n" in shown
    assert "    ctc_weight: 0.5\n" in shown


@pytest.fixture
def own_registry(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})


def test_an_encoder_of_yours_appears(own_registry):
    @register("encoder", "yours")
    class Yours(nn.Module):
        input_size: int
        subsampling_factor = 1

        def __init__(self, input_size, width=3):
            super().__init__()
            self.linear = nn.Linear(input_size, width)

        def output_size(self):
            return self.linear.out_features

        def forward(self, features, lengths):
            return self.linear(features), lengths

    task = SimpleNamespace(encoder_choices=ClassChoices("encoder", {"rnn": TransformerEncoder}, AbsEncoder))
    extend(task)
    encoder = task.encoder_choices.get_class("yours")(input_size=4, width=5)
    hidden, lengths, states = encoder(torch.ones(2, 7, 4), torch.tensor([6, 5]))
    assert (hidden.shape, lengths.tolist(), states) == ((2, 6, 5), [6, 5], None)


def test_a_class_that_cannot_be_loaded_is_left_out_with_a_warning(monkeypatch):
    broken = registry.Entry("encoder", "broken", "no_such_module:Encoder", "a plugin")
    monkeypatch.setattr(registry, "entries", lambda: [broken])
    task = SimpleNamespace(encoder_choices=ClassChoices("encoder", {"rnn": TransformerEncoder}, AbsEncoder))
    with pytest.warns(UserWarning, match="does not offer the encoder 'broken' to ESPnet: .*no_such_module"):
        extend(task)
    assert task.encoder_choices.choices() == ("rnn", "dmel_tokens", None)


@pytest.mark.parametrize(
    ("name", "cls", "message"),
    [
        ("RNN", AbsEncoder, "encoder have 'rnn' already: espnet2.asr.encoder.transformer_encoder.TransformerEncoder"),
        ("null", AbsEncoder, "cannot have 'null'"),
        ("linear", nn.Linear, "'linear' is Linear, which is no AbsEncoder"),
    ],
)
def test_what_espnet_does_not_check_is_an_error(name, cls, message):
    choices = ClassChoices("encoder", {"rnn": TransformerEncoder}, AbsEncoder)
    with pytest.raises(SigmelError, match=message):
        add(choices, name, cls)
    assert choices.classes == {"rnn": TransformerEncoder}


def python(*arguments):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True)


def test_registration_imports_nothing_of_the_host_and_serves_a_task_imported_later():
    code = (
        "import sys; from sigmel.hosts.registration import espnet as r; r.register()\n"
        "assert not {'torch', 'espnet2'} & set(sys.modules)\n"
        "from espnet2.tasks.enh_s2t import EnhS2TTask, asr_encoder_choices\n"
        "print('found', 'omni_router' in asr_encoder_choices.choices())"
    )
    done = python("-c", code)
    assert "found True" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("202304", "SigmelError: espnet 202304 is not supported; sigmel needs 202511"),
        ("202712", "UserWarning: sigmel supports espnet 202511 and 202611; 202712 was not tested with it"),
    ],
)
def test_a_version_of_the_host_that_was_not_tested_is_said(version, message, tmp_path):
    metadata = tmp_path / f"espnet-{version}.dist-info/METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: espnet\nVersion: {version}\n")
    done = subprocess.run(
        [sys.executable, "-c", "import sigmel.hosts.espnet"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert message in done.stderr


SPAWNING = """
import multiprocessing, sys
from job import child
if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=child)
    process.start()
    process.join()
    print("exit", process.exitcode, sys.argv[1:])
"""
JOB = """
import sys
def child():
    from espnet2.tasks.asr import encoder_choices
    sys.exit("omni_router" not in encoder_choices.choices())
"""


RUNNER = "import sys; from sigmel.hosts.espnet.runner import run_module; run_module('spawning', sys.argv[1:])"


@pytest.mark.parametrize("way", [["-m", "sigmel.hosts.espnet.runner", "-m", "spawning"], ["-c", RUNNER]])
def test_spawned_workers_find_our_classes(tmp_path, way):
    (tmp_path / "spawning.py").write_text(SPAWNING)
    (tmp_path / "job.py").write_text(JOB)  # as ESPnet, which spawns what stands in its own modules
    done = subprocess.run(
        [sys.executable, *way, "--option"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])},
    )
    assert "exit 0 ['--option']" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "stream", "text"),
    [
        (["-c", "import sys; print(sys.argv)", "a"], 0, "stdout", "['-c', 'a']"),
        (["-m", "espnet2.bin.no_such"], 2, "stderr", "error: espnet2.bin.no_such: no such module here"),
        (["-x"], 2, "stderr", "error: usage: python -m sigmel.hosts.espnet.runner -m MODULE"),
    ],
)
def test_the_runner_stands_in_for_python(arguments, status, stream, text):
    done = python("-m", "sigmel.hosts.espnet.runner", *arguments)
    assert done.returncode == status
    assert text in getattr(done, stream)


@pytest.mark.parametrize("program", [["no_such"], ["-x"], []])
def test_programs_that_espnet_lacks_are_named(program):
    done = python("-m", "sigmel.cli", "espnet", *program)
    assert done.returncode == 2
    assert (
        "espnet2.bin.no_such: no such module here" if "no_such" in program else "usage: sigmel espnet"
    ) in done.stderr
    command = Path(sys.executable).with_name("sigmel-espnet")
    alias = subprocess.run([command, *program], capture_output=True, text=True)
    assert (alias.returncode, "no_such" in alias.stderr) == (2, "no_such" in program)


def test_names_of_an_older_sigmel_work(tmp_path):
    """The file that an older `sigmel espnet enable` wrote, and the hook in the metadata of an older installation."""
    (tmp_path / "sigmel_espnet.pth").write_text(
        "import sys; exec('try:\\n    from sigmel.hosts.espnet_registration import register\\n"
        "except ImportError:\\n    pass\\nelse:\\n    register()')\n"
    )
    code = (
        f"import site, sys; site.addsitedir({str(tmp_path)!r})\n"
        "from sigmel.hosts.nemo_registration import callbacks_factory\n"
        "print([type(finder).__name__ for finder in sys.meta_path], callbacks_factory())\n"
        "sys.exit(bool({'torch', 'espnet2', 'nemo'} & set(sys.modules)))"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert "TaskFinder" in done.stdout
    assert done.stdout.endswith(" []\n")


def test_the_opt_in_hook_serves_espnets_own_programs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    code = f"import site; site.addsitedir({str(tmp_path)!r}); from espnet2.bin.asr_train import main; main()"
    command = ("-c", code, "--print_config", "--encoder", "omni_router")
    assert cli.main(["espnet", "enable"]) == 0
    assert "enabled" in capsys.readouterr().out
    done = python(*command)
    assert "encoder: omni_router" in done.stdout, done.stderr
    assert cli.main(["espnet", "disable"]) == 0
    assert cli.main(["espnet", "disable"]) == 0  # what is not there need not be removed
    assert "disabled" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    done = python(*command)
    assert done.returncode == 2
    assert "invalid choice: 'omni_router'" in done.stderr
