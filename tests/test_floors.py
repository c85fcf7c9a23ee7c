"""The floors of the house (docs/architecture.md): who may import whom, read from the source."""

import ast
import itertools
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "plugin" / "sigmel"
# From the ground up. Rooms of a floor may import each other in one direction, which `test_no_circles` holds.
FLOORS = [
    {"errors"},
    {"registry", "flat_options", "files"},
    {"ops"},
    {"layers"},
    {"features"},
    {"models", "tokens"},
    {"decoding", "losses"},
    {"routing_study", "scoring", "checkpoints"},
    {"hosts"},
    {"recipes"},
    {"cli"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
HOSTS = {"espnet", "espnet2", "espnet3", "espnetez", "nemo", "lightning", "hydra"}
# Imported where they are used and nowhere else, so that no start of Python pays for them.
LAZY = {*HOSTS, "k2", "triton", "transformers", "matplotlib", "kaldialign"}


def module_name(path: Path) -> str:
    parts = ("sigmel", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(name: str, *, only_at_start: bool = False) -> set[str]:
    """The modules that a module imports, of ours by their full name; `only_at_start`: not those inside functions."""
    found = set()
    todo = list(ast.parse(MODULES[name].read_text(encoding="utf-8")).body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in MODULES else node.module or "")
        elif only_at_start and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        elif only_at_start and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo += node.orelse
            continue
        todo += ast.iter_child_nodes(node)
    return found


def room_of(name: str) -> str:
    """The folder, or the file, of the package that a module lies in; empty for the package itself."""
    return [*name.split("."), ""][1]


def outside_package(name: str, *, only_at_start: bool) -> set[str]:
    return {found.split(".")[0] for found in imports(name, only_at_start=only_at_start)}


def test_every_room_has_a_floor():
    rooms = {room_of(name) for name in MODULES} - {"", "conf"}
    assert rooms == set(FLOOR)


@pytest.mark.parametrize("name", [name for name in MODULES if room_of(name) in FLOOR])
def test_no_arrow_runs_upward(name):
    above = {
        found
        for found in imports(name)
        if found.startswith("sigmel.") and FLOOR.get(room_of(found), -1) > FLOOR[room_of(name)]
    }
    assert not above


@pytest.mark.parametrize("depth", [2, 3, 9], ids=["rooms", "wings", "modules"])
def test_no_circles(depth):
    def place(name):
        return ".".join(name.split(".")[:depth])

    arrows = {
        (place(name), place(found))
        for name in MODULES
        for found in imports(name, only_at_start=depth > 2) & MODULES.keys()
        if place(name) != place(found) and found != "sigmel" != name
    }
    while True:  # take away who imports nobody, and whom nobody imports, until those are left who import each other
        starts, ends = {one for one, _ in arrows}, {other for _, other in arrows}
        left = {(one, other) for one, other in arrows if one in ends and other in starts}
        if left == arrows:
            break
        arrows = left
    assert not arrows


def test_only_hosts_and_recipes_import_a_host():
    found = {
        name: hosts
        for name in MODULES
        if room_of(name) not in ("hosts", "recipes") and (hosts := outside_package(name, only_at_start=False) & HOSTS)
    }
    assert not found


def test_what_is_heavy_is_imported_where_it_is_used():
    found = {
        name: heavy
        for name in MODULES
        if room_of(name) not in ("hosts", "recipes")
        and not name.startswith(("sigmel.ops.",))
        and (heavy := outside_package(name, only_at_start=True) & LAZY)
    }
    assert not found


def test_a_host_does_not_import_the_other():
    for one, other in itertools.permutations(("nemo", "espnet")):
        for name in MODULES:
            if name.startswith((f"sigmel.hosts.{one}", f"sigmel.recipes.{one}")):
                assert not any(
                    found.startswith((f"sigmel.hosts.{other}", f"sigmel.recipes.{other}")) for found in imports(name)
                ), name


def test_every_file_can_be_read_in_one_go():
    root = PACKAGE.parents[1]
    suffixes = {".py", ".sh", ".cpp", ".h", ".yaml"}
    files = [path for room in ("plugin", "egs", "benchmarks", ".ci", "tests") for path in (root / room).rglob("*.*")]
    lengths = {path: len(path.read_text().splitlines()) for path in files if path.suffix in suffixes}
    assert lengths
    assert not {str(path): length for path, length in lengths.items() if length > 450}
