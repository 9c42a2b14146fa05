"""Imports point in one direction: the code of the three packages follows their design."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FORBIDDEN = {
    "keras_cnns": {"keras_cnns_export", "keras_cnns_serve"},
    "export/keras_cnns_export": {"keras_cnns_serve"},
    "serve/keras_cnns_serve": {"keras_cnns", "keras_cnns_export", "keras"},
}
# The server's other engines are extras: imported by the function that needs them, or not at all.
EXTRAS = {"tensorflow", "openvino", "opentelemetry", "fsspec", "pyarrow", "ray"}
# A part of a package is a folder or a file at its top. A package's `__init__` is a facade, which
# loads what users ask for and may name every part.
# Each set below holds the parts that a part may import, besides itself.
_BASE = {
    *("cores", "durations", "files", "intervals", "keras_internals", "messages"),
    *("quiet", "replicas", "spreadsheets", "suggestions", "table"),
}
_NETWORKS = {*_BASE, "losses", "optimizers", "models", "weights", "registry"}
_RUNS = {*_NETWORKS, "recipes", "data", "runs"}
_BELOW_FORMATS = {"errors", "contract", "options", "batches", "image_bytes", "network", "graph"}
LAYERS: dict[str, dict[str, set[str]]] = {
    "keras_cnns": {
        **dict.fromkeys(_BASE, _BASE),
        "recipes": _BASE,
        "losses": _BASE,
        "optimizers": _BASE,
        "data": {*_BASE, "recipes"},
        "models": {*_BASE, "losses", "optimizers"},
        "weights": {*_BASE, "models"},
        "registry": _NETWORKS,
        "conversion": _NETWORKS,
        "runs": _RUNS,
        "training": _RUNS,
        "report": {*_BASE, "recipes", "data", "runs"},
        "card": {*_RUNS, "report"},
        "fit": {*_RUNS, "training", "report"},
        "review": {*_RUNS, "training", "report"},
        "lab": {*_RUNS, "training", "report"},
        "tune": {*_RUNS, "training", "report", "lab"},
    },
    "keras_cnns_export": {
        "errors": set(),
        "contract": {"errors"},
        "options": {"errors", "contract"},
        "batches": {"errors", "contract"},
        "image_bytes": {"errors", "contract"},
        "network": {"errors"},
        "graph": {"errors", "contract", "options", "batches", "network"},
        "onnx_passes": {"errors"},
        "formats": {*_BELOW_FORMATS, "onnx_passes"},
        "calibration": _BELOW_FORMATS,
        "confidence": _BELOW_FORMATS,
        "golden": _BELOW_FORMATS,
        "parity": _BELOW_FORMATS,
        "pixels": _BELOW_FORMATS,
        "publish": _BELOW_FORMATS,
        "server_files": _BELOW_FORMATS,
        "report": {*_BELOW_FORMATS, "parity", "pixels"},
        "exporter": {
            *(*_BELOW_FORMATS, "formats", "calibration", "confidence", "golden", "parity"),
            *("pixels", "publish", "server_files", "report"),
        },
    },
    "keras_cnns_serve": {
        "errors": set(),
        "protos": set(),
        "process": set(),
        "page": set(),
        "repository": {"errors", "protos"},
        "options": {"repository"},
        "engines": {"errors", "repository"},
        "images": {"errors", "repository"},
        "core": {"errors", "repository", "engines", "images"},
        "transport": {"errors", "core"},
        "observability": {"errors", "core"},
        "protocols": {
            *("errors", "protos", "page", "repository", "images", "core", "transport"),
            "observability",
        },
        "scoring": {"errors", "options", "repository", "engines", "images", "core"},
    },
}
# The parts that put everything together.
TOP = {
    "keras_cnns": {"cli", "commands", "demo"},
    "keras_cnns_export": {"cli"},
    "keras_cnns_serve": {"cli", "compose"},
}
# Modules that may not import each other, even if their folders may.
STRANGERS = [
    ("transport/grpc", "transport/http"),
    ("transport/http", "transport/grpc"),
    ("protocols/tfserving", "protocols/oip"),
    ("protocols/oip", "protocols/tfserving"),
    ("protocols/tfserving/grpc.py", "transport/http"),
    ("protocols/oip/grpc.py", "transport/http"),
    ("protocols/health.py", "transport/http"),
]
# Parts that run on every Keras backend may import TensorFlow only inside functions.
AGNOSTIC = ("models", "optimizers", "training/callbacks", "weights", "recipes")


IMPORTS = (ast.Import, ast.ImportFrom)


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").partition(".")[0]


def imported_at_once(node: ast.AST) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imported(child) if isinstance(child, IMPORTS) else imported_at_once(child)


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_package_imports_none_of_those_after_it(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        found = set(imported(ast.parse(file.read_text()))) & FORBIDDEN[package]
        assert not found, f"{file} imports {found}"


@pytest.mark.parametrize("part", AGNOSTIC)
def test_backend_agnostic_parts_import_no_tensorflow(part: str) -> None:
    files = list((ROOT / "keras_cnns" / part).rglob("*.py"))
    assert files
    for file in files:
        assert "tensorflow" not in set(imported_at_once(ast.parse(file.read_text()))), file


def test_the_server_imports_its_extras_only_where_they_are_used() -> None:
    for file in (ROOT / "serve" / "keras_cnns_serve").rglob("*.py"):
        tree = ast.parse(file.read_text())
        assert not set(imported_at_once(tree)) & EXTRAS, file
        if file.parts[-2:] != ("engines", "tensorflow.py"):
            assert "tensorflow" not in set(imported(tree)), file


def modules(package: Path) -> dict[str, Path]:
    """The files of a package by their dotted names."""
    files = {
        path: path.relative_to(package.parent).with_suffix("") for path in package.rglob("*.py")
    }
    return {".".join(name.parts).removesuffix(".__init__"): path for path, name in files.items()}


def imports_of(name: str, path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules of the same package that a module imports, anywhere in its file."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                submodule = f"{module}.{alias.name}"
                if submodule in known:
                    yield submodule
                elif module in known:
                    yield module


PACKAGES = {
    "keras_cnns": ROOT / "keras_cnns",
    "keras_cnns_export": ROOT / "export" / "keras_cnns_export",
    "keras_cnns_serve": ROOT / "serve" / "keras_cnns_serve",
}
GRAPHS = {
    package: {name: set(imports_of(name, path, known)) for name, path in known.items()}
    for package, folder in PACKAGES.items()
    for known in [modules(folder)]
}
SERVER = GRAPHS["keras_cnns_serve"]


def _part(name: str) -> str:
    """Return the part that a module belongs to; "" for the package's facade."""
    return name.split(".")[1] if "." in name else ""


@pytest.mark.parametrize("package", LAYERS)
def test_every_part_imports_only_what_lies_below_it(package: str) -> None:
    graph, layers = GRAPHS[package], LAYERS[package]
    parts = {_part(name) for name in graph} - {""}
    assert parts == {*layers, *TOP[package]}
    for name, found in graph.items():
        part = _part(name)
        if part in layers and name != f"{package}.{part}":
            above = {_part(other) for other in found} - {"", part} - layers[part]
            assert not above, f"{name} imports {above}"


@pytest.mark.parametrize(("part", "other"), STRANGERS)
def test_neighbours_know_nothing_of_each_other(part: str, other: str) -> None:
    of_part, of_other = (
        f"keras_cnns_serve.{name.removesuffix('.py').replace('/', '.')}" for name in (part, other)
    )
    mine = [name for name in SERVER if f"{name}.".startswith(f"{of_part}.")]
    assert mine
    for name in mine:
        found = [each for each in SERVER[name] if f"{each}.".startswith(f"{of_other}.")]
        assert not found, f"{name} imports {found}"


@pytest.mark.parametrize("package", GRAPHS)
def test_there_are_no_import_cycles(package: str) -> None:
    # The facade (`__init__`) of a package is left out: it imports a part only when users ask for
    # it.
    graph = {name: found - {name, package} for name, found in GRAPHS[package].items()}
    list(TopologicalSorter(graph).static_order())  # raises CycleError


def test_models_read_no_files() -> None:
    files = list((ROOT / "keras_cnns" / "models").rglob("*.py"))
    assert files
    for file in files:
        found = set(imported(ast.parse(file.read_text()))) & {"pathlib", "os", "io", "json", "h5py"}
        assert not found, f"{file} imports {found}"


def test_few_files_lie_at_the_top_of_the_server() -> None:
    files = [path for path in PACKAGES["keras_cnns_serve"].iterdir() if path.is_file()]
    assert len(files) <= 8
