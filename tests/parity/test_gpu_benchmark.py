"""benchmarks/gpu.py needs keras, jax, numpy and what these require, and says if there is no GPU."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# Import the script, train and predict where every other distribution seems not to be installed.
ALONE = """
import importlib.metadata as metadata, runpy, sys
from packaging.requirements import Requirement

allowed, open_names = set(), ["keras", "jax", "numpy"]
while open_names:
    name = open_names.pop().lower().replace("_", "-")
    if name not in allowed:
        allowed.add(name)
        requirements = map(Requirement, metadata.distribution(name).requires or ())
        open_names += [r.name for r in requirements if not r.marker or r.marker.evaluate()]
hidden = {
    module
    for module, names in metadata.packages_distributions().items()
    if not {name.lower().replace("_", "-") for name in names} & allowed
} - {"keras_cnns", "keras_cnns_export", "keras_cnns_serve"}
assert {"torch", "safetensors", "pydantic"} <= hidden

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {*hidden, "tensorflow"}:
            raise ModuleNotFoundError(f"{name} is hidden", name=name)

sys.meta_path.insert(0, Hide())
script = runpy.run_path("gpu.py")
load = script["Load"](batch_size=2, size=32, matrix=8, steps=2)
for name in ("jax_matrix", "jax_inference", "jax_training"):
    script[name](load)()
assert "tensorflow" not in sys.modules
print("alone")
"""
ENVIRONMENT = {**os.environ, "KERAS_BACKEND": "jax"}


def test_our_side_needs_keras_jax_and_numpy_alone() -> None:
    command = [sys.executable, "-c", ALONE]
    ended = subprocess.run(
        command, cwd=BENCHMARKS, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert ended.stdout.strip() == "alone", ended.stderr


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    command = [sys.executable, "gpu.py"]
    ended = subprocess.run(
        command, cwd=BENCHMARKS, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert "There is no GPU" in ended.stdout
