"""Write a Markdown page for each experiment, and the figures into a folder beside the pages."""

import inspect
from collections.abc import Iterable, Sequence
from pathlib import Path

from keras_cnns.files import replacing, write_text
from keras_cnns.lab.experiment import Experiment, Measurements
from keras_cnns.lab.report import (
    describe_changes,
    describe_decision,
    describe_repetition,
    make_table,
    read_folder,
)
from keras_cnns.lab.running import Size
from keras_cnns.lab.verdict import decide
from keras_cnns.report.page import Animation, Chart

_FIGURES = "figures"  # the folder of the figures, beside the pages


def write_markdown(folder: Path, to: Path) -> list[Path]:
    """Write a page for each experiment that has measurements in a folder; return the pages' paths.

    Raises:
        ValueError: no experiment was started in the folder.
        OSError: a page cannot be written.
    """
    pages = []
    for experiment, size, measurements in read_folder(folder):
        if size and measurements:
            page = to / f"{experiment.name}.md"
            (to / _FIGURES).mkdir(parents=True, exist_ok=True)
            figures = list(_write_figures(experiment, measurements, to))
            write_text(page, _format(experiment, size, measurements, figures))
            pages.append(page)
    return pages


def _write_figures(
    experiment: Experiment, measurements: Sequence[Measurements], to: Path
) -> Iterable[str]:
    """Write the figures of an experiment as files; yield the Markdown that shows each of them."""
    figures: list[tuple[Chart | Animation, str, bytes]] = [
        *((each, "svg", each.svg.encode()) for each in experiment.charts(measurements) if each),
        *((each, "gif", each.gif) for each in experiment.animations(measurements)),
    ]
    for figure, kind, content in figures:
        name = f"{_FIGURES}/{experiment.name}-{figure.file_name}.{kind}"
        with replacing(to / name) as partial:
            partial.write_bytes(content)
        yield f"**{figure.title}**\n\n![{figure.description}]({name})"


def _format(
    experiment: Experiment, size: Size, measurements: list[Measurements], figures: Sequence[str]
) -> str:
    verdict, decisions = decide(experiment, measurements)
    results = [describe_decision(each, experiment.deterministic) for each in decisions]
    table = make_table(experiment, measurements)
    parts = [
        f"# {experiment.name}",
        experiment.claim,
        f"**Verdict**: {verdict.value.capitalize()}.",
        "\n".join(f"- {each}" for each in results),
        f"**What would change the verdict**: {' '.join(describe_changes(experiment, decisions))}",
        f"- **Source**: {experiment.source}\n- **Varied**: {experiment.varied}\n"
        f"- **Fixed**: {experiment.fixed}\n- **Measured**: {experiment.measured}\n"
        f"- **What to look at**: {experiment.look_at}",
        "## Results",
        *experiment.findings(measurements),
        *figures,
        f"## {table.title}",
        "\n".join(
            [
                _row(table.columns),
                _row(["---"] + ["---:"] * table.numbers),
                *(_row([str(cell) for cell in row]) for row in table.rows),
            ]
        ),
        "## Formula and code",
        f"```\n{experiment.formula}\n```",
        "The code that implements it:",
        "\n".join(f"- {_describe_source(each)}" for each in experiment.implementation),
        "## Questions",
        "\n".join(f"{n}. {text}" for n, text in enumerate(experiment.questions, start=1)),
        "## Repeat the experiment",
        describe_repetition(experiment, size, len(measurements)),
    ]
    return "\n\n".join(parts) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(each.replace('|', chr(92) + '|') for each in cells)} |"


def _describe_source(implementation: object) -> str:
    """Return the name of a function or class, with a link to the file that defines it."""
    module = inspect.getmodule(implementation)
    assert module is not None
    name = getattr(implementation, "__qualname__", str(implementation))
    path = module.__name__.replace(".", "/") + ".py"
    return f"`{name}` in [`{path}`](../../{path})"
