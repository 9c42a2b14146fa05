"""The parts of the demo; `make demo` runs all of it."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_cnns import demo


def test_the_run_of_an_earlier_demo_is_kept(tmp_path: Path) -> None:
    for expected in ("net", "net-2", "net-3"):
        path = demo.next_free(tmp_path / "net")
        assert path.name == expected
        path.mkdir()


def test_the_printed_command_runs_where_the_demo_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Path(sys.executable).with_name("keras-cnns")
    relative = os.path.relpath(script)
    monkeypatch.setenv("PATH", "/nowhere")
    for called, expected in (
        (relative, relative),
        (demo.__file__, f"{sys.executable} -m keras_cnns.cli"),
    ):
        monkeypatch.setattr(sys, "argv", [called, "demo"])
        assert demo.program() == expected
    monkeypatch.setenv("PATH", str(script.parent))
    monkeypatch.setattr(sys, "argv", [str(script), "demo"])
    assert demo.program() == "keras-cnns"


def test_the_held_out_image_comes_from_the_test_split(tmp_path: Path) -> None:
    path, label = demo.write_held_out_image(tmp_path / "digit.png")
    assert np.asarray(Image.open(path)).shape == (32, 32)
    assert label in "0123456789"


def test_a_failed_command_ends_the_demo() -> None:
    with pytest.raises(RuntimeError, match="`keras-cnns evaluate` failed with status 1"):
        demo.command("evaluate", "no/such/run")


def test_a_server_that_does_not_start_ends_the_demo(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="ended before it was ready"), demo.serving(tmp_path):
        pass
