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
WORDS = " ".join(PAGE.split())
INPUTS = json.loads((ROOT / "benchmarks" / "scaling_inputs.json").read_text("utf-8"))
NAMES: dict[str, Any] = runpy.run_path(str(SCRIPT))


def test_the_pages_tables_are_those_of_the_script() -> None:
    tables = NAMES["tables"](INPUTS)
    found = re.findall(r"^<!-- table: (\w+) -->\n\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    assert {name: text.rstrip("\n") for name, text in found} == tables


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot read the inputs {}: No such file"), ("{", "the inputs {} are not JSON: ")],
)
def test_inputs_that_cannot_be_read_are_named(
    content: str | None,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "inputs.json"
    if content is not None:
        path.write_text(content)
    monkeypatch.setattr("sys.argv", [str(SCRIPT), "--inputs", str(path)])
    with pytest.raises(SystemExit):
        NAMES["main"]()
    assert message.format(path) in capsys.readouterr().err


def test_the_counts_are_those_of_the_models() -> None:
    counted = cost(build("resnet20"))
    assert INPUTS["models"]["resnet20"] == {
        "parameters": counted.parameters,
        "multiply_adds": counted.multiply_adds,
    }


def cells(text: str, row: str) -> list[str]:
    """Return the cells of the row of a table whose first cell begins like this."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {row}")]
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_the_measured_inputs_are_those_of_the_benchmarks_page() -> None:
    benchmarks = (ROOT / "benchmarks" / "README.md").read_text("utf-8")
    for step in INPUTS["steps"]:
        if step["unit"] == "core":
            row = cells(benchmarks, f"{step['name'].split(',')[0]}, {step['precision']} ")
            assert float(row[1].replace(",", "")) == step["images_per_second"]
    serving = benchmarks[benchmarks.index("## Serving") :]
    small, large = (
        serving.index("| ResNet-20, JPEG: 1"),
        serving.index("| ResNet-50, photograph: 1"),
    )
    found = {
        "ResNet-20": cells(serving[small:large], "64 ")[1],
        "ResNet-50": cells(serving[large : serving.index("| 8, over gRPC")], "8 ")[1],
    }
    inference = benchmarks[benchmarks.index("## Inference") :]
    for column, (name, served) in zip((1, 3), INPUTS["serving"].items(), strict=True):
        assert float(found[name].replace(",", "")) == served["requests_per_second"]
        at_8 = {
            format_: float(cells(inference, row)[column].split("/")[1])
            for format_, row in (
                ("float32", "exported float32 ONNX"),
                ("bfloat16", "OpenVINO bfloat16"),
                ("int8", "OpenVINO int8"),
            )
        }
        for format_, speed_up in served["speed_up"].items():
            assert speed_up == pytest.approx(at_8[format_] / at_8["float32"], abs=5e-4)
    assert "103 microseconds in the event loop and 400 in the engine" in " ".join(
        benchmarks.split()
    )
    resnet20 = INPUTS["serving"]["ResNet-20"]
    total = resnet20["cores"] / resnet20["requests_per_second"]
    assert resnet20["other_core_seconds"] == pytest.approx(total - 400e-6, abs=1e-6)


def test_the_time_of_the_p100_is_derived_from_the_published_hours() -> None:
    (step,) = [each for each in INPUTS["steps"] if each["unit"] == "gpu"]
    paper = INPUTS["goyal"]
    images = paper["epochs"] * paper["images"]
    hours = 8 * paper["baseline_hours"]
    assert step["images_per_second"] == pytest.approx(images / hours / 3600, abs=5e-4)
    assert images == INPUTS["trainings"]["resnet50"]["images"]
    milliseconds = 1e3 * step["batch_size"] / step["images_per_second"]
    assert f"{milliseconds:.0f} ms for each step of {step['batch_size']} images on a GPU" in WORDS
    assert "derived and not measured" in WORDS


def test_the_numbers_in_the_text_are_those_of_the_inputs() -> None:
    cores, p100 = (
        next(each for each in INPUTS["steps"] if each["name"].startswith(name))
        for name in ("ResNet-50, float32, two CPU cores", "ResNet-50, float32, Tesla P100")
    )
    seconds = [each["batch_size"] / each["images_per_second"] for each in (cores, p100)]
    assert f"{seconds[0] / seconds[1]:.0f}" == "5"
    assert (
        f"The P100 computes a step of {p100['batch_size']} images in a fifth of the time that two "
        f"cores need for a step of {cores['batch_size']} images."
    ) in WORDS
    size = 4 * INPUTS["models"]["resnet50"]["parameters"]
    low = [
        [NAMES["efficiency"](each, NAMES["ring_seconds"](size, workers, 25), 0) for each in seconds]
        for workers in NAMES["WORKERS"]
    ]
    assert all(abs(of_cores - 0.95) < 0.03 > of_p100 - 0.9 for of_cores, of_p100 in low)
    link = INPUTS["links_gbit"]["NVLink-class, 2,400 Gbit/s"]
    assert f"{12 * 25} GB/s or {12 * 25 * 8:,} Gbit/s" in WORDS
    assert link == 12 * 25 * 8
    assert (
        f"the backward pass takes {1e3 * INPUTS['goyal']['backward_seconds']:.0f} ms, as the"
        in WORDS
    )
    assert (
        "With 256 workers, a latency of 20 microseconds would therefore add "
        f"{1e3 * 2 * 255 * 20e-6:.0f} ms" in WORDS
    )
    assert f"The utilisation is {INPUTS['utilisation']} here" in WORDS
    served = INPUTS["serving"]["ResNet-20"]
    assert f"{2e3 / served['requests_per_second']:.3f} ms, minus the 0.400 ms" in WORDS
    assert f"the same {1e3 * served['other_core_seconds']:g} ms for both models" in WORDS
    assert served["other_core_seconds"] == INPUTS["serving"]["ResNet-50"]["other_core_seconds"]


def test_the_formulas_have_their_known_values() -> None:
    ring, efficiency = NAMES["ring_seconds"], NAMES["efficiency"]
    assert ring(1e9, 1, 8) == 0
    assert ring(1e9, 2, 8) == pytest.approx(1.0)  # each of two devices sends half of the data twice
    assert ring(1e9, 4, 8, latency=0.1) == pytest.approx(1.5 + 0.6)
    assert efficiency(1.0, 1.0, 0) == 0.5
    assert efficiency(3.0, 2.0, NAMES["BACKWARD"]) == 1.0
    assert efficiency(3.0, 5.0, NAMES["BACKWARD"]) == 0.5
    speed = NAMES["needed_gbit"](1e9, 1.0, 0.9)
    assert efficiency(1.0, ring(1e9, 10**9, speed), 0) == pytest.approx(0.9)


def test_the_prediction_encloses_the_measurement_of_goyal_et_al() -> None:
    found = NAMES["goyal"](INPUTS)
    assert found["low"] < found["measured"] < found["high"]
    assert f"{found['measured']:.1f}" == "0.9"
    in_62_minutes = 29 / (62 / 60) / 32
    assert f"if it were 62 minutes, the efficiency would be {in_62_minutes:.3f}" in WORDS


def test_a_price_makes_costs_of_hours() -> None:
    command = [sys.executable, str(SCRIPT), "--quick", "--core-hour-price", "0.5"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "| ResNet-20, float32 | 1,000 | 0.542 ms | 0.8 | 19 | 9.30 |" in text
    assert "| 1 | 232 h | 232 GPU-hours |  |" in text  # the price of a GPU is still unknown
