"""Imports run one way: what the design says of the three packages, read off their code."""

import ast
from collections.abc import Iterator
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
        if file.name != "tensorflow_engine.py":
            assert "tensorflow" not in set(imported(tree)), file
