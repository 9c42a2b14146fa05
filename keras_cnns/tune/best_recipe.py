"""The recipe with the best settings, as TOML with the measured result in a comment."""

import textwrap
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import tomli_w

from keras_cnns.data.sources.folder.findings import printable
from keras_cnns.files import read_text
from keras_cnns.recipes import Recipe, list_recipes, load_recipe, with_absolute_paths
from keras_cnns.tune.study import Trial


def format_best(source: str, recipe: Recipe, result: str, best: Trial, is_best: bool) -> str:
    """Return a recipe as TOML: its `base`, if there is one, and the keys that differ from the base.

    Args:
        source: the name or path of the recipe of the search.
        recipe: the recipe with the best settings.
        result: the measured result, in whole sentences.
        best: the trial with the highest validation accuracy.
        is_best: whether `recipe` has the settings of this trial; if False, it has the settings of
            the original recipe.
    """
    which = (
        f"These are the settings of trial {best.number}."
        if is_best
        else "These are the recipe's own settings."
    )
    trial = (
        f"Trial {best.number} had the highest validation accuracy of the search, "
        f"{best.accuracy:.2%}."
    )
    command = printable(f"keras-cnns tune {source}")
    text = f"`{command}` wrote this recipe. {which} {result} {trial}"
    lines = textwrap.wrap(text, 96, break_on_hyphens=False, break_long_words=False)
    comment = "\n".join(f"# {line}" for line in lines)
    return f"{comment}\n\n{tomli_w.dumps(_changes(source, with_absolute_paths(recipe)))}"


def _changes(source: str, recipe: Recipe) -> dict[str, Any]:
    """Return a recipe's base and the keys that differ from it; without a base, all keys."""
    tree = asdict(cast(Any, recipe))
    base = _find_base(source)
    if base is None:
        return tree
    of_base = asdict(cast(Any, load_recipe(base)))
    changes = {
        section: {key: each for key, each in values.items() if of_base[section][key] != each}
        for section, values in tree.items()
    }
    return {"base": base} | {section: values for section, values in changes.items() if values}


def _find_base(source: str) -> str | None:
    """Return the name of the recipe's base, if any; a built-in recipe is its own base."""
    if source in list_recipes() and not Path(source).is_file():
        return source
    base = tomllib.loads(read_text(source)).get("base")
    return str(base) if base else None
