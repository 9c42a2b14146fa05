"""Imports run one way: what the design says of the three packages, read off their code."""

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
EXTRAS = {"tensorflow", "openvino", "opentelemetry"}
# What each part of the server may import besides itself; `compose` and `cli` wire all of it.
SERVER: dict[str, set[str]] = {
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
        *("errors", "protos", "page", "repository", "images", "core", "transport", "observability"),
    },
}
# Neighbours that know nothing of each other, whatever their folders may import.
STRANGERS = [
    ("transport/grpc", "transport/http"),
    ("transport/http", "transport/grpc"),
    ("protocols/tfserving", "protocols/oip"),
    ("protocols/oip", "protocols/tfserving"),
    ("protocols/tfserving/grpc.py", "transport/http"),
    ("protocols/oip/grpc.py", "transport/http"),
    ("protocols/health.py", "transport/http"),
]
# Parts that run on every Keras backend import no TensorFlow outside of a function.
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


GRAPH = {
    name: set(imports_of(name, path, known))
    for known in [modules(ROOT / "serve" / "keras_cnns_serve")]
    for name, path in known.items()
}


def test_every_part_of_the_server_imports_only_what_lies_below_it() -> None:
    parts = {name.split(".")[1] for name in GRAPH if "." in name}
    assert parts == {*SERVER, "compose", "cli"}
    for name, found in GRAPH.items():
        part = name.split(".")[1] if "." in name else ""
        if part in SERVER:
            others = {other.split(".")[1] for other in found if "." in other} - {part}
            assert others <= SERVER[part], f"{name} imports {others - SERVER[part]}"


@pytest.mark.parametrize(("part", "other"), STRANGERS)
def test_neighbours_know_nothing_of_each_other(part: str, other: str) -> None:
    of_part, of_other = (
        f"keras_cnns_serve.{name.removesuffix('.py').replace('/', '.')}" for name in (part, other)
    )
    mine = [name for name in GRAPH if f"{name}.".startswith(f"{of_part}.")]
    assert mine
    for name in mine:
        found = [each for each in GRAPH[name] if f"{each}.".startswith(f"{of_other}.")]
        assert not found, f"{name} imports {found}"


def test_there_are_no_import_cycles() -> None:
    # `__init__` and `cli` load what they need when it is used.
    graph = {name: found - {name, "keras_cnns_serve"} for name, found in GRAPH.items()}
    list(TopologicalSorter(graph).static_order())  # raises CycleError


def test_few_files_lie_at_the_top_of_the_server() -> None:
    folder = ROOT / "serve" / "keras_cnns_serve"
    assert len([path for path in folder.iterdir() if path.is_file()]) <= 8


@pytest.mark.parametrize(
    ("part", "above"),
    [
        ("runs", {"training", "report", "lab", "commands"}),
        ("training", {"report", "lab", "commands"}),
        ("report", {"training", "lab", "commands"}),
    ],
)
def test_training_and_reports_meet_in_the_run_directory_alone(part: str, above: set[str]) -> None:
    known = modules(ROOT / "keras_cnns")
    mine = {name: path for name, path in known.items() if name.startswith(f"keras_cnns.{part}")}
    assert mine
    for name, path in mine.items():
        parts = {other.split(".")[1] for other in imports_of(name, path, known) if "." in other}
        assert not parts & above, f"{name} imports {parts & above}"
