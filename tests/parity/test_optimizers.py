"""The optimizers on Keras' torch backend, and beside torch's own SGD."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch

from keras_cnns.optimizers import Momentum

ROOT = Path(__file__).parents[2]
OPTIMIZERS = ROOT / "tests/keras_cnns/optimizers"


def test_on_torch_as_on_every_backend() -> None:
    files = [OPTIMIZERS / f"test_{name}.py" for name in ("momentum", "lars", "contract", "state")]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "--noconftest", "--quiet", *map(str, files)],
        env={**os.environ, "KERAS_BACKEND": "torch"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-2000:]
    assert "skipped" not in result.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "dampening": 0.3},
        {"momentum": 0.9, "nesterov": True},
        {"momentum": 0.9, "weight_decay": 0.01},
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_it_is_torch_sgd_where_gradients_depend_on_weights(options: dict[str, Any]) -> None:
    generator = np.random.default_rng(0)
    start, data = generator.normal(size=(4, 3)), generator.normal(size=(50, 8, 4))
    theirs = torch.nn.Parameter(torch.tensor(start, dtype=torch.float32))
    reference = torch.optim.SGD([theirs], lr=0.05, **options)
    weight = keras.Variable(start, dtype="float32", name="kernel")
    ours = Momentum(0.05, **{"momentum": 0.0, **options})
    for step, batch in enumerate(data):
        rate = 0.05 * 0.95**step
        x = torch.tensor(batch, dtype=torch.float32)
        reference.param_groups[0]["lr"] = rate
        reference.zero_grad()
        ((x @ theirs) ** 2).mean().backward()
        reference.step()
        value = torch.tensor(weight.numpy(), requires_grad=True)
        (gradient,) = torch.autograd.grad(((x @ value) ** 2).mean(), value)
        ours.learning_rate = rate
        ours.apply([keras.ops.convert_to_tensor(gradient.numpy())], [weight])
        np.testing.assert_allclose(
            weight.numpy(), theirs.detach().numpy(), rtol=1e-5, atol=1e-6, err_msg=str(step)
        )


def test_the_golden_file_is_what_torch_says_today() -> None:
    script = OPTIMIZERS / "make_golden_torch_sgd.py"
    golden = OPTIMIZERS / "golden_torch_sgd.json"
    namespace: dict[str, Any] = {"__file__": str(script), "__name__": "make_golden_torch_sgd"}
    exec(compile(script.read_text("utf-8"), str(script), "exec"), namespace)
    import json

    made, kept = namespace["golden"](), json.loads(golden.read_text("utf-8"))
    assert len(made["cases"]) == len(kept["cases"])
    for one, other in zip(made["cases"], kept["cases"], strict=True):
        np.testing.assert_allclose(one.pop("weights"), other.pop("weights"), rtol=1e-6, atol=1e-7)
        assert one == other
