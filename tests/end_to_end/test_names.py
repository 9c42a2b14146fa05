"""Names used only in their own file start with an underscore.

A module-level function, class or constant of the three packages is public if another file of the
repository uses it, if an `__all__` exports it, if a decorator registers it, if an entry point names
it, or if the signature of a public function or class mentions it. The test reads all files with
`ast` and imports none of them. It resolves imports: a name counts as used only if the other file
imports it from this module, not if it merely uses the same identifier.
"""

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "keras_cnns": ROOT,
    "keras_cnns_export": ROOT / "export",
    "keras_cnns_serve": ROOT / "serve",
}
# Python files and documentation outside of the packages that use their names.
USERS = ("tests", "benchmarks", "README.md", "CONTRIBUTING.md", "docs", "export", "serve")
# Decorators that leave a function where it is; every other one registers it somewhere.
NOT_REGISTERING = {
    *("dataclass", "contextmanager", "asynccontextmanager", "cache", "lru_cache", "wraps"),
    *("total_ordering", "runtime_checkable", "final", "overload", "function", "singledispatch"),
}
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
Name = tuple[str, str]  # a module, and a name that it defines


def module_files() -> dict[str, Path]:
    """Return the files of the packages by the dotted name of their module."""
    return {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for package, root in PACKAGES.items()
        for path in sorted((root / package).rglob("*.py"))
    }


MODULES = module_files()


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def last_part(node: ast.expr) -> str:
    """Return the last identifier of a decorator: `c` of `a.b.c(...)`."""
    node = node.func if isinstance(node, ast.Call) else node
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield a module's statements, and those inside its `if`, `try`, `with` and `for`."""
    for statement in body:
        yield statement
        if not isinstance(statement, DEFINITIONS):
            for block in ("body", "orelse", "finalbody"):
                yield from statements(getattr(statement, block, []))
            for handler in getattr(statement, "handlers", []):
                yield from statements(handler.body)


def is_conventional(statement: ast.Assign) -> bool:
    """Return whether an assignment has a name by convention: `logger`, or a type variable's."""
    value = statement.value
    return isinstance(value, ast.Call) and last_part(value) in {"getLogger", "TypeVar", "ParamSpec"}


def definitions(tree: ast.Module) -> Iterator[tuple[str, ast.stmt]]:
    """Yield the names that a module defines and does not register by a decorator."""
    for statement in statements(tree.body):
        targets: list[ast.expr] = []
        if isinstance(statement, DEFINITIONS):
            if {last_part(each) for each in statement.decorator_list} <= NOT_REGISTERING:
                yield statement.name, statement
        elif isinstance(statement, ast.Assign) and not is_conventional(statement):
            targets = statement.targets
        elif isinstance(statement, ast.AnnAssign | ast.For):
            targets = [statement.target]
        for target in targets:
            for node in ast.walk(target):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    yield node.id, statement


def names_in_signature(statement: ast.stmt) -> set[str]:
    """Return the names in the annotations and base classes of a definition, without its body."""
    parts: list[ast.AST | None] = []
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
        parts = [statement.args, statement.returns]
    elif isinstance(statement, ast.AnnAssign):
        parts = [statement.annotation]
    elif isinstance(statement, ast.ClassDef):
        parts = list(statement.bases)
        return names_in(parts).union(*map(names_in_signature, statement.body))
    elif isinstance(statement, ast.Assign):  # a type alias
        parts = [statement.value] if isinstance(statement.value, ast.Subscript | ast.BinOp) else []
    return names_in(parts)


def names_in(nodes: list[ast.AST | None]) -> set[str]:
    found: set[str] = set()
    for node in (each for top in nodes if top for each in ast.walk(top)):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= set(re.findall(r"\w+", node.value))  # an annotation as a string
    return found


def exported_names(tree: ast.Module) -> set[str]:
    """Return the strings of a module's `__all__`."""
    return {
        node.value
        for statement in tree.body
        if isinstance(statement, ast.Assign | ast.AugAssign | ast.AnnAssign)
        and "__all__" in ast.unparse(statement).partition("=")[0]
        for node in ast.walk(statement)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


class Uses(ast.NodeVisitor):
    """The names of the packages' modules that one file uses."""

    def __init__(self, tree: ast.Module, module: str, *, is_package: bool) -> None:
        self.found: set[Name] = set()
        self._parts = module.split(".") if is_package else module.split(".")[:-1]
        self._modules: dict[str, str] = {}  # the module for which each local name stands
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                self._add_import(node)
            elif isinstance(node, ast.ImportFrom):
                self._add_import_from(node)
        self.visit(tree)

    def _add_import(self, node: ast.Import) -> None:
        for alias in node.names:
            name = alias.asname or alias.name.partition(".")[0]
            self._modules[name] = alias.name if alias.asname else name

    def _add_import_from(self, node: ast.ImportFrom) -> None:
        package = self._parts[: len(self._parts) - node.level + 1] if node.level else []
        source = ".".join([*package, *([node.module] if node.module else [])])
        for alias in node.names:
            if f"{source}.{alias.name}" in MODULES:
                self._modules[alias.asname or alias.name] = f"{source}.{alias.name}"
            self.found.add((source, alias.name))

    def _module_of(self, node: ast.expr) -> str | None:
        """Return the module that an expression is, if it is one."""
        if isinstance(node, ast.Name):
            return self._modules.get(node.id)
        if isinstance(node, ast.Attribute) and (base := self._module_of(node.value)):
            return f"{base}.{node.attr}" if f"{base}.{node.attr}" in MODULES else None
        return None

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if module := self._module_of(node.value):
            self.found.add((module, node.attr))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        """Find `monkeypatch.setattr(module, "name", ...)` and `getattr(module, "name")`."""
        modules = [module for each in node.args if (module := self._module_of(each))]
        strings = [each.value for each in node.args if isinstance(each, ast.Constant)]
        self.found |= {(module, str(each)) for module in modules for each in strings}
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and "keras_cnns" in node.value:
            self.found |= set(names_in_text(node.value))


def names_in_text(text: str) -> Iterator[Name]:
    """Yield names that a text mentions: code in strings, entry points, examples in Markdown."""
    for module, names in re.findall(r"from (keras_cnns[\w.]*) import \(?([\w, \n]+)", text):
        for name in re.findall(r"\w+", names):
            yield module, name
            if f"{module}.{name}" in MODULES:
                yield from ((f"{module}.{name}", each) for each in attributes(name, text))
    for dotted in re.findall(r"keras_cnns[\w.]*(?::\w+)?", text):
        module, _, name = dotted.replace(":", ".").rpartition(".")
        yield module, name


def attributes(name: str, text: str) -> list[str]:
    return re.findall(rf"\b{name}\.(\w+)", text)


def lazy_names() -> Iterator[Name]:
    """Yield the names that a package's `__init__` imports when they are asked for, by a table."""
    for module, path in MODULES.items():
        tree = parse(path)
        if path.name != "__init__.py" or "__getattr__" not in dict(definitions(tree)):
            continue
        strings = [
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        for other in MODULES:
            if other.startswith(f"{module}."):
                yield from ((other, each) for each in strings)


def used_names(module: str, path: Path) -> set[Name]:
    uses = Uses(parse(path), module, is_package=path.name == "__init__.py")
    return {(source, name) for source, name in uses.found if source != module}


@cache
def all_uses() -> set[Name]:
    used = set(lazy_names())
    for module, path in MODULES.items():
        used |= used_names(module, path)
    inside = set(MODULES.values())
    for user in USERS:
        found = [ROOT / user] if (ROOT / user).is_file() else (ROOT / user).rglob("*")
        for path in found:
            if path.suffix == ".py" and path not in inside:
                used |= used_names(path.stem, path)
            elif path.suffix == ".md":
                used |= set(names_in_text(path.read_text("utf-8")))
    for root in PACKAGES.values():
        project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
        used |= set(names_in_text(str([project.get("scripts"), project.get("entry-points")])))
    return used


def offenders(tree: ast.Module, used: set[str]) -> list[str]:
    """Return the names of a module without underscore that only the module itself uses.

    Args:
        tree: the module.
        used: its names that other files use.
    """
    defined = dict(definitions(tree))
    registered = [each for each in tree.body if getattr(each, "name", None) not in {None, *defined}]
    public = used | exported_names(tree)
    public = public.union(*map(names_in_signature, registered))
    while (
        new := {
            name
            for each in public & defined.keys()
            for name in names_in_signature(defined[each]) & defined.keys()
        }
        - public
    ):
        public |= new
    return sorted(name for name in defined.keys() - public if not name.startswith("_"))


def test_names_used_only_in_their_own_file_start_with_an_underscore() -> None:
    used = all_uses()
    wrong = [
        f"{file}: {', '.join(names)}"
        for module, path in MODULES.items()
        for file in [path.relative_to(ROOT).as_posix()]
        if (names := offenders(parse(path), {name for source, name in used if source == module}))
    ]
    assert not wrong, "\n".join(["these names need an underscore:", *wrong])


def test_every_file_is_looked_at() -> None:
    assert {name.partition(".")[0] for name in MODULES} == set(PACKAGES)
    assert ("keras_cnns.cli", "main") in all_uses()  # an entry point
    assert ("keras_cnns.training.trainer", "train") in all_uses()  # a lazy import


def test_what_is_public_and_what_is_not() -> None:
    tree = ast.parse(
        """
logger = logging.getLogger(__name__)
LIMIT = LARGE_LIMIT = 3
__all__ = ["Exported"]
class Exported: ...
class Result: ...
@dataclass
class Options:
    result: "Result | None"
def used(options: Options) -> int: ...
@cache
def helper(result: Result) -> None: ...
@app.command()
def registered() -> None: ...
"""
    )
    assert offenders(tree, {"used"}) == ["LARGE_LIMIT", "LIMIT", "helper"]
    assert offenders(tree, set()) == ["LARGE_LIMIT", "LIMIT", "Options", "Result", "helper", "used"]
