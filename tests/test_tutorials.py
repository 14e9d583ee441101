"""The tutorials run, their notebooks are theirs, and their numbers are recorded."""

from __future__ import annotations

import base64
import csv
import importlib.util
import json
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "experiments" / "tutorials"
SCRIPTS = sorted(FOLDER.glob("[0-9][0-9]_*.py"))
NAMES = [script.stem for script in SCRIPTS]
by_script = pytest.mark.parametrize("script", SCRIPTS, ids=NAMES)


@pytest.fixture(scope="module")
def build() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("tutorials_build", FOLDER / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def helpers() -> Iterator[None]:
    """Let the tutorials find ``toys`` and ``robot``, with the fast settings, loaded once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        patch.setenv("GENPOLICY_TUTORIALS", "fast")
        patch.delenv("GENPOLICY_TUTORIALS_CSV", raising=False)
        yield
        for name in ("toys", "robot"):
            sys.modules.pop(name, None)


def notebook(script: Path) -> dict[str, Any]:
    return json.loads(script.with_suffix(".ipynb").read_text(encoding="utf-8"))


def numbers() -> list[dict[str, str]]:
    with open(FOLDER / "results.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_there_is_one_for_every_operator():
    text = "".join(script.read_text(encoding="utf-8") for script in SCRIPTS)
    operators = ("mean", "product", "rl_guidance", "negation", "conjunction", "mixture")
    operators += ("superpose_and", "with_cost", "part", "endpoint_mean", "diagnose", "explain")
    for name in operators:
        assert f"compose.{name}(" in text, name
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name in NAMES:
        assert f"({name}.ipynb)" in readme


@by_script
def test_it_runs_and_its_numbers_hold(script, helpers, capsys):
    runpy.run_path(str(script), run_name="__main__")
    printed = capsys.readouterr().out
    recorded = {row["quantity"] for row in numbers() if row["tutorial"] == script.stem}
    checked = {line[:46].strip() for line in printed.splitlines() if "   expected " in line}
    assert checked == recorded - pusht_numbers(printed)


def pusht_numbers(printed: str) -> set[str]:
    """Quantities that are not checked where the simulator is missing."""
    missing = "Push-T is left out" in printed
    return {"scale 0 on Push-T", "a policy with itself: pixels apart"} if missing else set()


@by_script
def test_its_notebook_has_its_cells_and_was_executed(script, build):
    found = notebook(script)
    cells = [build.Cell(cell["cell_type"], "".join(cell["source"])) for cell in found["cells"]]
    assert cells == build.cells_of(script)
    code = [cell for cell in found["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    pictures = [
        output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})
    ]
    assert pictures
    assert all(base64.b64decode(picture)[:4] == b"\x89PNG" for picture in pictures)
    assert script.with_suffix(".ipynb").stat().st_size <= build.LARGEST
    words = json.dumps(outputs)
    assert "Traceback" not in words
    assert str(FOLDER) not in words


def test_every_recorded_number_is_within_its_tolerance():
    rows = numbers()
    assert {row["tutorial"] for row in rows} == set(NAMES)
    assert len({(row["tutorial"], row["quantity"]) for row in rows}) == len(rows)
    for row in rows:
        measured, expected, tolerance = (
            float(row[name]) for name in ("measured", "expected", "tolerance")
        )
        assert abs(measured - expected) <= tolerance + 1e-4, row


def test_cells_are_read_from_percent_format(build, tmp_path):
    script = tmp_path / "00_x.py"
    script.write_text("# %% [markdown]\n# # T\n#\n# text\n\n# %%\nx = 1\n\n\n# %%\nx\n")
    assert build.cells_of(script) == [
        build.Cell("markdown", "# T\n\ntext"),
        build.Cell("code", "x = 1"),
        build.Cell("code", "x"),
    ]
    made = build.notebook_of(script)
    assert [cell["cell_type"] for cell in made["cells"]] == ["markdown", "code", "code"]
    for text, message in (("x = 1\n", "start a cell"), ("# %% [markdown]\nx = 1\n", "no comment")):
        script.write_text(text)
        with pytest.raises(ValueError, match=message):
            build.cells_of(script)


def test_a_number_outside_its_tolerance_fails(helpers):
    import toys

    with pytest.raises(AssertionError, match="is not within"):
        toys.check("wrong", 1.0, 2.0, 0.5)
