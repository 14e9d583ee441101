"""What can happen to a run from outside: signals, kills in a save, full disks, odd names."""

import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from genpolicy.cli import main as main_module
from genpolicy.errors import CheckpointError, RunStoppedError, UsageError
from genpolicy.files import sha256_of
from genpolicy.policies import load_policy, read_card, weights
from genpolicy.training import resume, state_io, train
from genpolicy.training.run_folder import RunFolder

FILES = ("last/ema.safetensors", "last/raw.safetensors", "metrics.jsonl")


def _digests(run):
    return [sha256_of(run / name) for name in FILES]


def _forked(action, stderr=None):
    """Start ``action`` in a copy of this process; its exit code is what the action returns."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            if stderr is not None:
                os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT), 2)
                sys.stderr = os.fdopen(2, "w")
            code = action()
            sys.stderr.flush()
        finally:
            os._exit(code)
    return pid


def _train(config):
    """Train as the command line does, with its exit codes and messages."""
    main_module._dispatch = lambda _: train(config, progress=False) and 0
    return main_module.main(["train"])


def test_sigterm_saves_the_state_exits_with_143_and_the_run_continues_as_if_never_stopped(
    tiny_config, tmp_path
):
    overrides = ["trainer.max_steps=150", "save.every=150"]
    whole = train(tiny_config(*overrides, run="whole"), progress=False)
    config = tiny_config(*overrides, run="stopped")
    pid = _forked(lambda: _train(config), stderr=tmp_path / "err")
    run = RunFolder(config["run_dir"])
    while sum(1 for _ in run.read_metrics()) < 5:
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
        time.sleep(0.005)
    os.kill(pid, signal.SIGTERM)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    err = (tmp_path / "err").read_text()
    assert code == 143, err
    state = run.latest_state()
    assert state is not None
    assert 5 <= int(state.name.removeprefix("step-")) < 150
    assert f"resume={run.path}" in err
    assert "Traceback" not in err
    assert _digests(resume(run.path, progress=False)) == _digests(whole)


def test_a_run_stops_at_its_deadline_and_continues_exactly(tiny_config):
    whole = train(tiny_config(run="whole"), progress=False)
    config = tiny_config(run="late")
    with pytest.raises(RunStoppedError, match="its deadline after step 1"):
        train(config, progress=False, deadline=time.time() - 1)
    with pytest.raises(RunStoppedError, match="after step 2"):
        resume(config["run_dir"], progress=False, deadline=time.time() - 1)
    assert _digests(resume(config["run_dir"], progress=False)) == _digests(whole)
    assert RunFolder(config["run_dir"]).is_finished()


@pytest.mark.parametrize("at", ["policy", "state"])
def test_a_kill_while_a_checkpoint_is_written_keeps_the_one_before(tiny_config, monkeypatch, at):
    whole = train(tiny_config(run="whole"), progress=False)
    config = tiny_config(run="killed")
    module = {"policy": weights, "state": state_io}[at]
    real = module.save_file

    def dies(tensors, path):
        real(tensors, path)
        if "step-00000004" in str(path):
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(module, "save_file", dies)
    pid = _forked(lambda: _train(config))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    monkeypatch.undo()
    run = Path(config["run_dir"])
    assert list(run.rglob(".staging-*"))
    assert read_card(run).training["step"] == {"policy": 2, "state": 4}[at]
    state = RunFolder(run).latest_state()
    assert state is not None
    assert state.name == "step-00000002"
    load_policy(run)
    assert _digests(resume(run, progress=False)) == _digests(whole)
    assert not list(run.rglob(".staging-*"))


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
    ],
    ids=["python", "safetensors"],
)
def test_a_full_disk_is_named_with_what_it_needs_and_the_save_before_stays(
    tiny_config, monkeypatch, error
):
    whole = train(tiny_config(run="whole"), progress=False)
    config = tiny_config(run="full")
    real = state_io.save_file

    def full(tensors, path):
        if "step-00000004" in str(path):
            raise error
        real(tensors, path)

    monkeypatch.setattr(state_io, "save_file", full)
    with pytest.raises(CheckpointError, match=r"No space left.*needs about .* MB.*resume="):
        train(config, progress=False)
    monkeypatch.undo()
    run = Path(config["run_dir"])
    load_policy(run)
    state = RunFolder(run).latest_state()
    assert state is not None
    assert state.name == "step-00000002"
    assert _digests(resume(run, progress=False)) == _digests(whole)


def test_a_folder_that_cannot_be_written_is_a_usage_error(tiny_config, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    config = tiny_config() | {"run_dir": str(tmp_path / "file" / "run")}
    with pytest.raises(UsageError, match="cannot be written"):
        train(config, progress=False)
    if os.geteuid() != 0:
        sealed = tmp_path / "sealed"
        sealed.mkdir(mode=0o500)
        with pytest.raises(UsageError, match="Permission denied"):
            train(config | {"run_dir": str(sealed / "run")}, progress=False)
    assert main_module.main(["sweep", "task=maze2d-umaze", f"out={tmp_path / 'file' / 's'}"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_temporary_names_are_in_the_folder_they_are_for(tiny_config, monkeypatch):
    """Also where the system's folder of temporary files is on another file system, or gone."""
    monkeypatch.setenv("TMPDIR", "/nowhere")
    renamed = []
    real = os.rename
    monkeypatch.setattr(os, "rename", lambda a, b: (renamed.append((a, b)), real(a, b)))
    train(tiny_config("trainer.max_steps=2"), progress=False)
    assert renamed
    assert all(Path(a).parent == Path(b).parent for a, b in renamed)


def test_without_a_network_wandb_logs_offline_and_training_is_the_same(tiny_config, monkeypatch):
    plain = train(tiny_config(run="plain"), progress=False)
    made = []

    class UnreachableError(Exception):
        pass

    class FakeLogger(torch.nn.Identity):
        def __new__(cls, **settings):
            from lightning.pytorch.loggers import CSVLogger

            made.append(settings)
            logger = CSVLogger(settings["save_dir"])
            if not settings.get("offline"):

                class Online(CSVLogger):
                    @property
                    def experiment(self):
                        raise UnreachableError("no route to host")

                logger = Online(settings["save_dir"])
            return logger

    wandb = types.ModuleType("wandb")
    wandb.errors = types.ModuleType("wandb.errors")
    wandb.errors.Error = UnreachableError
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "wandb.errors", wandb.errors)
    monkeypatch.setattr("lightning.pytorch.loggers.WandbLogger", FakeLogger)
    config = tiny_config("logger=wandb", "logger.tensorboard=false", run="logged")
    with pytest.warns(UserWarning, match=r"cannot be reached .*no route to host.*wandb sync"):
        run = train(config, progress=False)
    assert [bool(settings.get("offline")) for settings in made] == [False, True]
    assert _digests(run) == _digests(plain)


def test_the_c_locale_and_names_with_spaces_and_other_letters(tiny_config, tiny_maze, tmp_path):
    odd = tmp_path / "größe und Übung λ"
    odd.mkdir()
    data = odd / "maze data.hdf5"
    data.write_bytes(Path(tiny_maze).read_bytes())
    config = tiny_config("trainer.max_steps=2")
    config["data"]["path"] = str(data)
    config["run_dir"] = str(odd / "run 1")
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "PYTHON"))}
    env = plain | {"LC_ALL": "C"}
    code = "import json, sys; from genpolicy.training import train; "
    code += "print(train(json.loads(sys.argv[1])))"
    command = [sys.executable, "-c", code, json.dumps(config)]
    done = subprocess.run(command, env=env, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert RunFolder(resume(odd / "run 1", progress=False)).is_finished()
    load_policy(odd / "run 1")
