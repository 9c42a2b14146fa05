"""docs/scaling.md has the numbers that benchmarks/scaling.py computes from its inputs."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from keras_cnns.models import build, cost

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "scaling.py"
PAGE = (ROOT / "docs" / "scaling.md").read_text("utf-8")
INPUTS = json.loads((ROOT / "benchmarks" / "scaling_inputs.json").read_text("utf-8"))
NAMES: dict[str, Any] = runpy.run_path(str(SCRIPT))


def test_the_pages_tables_are_those_of_the_script() -> None:
    tables = NAMES["tables"](INPUTS)
    found = re.findall(r"^<!-- table: (\w+) -->\n\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    assert {name: text.rstrip("\n") for name, text in found} == tables


def test_the_counts_are_those_of_the_models() -> None:
    counted = cost(build("resnet20"))
    assert INPUTS["models"]["resnet20"] == {
        "parameters": counted.parameters,
        "multiply_adds": counted.multiply_adds,
    }


def test_the_measured_inputs_are_those_of_the_benchmarks_page() -> None:
    benchmarks = (ROOT / "benchmarks" / "README.md").read_text("utf-8")
    for step in INPUTS["steps"]:
        if step["unit"] == "core":
            row = f"| {step['name'].split(',')[0]}, {step['precision']} "
            (line,) = [line for line in benchmarks.splitlines() if line.startswith(row)]
            assert float(line.split("|")[2].replace(",", "")) == step["images_per_second"]


def test_the_formulas_have_their_known_values() -> None:
    ring, efficiency = NAMES["ring_seconds"], NAMES["efficiency"]
    assert ring(1e9, 1, 8) == 0
    assert ring(1e9, 2, 8) == pytest.approx(1.0)  # each of two sends half of it twice
    assert ring(1e9, 4, 8, latency=0.1) == pytest.approx(1.5 + 0.6)
    assert efficiency(1.0, 1.0, 0) == 0.5
    assert efficiency(1.0, 1.0, 1) == 1.0
    assert efficiency(1.0, 4.0, 1) == 0.25
    speed = NAMES["needed_gbit"](1e9, 1.0, 0.9)
    assert efficiency(1.0, ring(1e9, 10**9, speed), 0) == pytest.approx(0.9)


def test_the_prediction_encloses_the_measurement_of_goyal_et_al() -> None:
    found = NAMES["goyal"](INPUTS)
    assert found["low"] < found["measured"] < found["high"]
    assert f"{found['measured']:.1f}" == "0.9"
    in_62_minutes = 29 / (62 / 60) / 32
    assert f"if it were 62 minutes, the efficiency would be {in_62_minutes:.3f}" in PAGE


def test_a_price_makes_costs_of_hours() -> None:
    command = [sys.executable, str(SCRIPT), "--quick", "--core-hour-price", "0.5"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "| ResNet-20, float32 | 1,000 | 0.542 ms | 0.8 | 19 | 9.30 |" in text
    assert "hours times your price" in text  # that of a GPU is still unknown
