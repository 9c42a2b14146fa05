"""Write a model card (Mitchell et al. 2019): the facts of a run and its export, as Markdown.

The card begins with the metadata that Hugging Face's hub reads. Every number is read from the run
directory or from `model.json`. Facts that only a person knows, such as the intended use, are
replaced by the marker of the hub's own template, `[More Information Needed]`.
"""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

import jinja2

from keras_cnns.card.escaping import escape_markdown, fence, format_yaml
from keras_cnns.card.published import Published, read_published
from keras_cnns.durations import format_seconds
from keras_cnns.files import write_text
from keras_cnns.intervals import format_interval
from keras_cnns.recipes import Recipe, format_recipe
from keras_cnns.registry import MODELS
from keras_cnns.runs.ending import describe_ending
from keras_cnns.runs.names import CARD, ENVIRONMENT, MODEL
from keras_cnns.runs.run import Run, open_run

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("keras_cnns.card"),
    autoescape=False,  # the template itself escapes every text, with a filter for Markdown
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_ENVIRONMENT.filters |= {
    "md": escape_markdown,
    "fence": fence,
    "percent": lambda value: "-" if value is None else f"{value:.2%}",
}


@dataclass(frozen=True)
class Card:
    """The facts of a model card that no file of the run contains.

    Attributes:
        license: an identifier that the hub knows, such as "apache-2.0"; "" leaves it out.
        datasets: identifiers of data sets on the hub, such as "uoft-cs/cifar10".
    """

    license: str = ""
    datasets: Sequence[str] = ()


def write_card(
    path: str | Path, *, model: Path | None = None, to: Path | None = None, card: Card | None = None
) -> Path:
    """Write the model card of a finished run.

    Args:
        path: the run directory.
        model: the run's export, `models/NAME` or a version in it; if None, the card lists no
            formats.
        to: the file; by default `card.md` in the run directory.
        card: the facts that no file of the run contains.

    Returns:
        The file's path.

    Raises:
        RunError: the run is not finished, or `model` was not exported from this run.
        OSError: the file cannot be written.
    """
    run = open_run(path)
    published = read_published(model, run) if model else None
    to = to or run.path / CARD
    write_text(to, _render(run, published, card or Card()), is_shared=True)
    return to


def _render(run: Run, published: Published | None, card: Card) -> str:
    """Return the model card as Markdown."""
    results, recipe = run.results(), _without_folders(run.recipe)
    name = published.name if published else run.path.resolve().name
    path = run.path / ENVIRONMENT
    environment = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    metadata = _metadata(name, recipe, results, card)
    return _ENVIRONMENT.get_template("card.md").render(
        metadata=format_yaml(metadata),
        name=name,
        run=run,
        recipe=recipe,
        data_name=_data_name(recipe),
        card=card,
        paper=_paper(recipe.model.name),
        results=results,
        interval=_interval(results["test"]),
        classes=_classes(run.labels, results),
        ending=describe_ending(recipe, results),
        training_time=format_seconds(results["training_seconds"]),
        recipe_text=format_recipe(recipe),
        model_file=MODEL,
        published=published,
        repository=shlex.quote(published.path.resolve().parents[1].name) if published else "",
        fingerprint=environment.get("data_fingerprint"),
        corrections=environment.get("corrections"),
        environment=_facts(environment),
    )


def _metadata(name: str, recipe: Recipe, results: dict[str, Any], card: Card) -> dict[str, Any]:
    """Return the metadata that the hub reads, without unknown values."""
    data = recipe.data
    dataset = card.datasets[0] if card.datasets else data.name.partition(":")[0]
    result = {
        "task": {"type": "image-classification", "name": "Image classification"},
        "dataset": {
            # "imagefolder" is the hub's name of a folder of images with one folder per class.
            "type": "imagefolder" if dataset == "folder" else dataset,
            "name": _data_name(recipe),
            "split": data.test_split,
        },
        "metrics": [
            {"type": "accuracy", "name": "Accuracy", "value": results["test"]["accuracy"]},
        ],
    }
    known: dict[str, Any] = {"license": card.license} if card.license else {}
    if card.datasets:
        known["datasets"] = list(card.datasets)
    return {
        **known,
        "library_name": "keras",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "keras", "keras-cnns", recipe.model.name],
        "metrics": ["accuracy"],
        "model-index": [{"name": name, "results": [result]}],
    }


def _data_name(recipe: Recipe) -> str:
    """Return the name of the folder of images, or of the data set."""
    return recipe.data.path or recipe.data.name


def _without_folders(recipe: Recipe) -> Recipe:
    """Return the recipe with file names in place of paths, which would reveal private folders."""
    data, model = recipe.data, recipe.model
    weights = PurePath(model.weights)
    if weights.is_absolute():
        model = replace(model, weights=weights.name)
    data = replace(data, path=PurePath(data.path).name, corrections=PurePath(data.corrections).name)
    return replace(recipe, data=data, model=model)


def _paper(model: str) -> str:
    return MODELS[model].paper if model in MODELS else ""


def _interval(test: dict[str, Any]) -> str:
    return format_interval(test["accuracy"] * test["samples"], test["samples"])


def _classes(labels: Sequence[str], results: dict[str, Any]) -> list[dict[str, str]]:
    """Return the cells of the table of classes; empty for runs of earlier versions."""
    counts = results.get("test_classes")
    if counts is None:
        return []
    return [
        {
            "label": label,
            "images": str(images),
            "correct": str(correct),
            "recall": f"{correct / images:.1%}" if images else "-",
            "interval": format_interval(correct, images),
            "precision": f"{correct / predicted:.1%}" if predicted else "-",
        }
        for label, images, correct, predicted in zip(
            labels, counts["images"], counts["correct"], counts["predicted"], strict=True
        )
    ]


def _facts(environment: dict[str, Any]) -> dict[str, str]:
    """Return the recorded environment of a run, without the names of its process and host."""
    facts = {
        "Python": environment.get("python"),
        "platform": environment.get("platform"),
        "Keras backend": environment.get("backend"),
        **environment.get("packages", {}),
        "git commit of keras-cnns": (environment.get("git") or {}).get("commit"),
        "seed": environment.get("seed"),
    }
    return {name: str(value) for name, value in facts.items() if value is not None}
