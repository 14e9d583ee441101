"""The command's shell: dispatch, help, errors and exit codes."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import types

import pytest

import genpolicy
from genpolicy import errors
from genpolicy.cli.main import COMMANDS, main


def install_command(monkeypatch, name, run):
    """Replace the module of one subcommand by a fake with ``run``."""
    module = types.ModuleType(f"genpolicy.cli.{name}")
    module.HELP = f"usage: genpolicy {name}\n"
    module.run = run
    monkeypatch.setitem(sys.modules, module.__name__, module)


def raising(error):
    def run(argv):
        raise error

    return run


@pytest.mark.parametrize("argv", [["--help"], ["-h"], ["help"]])
def test_help_names_every_command(argv, capsys):
    assert main(argv) == 0
    out = capsys.readouterr().out
    for name, line in COMMANDS.items():
        assert name in out
        assert line in out


def test_no_arguments_print_help_on_stderr_and_exit_2(capsys):
    assert main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "commands:" in captured.err


@pytest.mark.parametrize("argv", [["version"], ["--version"], ["-V"]])
def test_version(argv, capsys):
    assert main(argv) == 0
    assert capsys.readouterr().out == f"genpolicy {genpolicy.__version__}\n"


def test_unknown_command_suggests_the_nearest(capsys):
    assert main(["evalute"]) == 2
    err = capsys.readouterr().err
    assert "unknown command 'evalute'" in err
    assert "'evaluate'" in err


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "version"])
def test_every_command_has_help_with_an_example(name, capsys):
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: genpolicy {name}")
    assert out.endswith("\n")
    assert main(["help", name]) == 0
    assert capsys.readouterr().out == out


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "version"])
def test_every_command_follows_the_convention(name):
    module = importlib.import_module(f"genpolicy.cli.{name}")
    assert set(module.__all__) >= {"HELP", "run"}


def test_arguments_and_exit_code_pass_through(monkeypatch):
    seen = []
    install_command(monkeypatch, "train", lambda argv: seen.append(argv) or 9)
    assert main(["train", "a=1", "--show"]) == 9
    assert seen == [["a=1", "--show"]]


@pytest.mark.parametrize(
    "error", [getattr(errors, name) for name in errors.__all__ if name.endswith("Error")]
)
def test_expected_errors_give_their_message_and_code_without_traceback(error, monkeypatch, capsys):
    monkeypatch.delenv("GENPOLICY_DEBUG", raising=False)
    install_command(monkeypatch, "train", raising(error("got 3, expected 4")))
    assert main(["train"]) == error.exit_code != 0
    captured = capsys.readouterr()
    assert captured.err == "genpolicy: error: got 3, expected 4\n"
    assert captured.out == ""


def test_debug_brings_the_traceback_back(monkeypatch, capsys):
    monkeypatch.setenv("GENPOLICY_DEBUG", "1")
    install_command(monkeypatch, "train", raising(errors.DataError("file is cut short")))
    assert main(["train"]) == 3
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("genpolicy: error: file is cut short\n")


def test_interrupt_gives_130(monkeypatch, capsys):
    monkeypatch.delenv("GENPOLICY_DEBUG", raising=False)
    install_command(monkeypatch, "train", raising(KeyboardInterrupt()))
    assert main(["train"]) == 130
    assert capsys.readouterr().err == "genpolicy: interrupted\n"


def test_unexpected_errors_are_not_hidden(monkeypatch):
    install_command(monkeypatch, "train", raising(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        main(["train"])


def test_python_m_genpolicy_is_the_command_and_a_closed_pipe_is_quiet():
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "genpolicy", "version"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"genpolicy {genpolicy.__version__}\n"

    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "genpolicy", "--help"],
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == ""
