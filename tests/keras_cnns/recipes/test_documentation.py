"""The documentation of recipes is complete, and the committed page is current."""

import re
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import pytest

from keras_cnns.recipes import Recipe, list_recipes, load_recipe, parse_recipe
from keras_cnns.recipes.documentation import (
    format_documented_recipe,
    format_reference,
    read_header,
    summarize_recipe,
)

DOCS = Path(__file__).parents[3] / "docs"
KEYS = {
    f"{section.name}.{key}": field.description
    for section in fields(Recipe)
    for key, field in cast(Any, section.type).__pydantic_fields__.items()
}


@pytest.mark.parametrize("key", KEYS)
def test_every_key_is_documented_in_whole_sentences(key: str) -> None:
    sentence = " ".join((KEYS[key] or "").split())
    assert re.fullmatch(r"[A-Z][^\n]+\.", sentence), key
    sentences = re.split(r"(?<=[^l]\.) (?=[A-Z`])", sentence)
    longest = max(sentences, key=lambda each: len(each.split()))
    assert len(longest.split()) <= 50, f"{key} has a long sentence: {longest}"


@pytest.mark.parametrize("name", list_recipes())
def test_a_documented_recipe_is_the_recipe(name: str) -> None:
    recipe = load_recipe(name)
    text = format_documented_recipe(recipe)
    assert parse_recipe(tomllib.loads(text)) == recipe
    assert max(map(len, text.splitlines())) <= 100


def test_range_and_default_are_shown() -> None:
    text = " ".join(format_documented_recipe(load_recipe("digits-resnet20")).split("\n# "))
    for expected in (
        "(number, at least 0 and below 1; default 0.9)",
        "(integer, from 1 to 1,000,000,000; required)",
        '("float32" or "bfloat16"; default "float32")',
        "(list of numbers; required)",
        "(list of numbers, each above 0; default [])",
        "(list of integers, each from 1 to 1,000,000,000; default [])",
        "(integer, 0 or at least 2; default 0)",
        "(true or false; default false)",
    ):
        assert expected in text


@pytest.mark.parametrize("name", list_recipes())
def test_a_recipe_begins_with_its_source_command_accuracy_and_time(name: str) -> None:
    header = read_header(name)
    text = " ".join(header.split())
    assert re.search(r"The (papers?|source)( of the network)? (is|are) ", text)
    assert f"\n    keras-cnns train --recipe {name} --run runs/" in header
    assert "accuracy" in text
    assert re.search("training time|duration", text)
    (command,) = re.findall(r"^    keras-cnns train (.*)$", header, re.MULTILINE)
    load_recipe(name, re.findall(r"--set (\S+)", command))


def test_a_summary_has_the_facts_of_the_header() -> None:
    summary = summarize_recipe("digits-resnet20")
    assert summary.measured_accuracy == "99.7 %"
    assert summary.training_time == "less than a minute on two cores"
    summary = summarize_recipe("cifar10-resnet20")
    assert (summary.model, summary.data) == ("resnet20", "cifar10:3.0.2")
    assert (summary.measured_accuracy, summary.published_accuracy) == ("", "91.25 %")
    assert summary.training_time == "about 2.5 hours on two cores"


def test_the_committed_page_is_current() -> None:
    committed = (DOCS / "recipes.md").read_text("utf-8")
    assert committed == format_reference(), "run `make docs`"
