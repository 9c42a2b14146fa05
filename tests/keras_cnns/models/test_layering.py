"""The registry is above weights, weights are above models, and models read no files.

A package's `__init__` is left out: it may import from above when a name is used.
"""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
# What the modules of each layer may import from keras_cnns, besides their own layer.
LAYERS = {
    "models": {"optimizers", "suggestions", "cores", "keras_internals"},
    "weights": {"models", "suggestions"},
    "registry": {"models", "weights", "suggestions"},
    "conversion": {"registry", "weights"},
}
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for layer in LAYERS
    for path in [ROOT / f"keras_cnns/{layer}.py", *(ROOT / "keras_cnns" / layer).rglob("*.py")]
    if path.exists() and path.name != "__init__.py"
}


def imported(path: Path) -> Iterator[str]:
    """Yield the modules that a module imports anywhere in its file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                is_module = (ROOT / submodule.replace(".", "/")).with_suffix(".py").exists()
                yield submodule if is_module else str(node.module)


@pytest.mark.parametrize("name", FILES)
def test_imports_point_downwards(name: str) -> None:
    layer = name.split(".")[1]
    ours = {each.split(".")[1] for each in imported(FILES[name]) if each.startswith("keras_cnns.")}
    assert ours <= LAYERS[layer] | {layer}
    if layer == "models":
        assert not {*imported(FILES[name])} & {"pathlib", "os", "io", "json", "h5py"}


def test_there_are_no_cycles() -> None:
    graph = {name: {*imported(path)} & FILES.keys() for name, path in FILES.items()}
    list(TopologicalSorter(graph).static_order())  # raises CycleError
