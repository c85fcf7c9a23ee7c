"""The command sigmel: verbs, exit statuses, and what list and doctor say."""

import json
import os
import subprocess
import sys
import time

import pytest

import sigmel
from sigmel import cli, registry
from sigmel.cli import doctor
from sigmel.cli.table import table


def run(*arguments, **options):
    return subprocess.run([sys.executable, "-m", "sigmel.cli", *arguments], capture_output=True, text=True, **options)


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})


@pytest.fixture
def libraries(monkeypatch):
    """Replaces what doctor looks for, so that it imports nothing slow: libraries(name=(module, distribution))."""

    def replace(**found):
        monkeypatch.setattr(
            doctor,
            "LIBRARIES",
            {name: doctor.Library(*pair, "test", "pip install it") for name, pair in found.items()},
        )

    return replace


def test_list_takes_less_than_three_seconds_and_says_where_things_are():
    start = time.perf_counter()
    done = run("list")
    assert time.perf_counter() - start < 3
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "omni_router" in line]
    assert line.split() == [
        "encoder",
        "omni_router",
        "sigmel.models.encoder:OmniRouterEncoder",
        "sigmel",
        sigmel.__version__,
    ]


def test_list_does_not_import_what_it_lists():
    code = (
        "import sys; from sigmel import cli; cli.main(['list'])\n"
        "sys.exit(', '.join({'torch', 'numpy'} & set(sys.modules)) or 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_help_groups_the_verbs_and_imports_nothing_heavy():
    code = (
        "import sys; from sigmel import cli\n"
        "try: cli.main(['--help'])\n"
        "finally: assert not {'torch', 'numpy', 'nemo', 'espnet2'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    parts = [part.splitlines() for part in done.stdout.split("\n\n") if part.partition(":")[0] in cli.GROUPS]
    found = {group.rstrip(":"): [verb.split()[0] for verb in verbs] for group, *verbs in parts}
    assert found == {group: list(verbs) for group, verbs in cli.GROUPS.items()}


def test_list_of_a_kind_as_json(capsys):
    assert cli.main(["list", "encoder", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["kind"] for row in rows} == {"encoder"}
    assert "omni_router" in {row["name"] for row in rows}


def test_list_reports_what_cannot_be_used(capsys, monkeypatch):
    broken = registry.Entry("router", "x", "m:C", "acme 1", "router 'x' is claimed twice")
    monkeypatch.setattr(registry, "entries", lambda: [broken])
    assert cli.main(["list"]) == 1
    captured = capsys.readouterr()
    assert "m:C" in captured.out
    assert captured.err == "error: router 'x' is claimed twice\n"


def test_an_error_of_the_user_is_one_line_and_status_2(capsys):
    assert cli.main(["list", "encodr"]) == 2
    assert capsys.readouterr().err.startswith("error: unknown kind 'encodr'; did you mean 'encoder'")


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), 130), (FileNotFoundError(2, "gone", "x"), 2)])
def test_interrupts_and_missing_files_have_a_status_and_no_traceback(monkeypatch, capsys, error, status):
    def fail(arguments):
        raise error

    monkeypatch.setattr("sigmel.cli.list.run", fail)
    assert cli.main(["list"]) == status
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr("sigmel.cli.list.run", lambda arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["list"])


def test_a_closed_pipe_is_no_error():
    done = subprocess.run(f"{sys.executable} -m sigmel.cli list | true", shell=True, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


@pytest.mark.parametrize("verb", list(cli.VERBS))
def test_every_verb_has_help(verb, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([verb, "--help"])
    assert caught.value.code == 0
    assert cli.VERBS[verb].split()[0] in capsys.readouterr().out


def test_version_and_unknown_verbs(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"{sigmel.__version__}\n"
    for arguments in ([], ["nope"], ["--", "list"]):
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        assert caught.value.code == 2


def test_doctor_is_content_with_what_works(libraries, capsys):
    libraries(numpy=("numpy", "numpy"), absent=("no_such", "no-such-distribution"))
    assert cli.main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {row["name"]: row["state"] for row in report["libraries"]} == {"numpy": "ok", "absent": "not installed"}
    assert report["problems"] == []
    assert report["sigmel"] == sigmel.__version__
    assert report["torch"].startswith(sys.modules["torch"].__version__)
    assert report["kernels"]["experts"]["cpu"] == "cpu"


def test_doctor_says_that_there_is_no_compiler(libraries, capsys, monkeypatch, tmp_path):
    libraries(numpy=("numpy", "numpy"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "/nowhere/c++")
    assert cli.main(["doctor", "--json"]) == 0
    kernels = json.loads(capsys.readouterr().out)["kernels"]
    assert kernels["experts"]["cpu"].startswith("reference: cpu.cpp cannot be compiled: ")


def test_doctor_fails_when_something_required_is_missing(libraries, capsys):
    libraries(absent=("no_such", "no-such-distribution"))
    assert cli.main(["doctor", "--require", "absent"]) == 1
    assert "problem: absent is not installed: pip install it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise OSError('libfoo.so: not found')", "OSError: libfoo.so: not found"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "killed by SIGSEGV while it was imported"),
        ("raise SystemExit(3)", "exited with status 3 while it was imported"),
        ("import time; time.sleep(60)", "took more than 1 s to import"),
    ],
)
def test_doctor_says_why_an_installed_library_is_broken(libraries, capsys, monkeypatch, tmp_path, source, reason):
    (tmp_path / "broken_library.py").write_text(source)
    info = tmp_path / "broken_library-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-library\nVersion: 2.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    libraries(broken=("broken_library", "broken-library"))
    if "sleep" in source:
        monkeypatch.setattr(doctor, "IMPORT_SECONDS", 1)
        monkeypatch.setattr(doctor, "_torch_facts", lambda: ("2.13.0 (CPU build)", []))
        monkeypatch.setattr(doctor, "_plugin_problems", lambda: [])
    assert cli.main(["doctor"]) == 1
    output = capsys.readouterr().out
    assert f"problem: broken is broken: {reason}" in output
    assert "2.0" in output


def test_doctor_reports_plugins_that_do_not_load(libraries, capsys, monkeypatch, tmp_path):
    info = tmp_path / "acme-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[sigmel.plugins]\nencoder.acme = no_such_module:R\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    libraries()
    assert cli.main(["doctor"]) == 1
    assert "problem: encoder 'acme' of acme 1 cannot be loaded from no_such_module:R" in capsys.readouterr().out


def test_doctor_does_not_know_every_name(capsys):
    assert cli.main(["doctor", "--require", "nemoo"]) == 2
    assert "--require nemoo: there is no such name; did you mean 'nemo'?" in capsys.readouterr().err


def test_table_aligns_wide_and_combining_characters():
    lines = table(("a", "b"), [("語", "x"), ("e\u0301", "y")]).splitlines()
    assert lines == ["a   b", "--  -", "語  x", "e\u0301   y"]


def test_output_that_the_terminal_cannot_encode_does_not_fail():
    code = (
        "from sigmel import cli; from sigmel.cli import list as verb\n"
        "verb.run = lambda args: print('語 \\u2192') or 0\n"
        "raise SystemExit(cli.main(['list']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    )
    assert done.returncode == 0, done.stderr
    assert b"\\u8a9e \\u2192" in done.stdout
