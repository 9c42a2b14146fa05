"""Generate the documentation of recipes from the schema and the headers of the TOML files."""

import re
import textwrap
from dataclasses import astuple, dataclass, fields
from typing import Annotated, Any, Literal, cast, get_args, get_origin

import tomli_w
from pydantic.fields import FieldInfo

from keras_cnns.recipes.schema import Recipe, list_recipes, load_recipe, read_built_in

SUMMARY_COLUMNS = ("recipe", "model", "data", "measured", "published", "training time")

_TYPES = {bool: "true or false", int: "integer", float: "number", str: "string"}
_INTRODUCTION = """\
# Recipes

A recipe is a TOML file that describes one training completely. `keras-cnns train --recipe NAME`
trains a network with a built-in recipe, and `--set SECTION.KEY=VALUE` changes one of its values.
If you write your own recipe, choose a built-in recipe as its `base`, and list only the keys that
differ from it:

```toml
base = "cifar10-resnet20"

[training]
epochs = 10
```

`keras-cnns recipes` lists the built-in recipes, `keras-cnns recipes NAME` prints a recipe with all
of its values, and `keras-cnns recipes --markdown` generates this page.

## Built-in recipes

The column "measured" contains the accuracy on the test split in our own trainings. The column
"published" contains the accuracy that the paper or another source of the recipe reports."""


@dataclass(frozen=True)
class RecipeSummary:
    """A built-in recipe and the facts in its header; a missing fact is ""."""

    name: str
    model: str
    data: str
    measured_accuracy: str  # such as "99.7 %"
    published_accuracy: str
    training_time: str  # such as "about 90 seconds on two cores"


def summarize_recipe(name: str) -> RecipeSummary:
    """Return the summary of a built-in recipe."""
    recipe = load_recipe(name)
    text = " ".join(read_header(name).split())

    def find(pattern: str) -> str:
        found = re.search(pattern, text)
        return found[1] if found else ""

    return RecipeSummary(
        name=name,
        model=recipe.model.name,
        data=recipe.data.name,
        measured_accuracy=find(r"The measured accuracy is ([\d.]+ %)"),
        published_accuracy=find(r"The published accuracy is ([\d.]+ %)"),
        training_time=find(r"The training time is (.+?)(?:,|\.(?: |$))"),
    )


def read_comment(name: str) -> str:
    """Return the comment lines at the beginning of a built-in recipe."""
    comment = re.match(r"(#.*\n)*", read_built_in(name))
    return comment[0] if comment else ""


def read_header(name: str) -> str:
    """Return the text of `read_comment` as Markdown, without the number signs."""
    return re.sub(r"^# ?", "", read_comment(name), flags=re.MULTILINE).strip()


def format_documented_recipe(recipe: Recipe) -> str:
    """Return a recipe as TOML that contains every key, with its documentation above the key."""
    blocks = []
    for section, description, keys in _sections():
        lines = [_comment(description), f"[{section}]"]
        for key, field in keys.items():
            default = "required" if field.is_required() else f"default {_default(field)}"
            lines += [
                _comment(f"{_sentence(field.description)} ({_values(field)}; {default})"),
                f"{key} = {_toml(getattr(getattr(recipe, section), key))}",
            ]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def format_reference() -> str:
    """Return the page docs/recipes.md: all built-in recipes and all keys, as Markdown."""
    names = list_recipes()
    rows = [astuple(summarize_recipe(name)) for name in names]
    recipes = _table(SUMMARY_COLUMNS, [(f"[{name}](#{name})", *facts) for name, *facts in rows])
    headers = [f"### {name}\n\n{read_header(name)}" for name in names]
    sections = [
        f"### {section}\n\n{description}\n\n"
        + _table(
            ("key", "value", "default", "meaning"),
            [
                (f"`{key}`", _values(field), _default(field), _sentence(field.description))
                for key, field in keys.items()
            ],
        )
        for section, description, keys in _sections()
    ]
    return "\n\n".join((_INTRODUCTION, recipes, *headers, "## Keys", *sections)) + "\n"


def _sections() -> list[tuple[str, str, dict[str, FieldInfo]]]:
    """Return each section's name and description, and its keys with their descriptions."""
    types = [(field.name, cast(Any, field.type)) for field in fields(Recipe)]
    return [(name, _sentence(each.__doc__), each.__pydantic_fields__) for name, each in types]


def _values(field: FieldInfo) -> str:
    """Return the type and the range of a key's value."""
    annotation = field.annotation
    if get_origin(annotation) is Literal:
        *others, last = map(_toml, get_args(annotation))
        return f"{', '.join(others)} or {last}"
    if get_origin(annotation) is dict:
        return "table"
    if get_origin(annotation) is tuple:
        entry = get_args(annotation)[0]
        if get_origin(entry) is Literal:
            return f"list of {', '.join(map(_toml, get_args(entry)))}"
        if get_origin(entry) is Annotated:
            value = FieldInfo.from_annotation(entry)
            return f"list of {_TYPES[value.annotation]}s, each {_range(value)}"  # type: ignore[index]
        return f"list of {_TYPES[entry]}s"
    return ", ".join(filter(None, (_TYPES[annotation], _range(field))))  # type: ignore[index]


def _range(field: FieldInfo) -> str:
    """Return the allowed numbers, such as "at least 0"; "" if all are allowed."""
    if isinstance(field.json_schema_extra, dict) and "range" in field.json_schema_extra:
        return str(field.json_schema_extra["range"])
    bounds = {type(each).__name__.lower(): each for each in field.metadata}
    limits = {name: f"{getattr(each, name):,}" for name, each in bounds.items()}
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    if {"ge", "le"} <= limits.keys():
        return f"from {limits['ge']} to {limits['le']}"
    return " and ".join(f"{words[name]} {limit}" for name, limit in limits.items())


def _default(field: FieldInfo) -> str:
    return "" if field.is_required() else _toml(field.get_default(call_default_factory=True))


def _toml(value: Any) -> str:
    """Return a value as TOML writes it, in one line."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        entries = ", ".join(f"{key} = {_toml(each)}" for key, each in value.items())
        return f"{{ {entries} }}" if entries else "{}"
    return tomli_w.dumps({"value": value}).removeprefix("value = ").strip()


def _sentence(text: str | None) -> str:
    return " ".join((text or "").split())


def _comment(text: str) -> str:
    return textwrap.fill(
        text, 100, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
    )


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a table in Markdown."""
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
