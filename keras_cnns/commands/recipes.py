"""`keras-cnns recipes`."""

from dataclasses import astuple
from typing import Annotated

import typer

from keras_cnns.recipes import RecipeError, list_recipes, load_recipe
from keras_cnns.recipes.documentation import (
    SUMMARY_COLUMNS,
    format_documented_recipe,
    format_reference,
    read_comment,
    summarize_recipe,
)
from keras_cnns.table import print_table


def recipes(
    name: Annotated[
        str | None,
        typer.Argument(help="Name of a built-in recipe or path of a TOML file to print."),
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the documentation of all recipes and keys.")
    ] = False,
) -> None:
    """List the built-in recipes, or print one with all of its keys and their documentation.

    The table shows the accuracy on the test split, as measured by this project
    and as published.
    """
    if markdown:
        print(format_reference(), end="")
        return
    if name is None:
        rows = [astuple(summarize_recipe(each)) for each in list_recipes()]
        print_table(SUMMARY_COLUMNS, rows, numbers=(3, 4))
        return
    try:
        loaded = load_recipe(name)
    except RecipeError as error:
        raise typer.BadParameter(str(error)) from error
    if name in list_recipes():
        print(read_comment(name))
    print(format_documented_recipe(loaded), end="")
