"""Kinds, names, classes: the decorator, entry points of real distributions, contracts and errors."""

import importlib
import subprocess
import sys
import textwrap

import pytest

import sigmel
from sigmel import registry
from sigmel.registry import RegistryError, register


class Encoder:
    input_size: int
    subsampling_factor: int

    def __init__(self, input_size, layers=2): ...

    def forward(self, features, lengths): ...

    def output_size(self): ...


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch):
    """What a test registers is gone after it; two kinds, with short contracts, exist in tests only."""
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.setitem(registry.KINDS, "router", registry.Contract({"forward": ("x",)}))
    monkeypatch.setitem(registry.KINDS, "corrector", registry.Contract({"correct": ("texts",)}))


@pytest.fixture
def distribution(tmp_path, monkeypatch):
    """Installs a distribution: distribution(name, {entry point: value}, {module: source})."""

    def install(name, points, modules=None):
        site = tmp_path / name
        info = site / f"{name}-1.5.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
        lines = [f"{point} = {value}" for point, value in points.items()]
        (info / "entry_points.txt").write_text("\n".join(["[sigmel.plugins]", *lines, ""]))
        for module, source in (modules or {}).items():
            (site / f"{module}.py").write_text(textwrap.dedent(source))
        monkeypatch.syspath_prepend(str(site))
        return site

    return install


ENCODER_SOURCE = """
    class Encoder:
        subsampling_factor = 4
        def __init__(self, **options): ...
        @property
        def input_size(self): return 80
        def forward(self, features, lengths, masks=None): ...
        def output_size(self): ...
"""


def test_a_decorated_class_is_found_by_name():
    assert register("encoder", "mine")(Encoder) is Encoder
    assert registry.get("encoder", "mine") is Encoder
    assert "mine" in registry.names("encoder")
    (entry,) = [entry for entry in registry.entries() if entry.name == "mine"]
    assert (entry.kind, entry.source, entry.problem) == ("encoder", "@register", "")
    assert entry.location.endswith(":Encoder")


def test_one_name_may_serve_several_kinds_and_one_class_several_names():
    class Both(Encoder):
        def forward(self, x, lengths=None): ...

    register("encoder", "mine")(Both)
    register("router", "mine")(Both)
    register("router", "other")(Both)
    assert registry.get("router", "mine") is registry.get("encoder", "mine") is registry.get("router", "other")


def test_a_taken_name_is_an_error_that_says_by_whom():
    register("encoder", "mine")(Encoder)

    class Rival(Encoder):
        pass

    with pytest.raises(RegistryError, match=r"encoder 'mine' is already .*:Encoder \(@register\)"):
        register("encoder", "mine")(Rival)
    assert registry.get("encoder", "mine") is Encoder


def test_a_name_of_ours_cannot_be_taken():
    with pytest.raises(RegistryError, match=r"already sigmel\.models\.encoder:OmniRouterEncoder \(sigmel"):
        register("encoder", "omni_router")(Encoder)


def test_a_reloaded_module_registers_again(tmp_path, monkeypatch):
    (tmp_path / "reloaded_plugin.py").write_text(
        "from sigmel import register\n@register('router', 'reloaded')\nclass R:\n    def forward(self, x): ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("reloaded_plugin")
    first = module.R
    importlib.reload(module)
    assert module.R is not first
    assert registry.get("router", "reloaded") is module.R


@pytest.mark.parametrize("call", [lambda: register("encodr", "x"), lambda: registry.get("encodr", "x")])
def test_an_unknown_kind_names_the_nearest(call):
    with pytest.raises(RegistryError, match=r"unknown kind 'encodr'; did you mean 'encoder'.*attention, corrector"):
        call()


def test_an_unknown_name_names_the_nearest_and_all():
    register("encoder", "mine")(Encoder)
    with pytest.raises(
        RegistryError, match=r"unknown encoder 'omni_ruoter'; did you mean 'omni_router'\?.*mine, omni"
    ):
        registry.get("encoder", "omni_ruoter")
    with pytest.raises(RegistryError, match="unknown corrector 'x'; none is registered"):
        registry.get("corrector", "x")


@pytest.mark.parametrize("name", ["", "two words", ".hidden", "a/b", "new\nline"])
def test_a_name_that_yaml_or_setup_cfg_cannot_hold_is_refused(name):
    with pytest.raises(RegistryError, match="cannot be the name of a encoder"):
        register("encoder", name)


def test_the_contract_lists_everything_that_is_missing():
    class Poor:
        def forward(self, features): ...

    with pytest.raises(RegistryError) as caught:
        register("encoder", "poor")(Poor)
    message = str(caught.value)
    for part in (
        "Poor is not a valid encoder ('poor')",
        "cannot be called as forward(features, lengths): too many positional arguments",
        "has no method output_size()",
        "cannot be built with input_size: got an unexpected keyword argument 'input_size'",
        "has no attribute input_size",
        "has no attribute subsampling_factor",
    ):
        assert part in message


def test_the_forward_that_torch_gives_every_module_is_none():
    import torch

    class Silent(torch.nn.Module):
        pass

    with pytest.raises(RegistryError, match=r"has no method forward\(x\)"):
        register("router", "silent")(Silent)


def test_attributes_may_be_inherited_annotations_and_methods_static():
    class Child(Encoder):
        @staticmethod
        def output_size(): ...

    assert register("encoder", "child")(Child) is Child


def test_only_classes_can_be_registered():
    with pytest.raises(RegistryError, match="must be a class, not <function"):
        register("router", "f")(lambda x: x)


def test_an_entry_point_is_loaded_when_asked_for(distribution):
    distribution("acme", {"encoder.acme": "acme_encoder:Encoder"}, {"acme_encoder": ENCODER_SOURCE})
    (entry,) = [entry for entry in registry.entries() if entry.name == "acme"]
    assert (entry.location, entry.source, entry.problem) == ("acme_encoder:Encoder", "acme 1.5", "")
    assert "acme_encoder" not in sys.modules
    cls = registry.get("encoder", "acme")
    assert cls is sys.modules["acme_encoder"].Encoder is registry.get("encoder", "acme")


def test_a_class_may_be_both_declared_and_decorated(distribution):
    source = "from sigmel import register\n@register('router', 'twice')\nclass R:\n    def forward(self, x): ...\n"
    distribution("twice", {"router.twice": "twice_router:R"}, {"twice_router": source})
    assert registry.get("router", "twice").__module__ == "twice_router"
    assert [entry.source for entry in registry.entries() if entry.name == "twice"] == ["twice 1.5"]


def test_a_name_claimed_by_two_distributions_cannot_be_used_but_harms_no_other(distribution):
    distribution("one", {"router.same": "one_router:R"})
    distribution("two", {"router.same": "two_router:R", "router.two": "two_router:R"})
    with pytest.raises(
        RegistryError, match=r"claimed by .*\(one 1\.5\).*\(two 1\.5\)|claimed by .*two 1\.5.*one 1\.5"
    ):
        registry.get("router", "same")
    assert registry.names("router").count("same") == 1
    assert [bool(entry.problem) for entry in registry.entries() if entry.name in ("same", "two")] == [
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("source", "value", "reason"),
    [
        ("import no_such_module", "broken_plugin:R", "No module named 'no_such_module'"),
        ("1 / 0", "broken_plugin:R", "ZeroDivisionError: division by zero"),
        ("def f(:", "broken_plugin:R", "SyntaxError"),
        ("", "broken_plugin:R", "has no attribute 'R'"),
        ("", "no_such_plugin:R", "No module named 'no_such_plugin'"),
    ],
)
def test_an_entry_point_that_fails_names_its_distribution_and_the_reason(distribution, source, value, reason):
    distribution("broken", {"router.broken": value}, {"broken_plugin": source})
    with pytest.raises(
        RegistryError, match=rf"router 'broken' of broken 1\.5 cannot be loaded from {value}: "
    ) as caught:
        registry.get("router", "broken")
    assert reason in str(caught.value)
    assert caught.value.__cause__ is not None
    sys.modules.pop("broken_plugin", None)


def test_an_entry_point_must_meet_the_contract(distribution):
    distribution("poor", {"router.poor": "poor_router:R"}, {"poor_router": "class R: pass"})
    with pytest.raises(RegistryError, match=r"poor_router:R is not a valid router .*forward\(x\)"):
        registry.get("router", "poor")


def test_malformed_entry_points_are_listed_with_the_problem_and_stop_nothing_else(distribution):
    distribution("odd", {"encodr.x": "m:C", "plain": "m:C", "router.odd": "m.C", "router.good": "m:C"})
    problems = {
        entry.location + entry.name: entry.problem for entry in registry.entries() if entry.source == "odd 1.5"
    }
    assert len(problems) == 4
    assert "odd 1.5 declares the entry point 'encodr.x': unknown kind 'encodr'; did you mean" in problems["m:Cx"]
    assert "unknown kind 'plain'" in problems["m:C"]
    assert "'m.C' is not <module>:<class>" in problems["m.Codd"]
    assert problems["m:Cgood"] == ""
    with pytest.raises(RegistryError, match=r"odd 1\.5 declares"):
        registry.get("router", "odd")
    assert registry.get("attention", "softmax").__name__ == "SoftmaxAttention"


def test_every_class_that_sigmel_declares_loads_and_meets_its_contract():
    ours = [entry for entry in registry.entries() if entry.source == f"sigmel {sigmel.__version__}"]
    assert {("encoder", "omni_router"), ("attention", "softmax")} <= {(entry.kind, entry.name) for entry in ours}
    for entry in ours:
        assert registry.get(entry.kind, entry.name).__name__ == entry.location.split(":")[1]


def test_the_errors_are_value_errors_of_sigmel():
    assert issubclass(RegistryError, sigmel.SigmelError)
    assert issubclass(sigmel.SigmelError, ValueError)


def test_importing_sigmel_and_listing_load_nothing_heavy():
    code = (
        "import sys, sigmel; from sigmel import registry; registry.entries()\n"
        "heavy = {'torch', 'numpy', 'nemo', 'lightning', 'hydra', 'espnet', 'espnet2', 'k2', 'triton', 'matplotlib'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_built_has_the_options_it_is_given():
    register("encoder", "mine")(Encoder)
    assert isinstance(registry.build("encoder", "mine", input_size=4, layers=3), Encoder)
    message = (
        r"encoder 'mine' \(@register\) has no option 'layer'; did you mean 'layers'\? There is input_size, layers"
    )
    with pytest.raises(RegistryError, match=message):
        registry.build("encoder", "mine", input_size=4, layer=3)


def test_a_missing_option_names_who_provides_the_class(distribution):
    source = "class Encoder:\n    input_size: int\n    subsampling_factor = 1\n"
    source += "    def __init__(self, input_size): ...\n    def forward(self, features, lengths): ...\n"
    source += "    def output_size(self): ...\n"
    distribution("theirs", {"encoder.theirs": "their_module:Encoder"}, {"their_module": source})
    with pytest.raises(RegistryError, match=r"encoder 'theirs' \(theirs 1\.5\) has no option 'width'"):
        registry.build("encoder", "theirs", input_size=4, width=3)
