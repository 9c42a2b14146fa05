"""The documentation: every link leads somewhere, every command exists, every Python block runs."""

import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from keras_cnns.cli import app
from keras_cnns.lab.experiments import EXPERIMENTS
from keras_cnns.recipes import load_recipe

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "export" / "README.md",
    ROOT / "serve" / "README.md",
    ROOT / "benchmarks" / "README.md",
]
# Commands that a test can afford; the others are only checked against their --help.
EXECUTED = (
    ("models",),
    ("data", "check"),
    ("evaluate",),
    ("predict",),
    ("report",),
    ("lab", "run", "saddle"),
)
NEED_ARGUMENTS = [("data", "check"), ("evaluate",), ("predict",), ("report",)]
CLASSES = ("daisy", "tulip")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def code_blocks(page: Path, language: str) -> list[str]:
    return [code for info, code in FENCE.findall(page.read_text("utf-8")) if info == language]


def commands(page: Path) -> Iterator[list[str]]:
    """The arguments of the `keras-cnns` commands of a page, in code blocks and in its text."""
    text = page.read_text("utf-8")
    blocks = "\n".join(code_blocks(page, "")).replace("\\\n", " ")
    lines = [line.removeprefix("$ ") for line in blocks.splitlines()]
    prose = FENCE.sub("", text)
    lines += re.findall(r"`(keras-cnns [a-z][^`]*)`", prose)
    lines += re.findall(r"^ {4}(keras-cnns .*)$", prose, re.MULTILINE)
    for line in lines:
        if line.startswith(("keras-cnns ", "keras-cnns-serve ")):
            program, *arguments = shlex.split(line, comments=True)
            yield ["serve", *arguments] if program.endswith("serve") else arguments


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


COMMANDS = list(
    dict.fromkeys(tuple(arguments) for page in PAGES for arguments in commands(page) if arguments)
)


@cache
def help_of(*command: str) -> str:
    """What `keras-cnns COMMAND --help` prints."""
    process = subprocess.run(
        [sys.executable, "-m", "keras_cnns.cli", *command, "--help"],
        env={"COLUMNS": "300", "NO_COLOR": "1", "TERM": "dumb"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in LINK.findall(FENCE.sub("", page.read_text("utf-8"))):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name_of(page)}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{name_of(page)}: {link}"


def test_every_option_of_a_shown_command_exists() -> None:
    assert len(COMMANDS) > 20
    groups = {"models", "data", "weights", "lab"}
    for arguments in COMMANDS:
        is_group = arguments[0] in groups and len(arguments) > 1
        text = help_of(*arguments[: 2 if is_group else 1])
        for argument in arguments:
            if argument.startswith("--"):
                option = argument.partition("=")[0]
                assert re.search(rf"(?<!\S){option}\b", text), f"{option} of {arguments}"


def test_every_recipe_and_override_of_a_shown_training_exists() -> None:
    trainings = [arguments for arguments in COMMANDS if arguments[0] == "train"]
    assert trainings
    for arguments in trainings:
        pairs = list(pairwise(arguments))
        overrides = [value for option, value in pairs if option == "--set"]
        for option, recipe in pairs:
            if option == "--recipe" and not (recipe.isupper() or recipe.endswith(".toml")):
                load_recipe(recipe, overrides)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, run_directory: Path) -> Path:
    """A directory with the runs, the image and the photos that the documentation speaks of."""
    path = tmp_path_factory.mktemp("workplace")
    for run in ("first", "second"):
        shutil.copytree(run_directory, path / "runs" / run)
    generator = np.random.default_rng(0)
    Image.fromarray(generator.integers(0, 256, (32, 32), np.uint8)).save(path / "runs/held-out.png")
    for label in CLASSES:
        (path / "photos" / label).mkdir(parents=True)
        for number in range(10):
            photo = Image.fromarray(generator.integers(0, 256, (40, 40, 3), np.uint8))
            photo.save(path / "photos" / label / f"{number}.png")
    return path


@pytest.fixture
def _in_workplace(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)


@pytest.mark.usefixtures("_in_workplace")
def test_the_cheap_commands_succeed() -> None:
    cheap = [
        arguments
        for arguments in COMMANDS
        if any(arguments[: len(command)] == command for command in EXECUTED)
        and arguments not in NEED_ARGUMENTS  # the text also names bare commands
        and "runs/photos" not in arguments
    ]
    assert {arguments[0] for arguments in cheap} == {command[0] for command in EXECUTED}
    for arguments in cheap:
        result = CliRunner().invoke(app, list(arguments))
        assert result.exit_code == 0, (arguments, result.output, result.exception)


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.parent == ROOT / "docs" and code_blocks(page, "python")],
    ids=name_of,
)
@pytest.mark.usefixtures("_in_workplace")
def test_the_python_blocks_of_a_page_run(page: Path) -> None:
    names: dict[str, object] = {}
    for code in code_blocks(page, "python"):
        exec(compile(code, name_of(page), "exec"), names)
    keras.utils.clear_session()


@pytest.mark.parametrize("recipe", [code for page in PAGES for code in code_blocks(page, "toml")])
def test_the_recipes_shown_can_be_read(recipe: str, tmp_path: Path) -> None:
    if "base =" in recipe:
        (tmp_path / "my-recipe.toml").write_text(recipe)
        load_recipe(tmp_path / "my-recipe.toml")


def test_the_picture_of_the_readme_can_be_drawn_again(run_directory: Path, tmp_path: Path) -> None:
    for model in ("plain56", "resnet56"):
        (tmp_path / model).mkdir()
        for name in ("history.csv", "diagnostics.csv"):
            shutil.copy(run_directory / name, tmp_path / model / name)
    names = runpy.run_path(str(ROOT / "docs" / "images" / "depth.py"))
    names["main"](tmp_path, tmp_path / "depth.svg")
    assert "<svg" in (tmp_path / "depth.svg").read_text("utf-8")


def test_each_experiment_of_the_laboratory_has_a_page() -> None:
    for name, experiment in EXPERIMENTS.items():
        text = (ROOT / "docs" / "lab" / f"{name}.md").read_text()
        assert text.startswith(f"# {name}\n\n{experiment.claim}\n\n**Verdict**: ")
        assert experiment.source in text
        assert len(re.findall(r"!\[.+\]\(figures/.+\)", text)) > 1
