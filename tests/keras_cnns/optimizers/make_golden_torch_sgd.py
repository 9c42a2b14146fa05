"""Write golden_torch_sgd.json: 50 steps of torch.optim.SGD in each of its modes.

    pip install torch==2.13.0 numpy
    python tests/keras_cnns/optimizers/make_golden_torch_sgd.py

The weights are three numbers. The gradients are drawn once and do not depend on the weights. The
learning rate falls to a tenth in the middle, which shows whether the velocity contains it.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

STEPS, KEPT = 50, (1, 2, 3, 10, 25, 26, 27, 30, 40, 50)
RATES = [0.1] * 25 + [0.01] * 25
CASES: list[dict[str, Any]] = [
    {"momentum": momentum, "dampening": dampening, "nesterov": nesterov, "weight_decay": decay}
    for momentum in (0.0, 0.5, 0.9)
    for dampening in (0.0, 0.1, 0.5)
    for nesterov in (False, True)
    for decay in (0.0, 0.01, 0.1)
    # torch refuses nesterov with dampening, and ignores dampening without momentum.
    if not (dampening and (nesterov or not momentum)) and not (nesterov and not momentum)
]


def trajectory(start: np.ndarray, gradients: np.ndarray, **options: Any) -> list[list[float]]:
    weight = torch.nn.Parameter(torch.tensor(start))
    optimizer = torch.optim.SGD([weight], lr=RATES[0], **options)
    weights = []
    for rate, gradient in zip(RATES, gradients, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        weight.grad = torch.tensor(gradient)
        optimizer.step()
        weights.append([float(str(np.float32(x))) for x in weight.tolist()])
    return [weights[step - 1] for step in KEPT]


def golden() -> dict[str, Any]:
    generator = np.random.default_rng(0)
    start = generator.normal(size=3).round(4).astype("float32")
    gradients = generator.normal(size=(STEPS, 3)).round(4).astype("float32")
    return {
        "torch": torch.__version__.partition("+")[0],
        "start": [float(str(x)) for x in start],
        "gradients": [[float(str(x)) for x in gradient] for gradient in gradients],
        "rates": RATES,
        "kept": KEPT,
        "cases": [{**case, "weights": trajectory(start, gradients, **case)} for case in CASES],
    }


if __name__ == "__main__":
    path = Path(__file__).with_name("golden_torch_sgd.json")
    lines = json.dumps(golden()).replace('{"momentum"', '\n{"momentum"')
    path.write_text(lines + "\n", "utf-8")
