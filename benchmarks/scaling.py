"""What a training step and a request cost, and how far data-parallel training scales.

    python benchmarks/scaling.py [--inputs FILE] [--core-hour-price P] [--gpu-hour-price P]

The script prints the tables of docs/scaling.md. It computes them from the inputs in
`scaling_inputs.json`, which also has the source of each input. The speeds of the training steps
were measured by `train.py`, and those of the requests by `serving.py` and `inference.py`. Without
`--quick`, the script counts the parameters and multiply-adds of the models again, and reports an
error if the inputs have other numbers.
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

INPUTS = Path(__file__).with_name("scaling_inputs.json")
WORKERS = (2, 8, 64, 256)
GPUS = (1, 8, 64)
REQUESTS = (1_000, 100_000)  # per second
FORMATS = ("float32", "bfloat16", "int8")
GRADIENT_BYTES = {"float32": 4, "bfloat16": 2}  # per parameter
# A training step has three parts, which cost the same: the forward pass, the gradient with respect
# to the inputs of the layers, and the gradient with respect to the weights.
TRAINING_FACTOR = 3
BACKWARD = 2 / 3  # the fraction of a step that the backward pass takes: the last two parts
TARGET = 0.9  # the efficiency for which `network_table` gives the link speed

Inputs = dict[str, Any]


def ring_seconds(size: float, workers: int, gbit: float, latency: float = 0.0) -> float:
    """Return the duration of a ring all-reduce, in seconds.

    Each worker sends 2 (N - 1) messages. Together, they have 2 (N - 1) / N times the size of the
    gradient (Patarasuk and Yuan 2009).

    Args:
        size: the size of the gradient, in bytes.
        workers: the number of workers, N.
        gbit: the speed of each link, in Gbit/s.
        latency: the latency of each message, in seconds.
    """
    return 2 * (workers - 1) / workers * 8 * size / (gbit * 1e9) + 2 * (workers - 1) * latency


def efficiency(compute: float, communication: float, overlap: float) -> float:
    """Return the speed of data-parallel training as a fraction of the ideal speed.

    Args:
        compute: the seconds that one worker computes in a step.
        communication: the seconds of the all-reduce.
        overlap: the fraction of the compute time during which the all-reduce can run. It is 0 if
            the all-reduce begins after the backward pass, and `BACKWARD` if the all-reduce can run
            during the whole backward pass.
    """
    return compute / (compute + max(0.0, communication - overlap * compute))


def needed_gbit(size: float, compute: float, target: float) -> float:
    """Return the link speed, in Gbit/s, at which training has the efficiency `target`.

    The number of workers is large, and the all-reduce begins after the backward pass.

    Args:
        size: the size of the gradient, in bytes.
        compute: the seconds that one worker computes in a step.
        target: the efficiency, 0..1.
    """
    return 2 * 8 * size / (compute * (1 / target - 1)) / 1e9


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def step_table(inputs: Inputs) -> str:
    """Return the operations per image and the size of the gradient for each model."""
    rows = []
    for name, model in inputs["models"].items():
        forward = model["multiply_adds"]
        rows.append(
            (
                name,
                f"{model['parameters'] / 1e6:,.2f} M",
                f"{forward / 1e6:,.0f} M",
                f"{TRAINING_FACTOR * forward / 1e6:,.0f} M",
                *(
                    f"{model['parameters'] * size / 1e6:,.2f} MB"
                    for size in GRADIENT_BYTES.values()
                ),
            )
        )
    columns = ("model", "parameters", "multiply-adds, forward", "multiply-adds, training step")
    return table((*columns, *(f"gradient, {name}" for name in GRADIENT_BYTES)), rows)


def efficiency_table(inputs: Inputs) -> str:
    """Return bounds of the efficiency for each measured step, link and number of workers.

    The all-reduce runs after the backward pass (lower bound), or during it (upper bound).
    """
    rows = []
    for step in inputs["steps"]:
        parameters = inputs["models"][step["model"]]["parameters"]
        size = parameters * GRADIENT_BYTES[step["precision"]]
        compute = step["batch_size"] / step["images_per_second"]
        for link, gbit in inputs["links_gbit"].items():
            times = [ring_seconds(size, each, gbit, inputs["latency"]) for each in WORKERS]
            bounds = [
                (efficiency(compute, each, 0), efficiency(compute, each, BACKWARD))
                for each in times
            ]
            rows.append(
                (
                    f"{step['name']}, {compute * 1e3:,.0f} ms",
                    link,
                    *(f"{low:.3f} to {high:.3f}" for low, high in bounds),
                )
            )
    return table(("step", "link", *(f"{each} workers" for each in WORKERS)), rows)


def network_table(inputs: Inputs) -> str:
    """Return, for each measured step, the link speed that the efficiency `TARGET` needs."""
    rows = []
    for step in inputs["steps"]:
        size = inputs["models"][step["model"]]["parameters"] * GRADIENT_BYTES[step["precision"]]
        compute = step["batch_size"] / step["images_per_second"]
        rows.append((step["name"], f"{needed_gbit(size, compute, TARGET):.2f} Gbit/s"))
    return table(("step", f"link for an efficiency of {TARGET}"), rows)


def goyal(inputs: Inputs) -> dict[str, float]:
    """Return the predictions for the training of Goyal et al. 2017, and its measured efficiency."""
    paper = inputs["goyal"]
    steps = paper["epochs"] * paper["images"] / paper["baseline_batch_size"]
    compute = 3600 * paper["baseline_hours"] / steps
    size = inputs["models"]["resnet50"]["parameters"] * GRADIENT_BYTES["float32"]
    communication = ring_seconds(size, paper["servers"], paper["gbit"], inputs["latency"])
    low = efficiency(compute, communication, 0)
    high = efficiency(compute, communication, paper["backward_seconds"] / compute)
    measured = paper["baseline_hours"] / paper["hours"] / paper["servers"]
    return {
        "compute": compute,
        "communication": communication,
        "low": low,
        "high": high,
        "measured": measured,
    }


def goyal_table(inputs: Inputs) -> str:
    """Return the values of `goyal` as a table."""
    found = goyal(inputs)
    measured = found["measured"]
    rows = [
        ("seconds of a step on one server (8 GPUs)", f"{found['compute']:.3f}"),
        ("seconds of the ring all-reduce over the servers", f"{found['communication']:.4f}"),
        ("efficiency, predicted without overlap", f"{found['low']:.3f}"),
        ("efficiency, predicted with overlap of the backward pass", f"{found['high']:.3f}"),
        ("efficiency, from the published hours", f"{measured:.3f}"),
        ("prediction without overlap minus measurement", f"{found['low'] - measured:+.3f}"),
        ("prediction with overlap minus measurement", f"{found['high'] - measured:+.3f}"),
    ]
    return table(("Goyal et al. 2017, 256 GPUs", "value"), rows)


def training_table(inputs: Inputs, prices: dict[str, float | None]) -> str:
    """Return the duration and the device-hours of a whole training, for each measured step."""
    rows = []
    gbit = inputs["links_gbit"][inputs["training_link"]]
    for step in inputs["steps"]:
        size = inputs["models"][step["model"]]["parameters"] * GRADIENT_BYTES[step["precision"]]
        compute = step["batch_size"] / step["images_per_second"]
        images = inputs["trainings"][step["model"]]["images"]
        for workers in GPUS:
            communication = ring_seconds(size, workers, gbit, inputs["latency"])
            low, high = (efficiency(compute, communication, overlap) for overlap in (0, BACKWARD))
            hours = images / step["images_per_second"] / 3600
            bounds = [hours / each for each in (high, low)]  # device-hours
            price = prices[step["unit"]]
            devices = step["devices"]
            rows.append(
                (
                    step["name"],
                    str(workers),
                    f"{between([three_digits(each / workers) for each in bounds])} h",
                    f"{between([three_digits(each * devices) for each in bounds])} "
                    f"{'GPU' if step['unit'] == 'gpu' else 'core'}-hours",
                    cost(price, [each * devices for each in bounds]),
                )
            )
    return table_with_cost(("step", "workers", "duration", "work", "cost"), rows)


def core_seconds(serving: Inputs, format_: str) -> float:
    """Return the core-seconds of one request.

    The engine's time is its time for float32, divided by the measured speed-up of the format. The
    time for decoding, protocol and batching is the same for every format.
    """
    total = serving["cores"] / serving["requests_per_second"]
    engine = total - serving["other_core_seconds"]
    return float(serving["other_core_seconds"] + engine / serving["speed_up"][format_])


def serving_table(inputs: Inputs, prices: dict[str, float | None]) -> str:
    """Return the cores and the core-hours per day for each model, format and request rate."""
    rows = []
    for name, serving in inputs["serving"].items():
        for format_ in FORMATS:
            seconds = core_seconds(serving, format_)
            for requests in REQUESTS:
                cores = requests * seconds / inputs["utilisation"]
                rows.append(
                    (
                        f"{name}, {format_}",
                        f"{requests:,}",
                        f"{seconds * 1e3:.3f} ms",
                        f"{cores:,.1f}",
                        f"{24 * cores:,.0f}",
                        cost(prices["core"], [24 * cores]),
                    )
                )
    columns = ("model and format", "requests per second", "core time of a request", "cores")
    return table_with_cost((*columns, "core-hours per day", "cost per day"), rows)


def other_table(inputs: Inputs) -> str:
    """Return the core time of a request to ResNet-50 for other values of `other_core_seconds`."""
    serving = inputs["serving"]["ResNet-50"]
    rows = []
    for other in inputs["other_core_seconds_tried"]:
        changed = serving | {"other_core_seconds": other}
        times = [f"{core_seconds(changed, each) * 1e3:.3f} ms" for each in FORMATS]
        rows.append((f"{other * 1e3:g} ms", *times))
    return table(("decoding, protocol and batching", *FORMATS), rows)


def cost(price: float | None, hours: Sequence[float]) -> str:
    """Return the lower and the upper bound of the cost as text; "" if the price is unknown.

    Args:
        price: the price of an hour; None if it is unknown.
        hours: the lower and the upper bound of the hours.
    """
    if price is None:
        return ""
    return between([f"{price * each:,.2f}" for each in hours])


def table_with_cost(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table without its last column, the cost, if no row has a cost."""
    if any(row[-1] for row in rows):
        return table(columns, rows)
    return table(columns[:-1], [row[:-1] for row in rows])


def three_digits(number: float) -> str:
    """Return a number with three significant digits, such as "2,360"."""
    return f"{float(f'{number:.3g}'):,g}"


def between(bounds: Sequence[str]) -> str:
    """Return "A to B" for the bounds A and B, or "A" if both are equal."""
    return " to ".join(dict.fromkeys(bounds))


def tables(inputs: Inputs) -> dict[str, str]:
    """Return name -> table; the names mark the places of the tables in docs/scaling.md."""
    prices = {unit: inputs["prices"][f"{unit}_hour"] for unit in ("core", "gpu")}
    return {
        "step": step_table(inputs),
        "network": network_table(inputs),
        "efficiency": efficiency_table(inputs),
        "goyal": goyal_table(inputs),
        "training": training_table(inputs, prices),
        "serving": serving_table(inputs, prices),
        "other": other_table(inputs),
    }


def count(names: Iterable[str]) -> dict[str, dict[str, int]]:
    """Return the parameters and multiply-adds of models."""
    from keras_cnns.models import build
    from keras_cnns.models.cost import cost as cost_of

    counted = {name: cost_of(build(name)) for name in names}
    return {
        name: {"parameters": each.parameters, "multiply_adds": each.multiply_adds}
        for name, each in counted.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inputs", type=Path, default=INPUTS, help="the measured inputs, as JSON")
    parser.add_argument("--quick", action="store_true", help="do not count the models again")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the inputs that were used to this file"
    )
    parser.add_argument("--core-hour-price", type=float, help="price of one core for one hour")
    parser.add_argument("--gpu-hour-price", type=float, help="price of one GPU for one hour")
    arguments = parser.parse_args()
    try:
        inputs: Inputs = json.loads(arguments.inputs.read_text("utf-8"))
    except OSError as error:
        parser.error(f"cannot read the inputs {arguments.inputs}: {error.strerror}")
    except ValueError as error:
        parser.error(f"the inputs {arguments.inputs} are not JSON: {error}")
    for unit in ("core", "gpu"):
        price = getattr(arguments, f"{unit}_hour_price")
        if price is not None:
            inputs["prices"][f"{unit}_hour"] = price
    if not arguments.quick and (counted := count(inputs["models"])) != inputs["models"]:
        parser.error(
            f"{arguments.inputs} has wrong parameters or multiply-adds in its entry 'models'; the "
            f"entry must be {counted}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(inputs, indent=2) + "\n", "utf-8")
    for name, text in tables(inputs).items():
        print(f"{name}\n\n{text}\n")


if __name__ == "__main__":
    main()
