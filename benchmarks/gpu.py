"""ResNet-50 on a GPU in bfloat16: keras_cnns on JAX, compared with timm and torchvision on PyTorch.

    python benchmarks/gpu.py [--quick] [--json FILE] [--batch-size N] [--torch-python FILE]

The script measures training steps and inference at 224x224 pixels, with a batch in the memory of
the GPU. The subjects run in turn (see turns.py). A ratio is our images per second divided by those
of the other project; we are faster if it is greater than 1. "peak" is the fraction of the GPU's
bfloat16 matrix throughput that a subject reaches; here a training step counts as three forward
passes. The matrix throughput is measured in the same run: it is that of a product of two large
matrices, in JAX or in PyTorch, whichever is faster.

Our side needs keras, jax and numpy, and neither TensorFlow nor an installed keras_cnns. Its step is
`stateless_call` and `stateless_apply` in one `jax.jit`. PyTorch trains in its fastest usual mode:
channels_last, autocast, a fused optimizer, and cuDNN's benchmark. "compiled" means `torch.compile`.

Without a GPU, the script ends with status 2. With --quick and without a GPU, it measures small
images on the CPU, which shows that the script runs; these numbers say nothing about a GPU.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from turns import PARITY_PYTHON, ROOT, Row, ratios, subject, take_turns, write_rows

sys.path.insert(0, str(ROOT))  # on a machine with GPUs, keras_cnns may not be installed

LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 1e-4
OURS = "keras_cnns, JAX"
PEERS = {"cpu": ("timm", "torchvision"), "gpu": ("timm", "timm compiled", "torchvision compiled")}
MATRICES = ("matrix, JAX", "matrix, PyTorch")
# The operations that one image costs, as a multiple of those of a forward pass.
FORWARD_PASSES = {"training": 3, "inference": 1}

Run = Callable[[], Any]


class Load(NamedTuple):
    """The sizes of the batches and matrices, and the number of steps."""

    batch_size: int
    size: int  # height and width of the images, in pixels
    matrix: int  # number of rows and columns of the matrices
    steps: int  # number of steps in a turn


LOADS = {"cpu": Load(2, 64, 256, 1), "gpu": Load(256, 224, 8192, 10)}


def keras_network(size: int) -> Any:
    import keras

    from keras_cnns.models import build

    keras.config.set_dtype_policy("mixed_bfloat16")
    return build("resnet50", (size, size, 3), classifier_activation=None)


def jax_batch(load: Load) -> tuple[Any, Any]:
    import jax
    import numpy as np

    generator = np.random.default_rng(0)
    images = generator.normal(size=(load.batch_size, load.size, load.size, 3))
    labels = generator.integers(0, 1000, load.batch_size)
    return jax.device_put(images.astype("float32")), jax.device_put(labels.astype("int32"))


def jax_training(load: Load) -> Run:
    """Return a function that runs a turn of training steps.

    The state of the model and the optimizer stays on the device.
    """
    import jax
    import keras

    from keras_cnns.optimizers import Momentum

    network = keras_network(load.size)
    optimizer = Momentum(LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    optimizer.build(network.trainable_variables)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    images, labels = jax_batch(load)

    def objective(trainable: Any, fixed: Any) -> tuple[Any, Any]:
        logits, fixed = network.stateless_call(trainable, fixed, images, training=True)
        return loss(labels, logits), fixed

    @partial(jax.jit, donate_argnums=0)
    def step(state: Any) -> tuple[Any, Any]:
        trainable, fixed, velocities = state
        (value, fixed), gradients = jax.value_and_grad(objective, has_aux=True)(trainable, fixed)
        trainable, velocities = optimizer.stateless_apply(velocities, gradients, trainable)
        return (trainable, fixed, velocities), value

    variables = (network.trainable_variables, network.non_trainable_variables, optimizer.variables)
    state: Any = tuple([variable.value for variable in each] for each in variables)

    def run() -> None:
        nonlocal state
        for _ in range(load.steps):
            state, value = step(state)
        value.block_until_ready()

    return run


def jax_inference(load: Load) -> Run:
    import jax

    network = keras_network(load.size)
    images, _ = jax_batch(load)

    @jax.jit
    def forward(trainable: Any, fixed: Any, images: Any) -> Any:
        return network.stateless_call(trainable, fixed, images, training=False)[0]

    weights = [
        [variable.value for variable in each]
        for each in (network.trainable_variables, network.non_trainable_variables)
    ]

    def run() -> None:
        for _ in range(load.steps):
            outputs = forward(*weights, images)
        outputs.block_until_ready()

    return run


def jax_matrix(load: Load) -> Run:
    import jax

    matrix = jax.random.normal(jax.random.key(0), (load.matrix, load.matrix), "bfloat16")
    product = jax.jit(lambda a, b: a @ b)

    def run() -> None:
        for _ in range(load.steps):
            result = product(matrix, matrix)
        result.block_until_ready()

    return run


def torch_network(name: str) -> Any:
    import torch
    import torch_nets

    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    try:
        import torchvision
    except RuntimeError:  # this torchvision was built for another version of PyTorch
        torchvision = torch_nets.import_torchvision()
    if name.startswith("torchvision"):
        network = torchvision.models.resnet50(weights=None)
    else:
        import timm

        network = timm.create_model("resnet50")
    return network.to(_torch_device(), memory_format=torch.channels_last)


def _torch_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _wait_for_torch() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _torch_images(load: Load, dtype: Any) -> Any:
    import torch

    images = torch.randn(load.batch_size, 3, load.size, load.size, device=_torch_device())
    return images.to(dtype, memory_format=torch.channels_last)


def torch_training(name: str, load: Load) -> Run:
    import torch

    network = torch_network(name)
    images = _torch_images(load, torch.float32)
    labels = torch.randint(0, 1000, (load.batch_size,), device=_torch_device())
    optimizer = torch.optim.SGD(
        network.parameters(),
        LEARNING_RATE,
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
        fused=True,
    )
    forward = torch.compile(network) if name.endswith("compiled") else network

    def run() -> None:
        for _ in range(load.steps):
            optimizer.zero_grad()
            with torch.autocast(_torch_device(), torch.bfloat16):
                logits = forward(images)
            torch.nn.functional.cross_entropy(logits.float(), labels).backward()
            optimizer.step()
        _wait_for_torch()

    return run


def torch_inference(name: str, load: Load) -> Run:
    import torch

    network = torch_network(name).eval().to(torch.bfloat16)
    images = _torch_images(load, torch.bfloat16)
    forward = torch.compile(network) if name.endswith("compiled") else network

    def run() -> None:
        with torch.inference_mode():
            for _ in range(load.steps):
                forward(images)
        _wait_for_torch()

    return run


def torch_matrix(load: Load) -> Run:
    import torch

    size = (load.matrix, load.matrix)
    matrix = torch.randn(size, dtype=torch.bfloat16, device=_torch_device())

    def run() -> None:
        for _ in range(load.steps):
            torch.mm(matrix, matrix)
        _wait_for_torch()

    return run


def find_gpu(python: str | Path, module: str) -> str:
    """Return the name of the GPU that `jax` or `torch` finds in an environment, or ""."""
    code = {
        "jax": "import jax; d = jax.devices()[0]; n = d.device_kind if d.platform == 'gpu' else ''",
        "torch": "import torch as t; n = t.cuda.get_device_name() if t.cuda.is_available() else ''",
    }[module]
    command = [str(python), "-c", f"{code}; print('GPU:', n)"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(
            f"gpu.py: {python} cannot import {module}: {ended.stderr.strip().splitlines()[-1]}"
        )
    return ended.stdout.partition("GPU:")[2].strip()


def work(case: str, name: str, load: Load) -> None:
    """Run a subject in this process."""
    if case == "matrix":
        run = (jax_matrix if name == MATRICES[0] else torch_matrix)(load)
    elif name == OURS:
        run = (jax_training if case == "training" else jax_inference)(load)
    else:
        run = (torch_training if case == "training" else torch_inference)(name, load)
    take_turns(run)


def measure(
    case: str, names: list[str], pythons: dict[str, str], load: Load, rounds: int
) -> dict[str, list[float]]:
    """Return subject -> the seconds of each of its turns.

    The processes of all subjects of a case run at the same time, and wait for their turns.
    """
    times: dict[str, list[float]] = {name: [] for name in names}
    with ExitStack() as stack:
        subjects = {}
        for name in names:
            command = (__file__, "--subject", case, name, json.dumps(load))
            subjects[name] = stack.enter_context(subject(pythons[name], *command))
        for _ in range(rounds):
            for name, each in subjects.items():
                times[name].append(each.measure())
    return times


def main() -> int:
    """Measure, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="fewer rounds; without a GPU, measure on the CPU"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to this file")
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="default: 256 on a GPU, 2 on a CPU"
    )
    parser.add_argument(
        "--torch-python", metavar="FILE", help="the Python of an environment with PyTorch"
    )
    parser.add_argument("--subject", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ["KERAS_BACKEND"] = "jax"
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    if options.subject:
        case, name, load = options.subject
        work(case, name, Load(*json.loads(load)))
        return 0

    torch_python = options.torch_python
    if torch_python is None and importlib.util.find_spec("torch"):
        torch_python = sys.executable
    elif torch_python is None and PARITY_PYTHON.exists():
        torch_python = str(PARITY_PYTHON)
    gpu = find_gpu(sys.executable, "jax")
    if not gpu and not options.quick:
        print(
            "There is no GPU: JAX finds only a CPU. With --quick, the script measures small images "
            "on the CPU."
        )
        return 2
    kind = "gpu" if gpu else "cpu"
    load = LOADS[kind]
    if options.batch_size:
        load = load._replace(batch_size=options.batch_size)
    print(
        f"GPU: {gpu}"
        if gpu
        else "There is no GPU. This is a small run on the CPU; its numbers say nothing about a GPU."
    )
    if torch_python is None:
        print(
            "timm and torchvision are not measured: no environment with PyTorch was found. Give "
            "its Python with --torch-python."
        )
    elif gpu and not find_gpu(torch_python, "torch"):
        print(
            f"timm and torchvision are not measured: PyTorch in {torch_python} finds no GPU. Give "
            "another Python with --torch-python."
        )
        torch_python = None
    peers = PEERS[kind] if torch_python else ()
    matrices = MATRICES if torch_python else MATRICES[:1]
    pythons = {OURS: sys.executable, MATRICES[0]: sys.executable}
    pythons |= dict.fromkeys((*peers, MATRICES[1]), torch_python or "")

    rounds = 3 if options.quick else 9
    times = measure("matrix", list(matrices), pythons, load, rounds)
    best = min(statistics.median(seconds) for seconds in times.values())
    peak = 2 * load.matrix**3 * load.steps / best
    print(
        f"product of two {load.matrix}x{load.matrix} matrices in bfloat16: "
        f"{peak / 1e12:.2f} TFLOP/s"
    )
    from keras_cnns.models import cost

    operations = 2 * cost(keras_network(load.size)).multiply_adds
    print(
        f"{'case':<12}{'subject':<24}{'images/s':>10}{'peak':>7}{'ratio':>8}{'low':>7}{'high':>7}"
    )
    rows: list[Row] = []
    for case, passes in FORWARD_PASSES.items():
        times = measure(case, [OURS, *peers], pythons, load, rounds)
        for name, seconds in times.items():
            speed = load.batch_size * load.steps / statistics.median(seconds)
            figures = ratios(seconds, times[OURS])
            fraction = speed * passes * operations / peak
            row = {"case": f"resnet50 {case}", "subject": OURS, "peer": name, **figures}
            row |= {"images_per_second": round(speed, 1), "fraction_of_peak": round(fraction, 3)}
            rows.append(row | {"device": gpu or "cpu", **load._asdict()})
            print(
                f"{case:<12}{name:<24}{speed:>10.1f}{fraction:>7.2f}{figures['ratio']:>8.2f}"
                f"{figures['low']:>7.2f}{figures['high']:>7.2f}",
                flush=True,
            )
    write_rows(options.json, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
