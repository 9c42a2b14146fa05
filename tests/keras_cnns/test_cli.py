"""The command line: help, errors and output."""

import errno
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import typer
from typer.models import OptionInfo

from keras_cnns.cli import INTERRUPTED, PASS_ALL, app, describe_error, pass_on, run
from keras_cnns.commands import ENTRY_POINTS
from keras_cnns.recipes import list_recipes, load_recipe, parse_recipe
from keras_cnns.training import Run

OWN = (
    *("train", "evaluate", "predict", "report", "recipes", "models", "data", "weights", "lab"),
    *("fit", "demo", "card"),
)
LR_FINDER = ("train", "--recipe", "digits-resnet20", "--find-lr")


def keras_cnns(*arguments: str) -> tuple[int, str, str]:
    process = subprocess.run(
        [sys.executable, "-m", "keras_cnns.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    return process.returncode, process.stdout, process.stderr


def test_other_distributions_bring_their_commands() -> None:
    names = {entry_point.name for entry_point in metadata.entry_points(group=ENTRY_POINTS)}
    assert {"export", "serve", "score"} <= names
    status, out, err = keras_cnns("--help")
    assert (status, err) == (0, "")
    assert all(f" {command} " in out for command in (*OWN, *names))


@pytest.mark.parametrize("command", [*OWN, "export", "serve", "score"])
def test_help_shows_a_working_example(command: str) -> None:
    status, out, err = keras_cnns(command, "--help")
    assert (status, err) == (0, "")
    example = " ".join(re.split("example: ?", out, flags=re.IGNORECASE)[-1].split())
    assert f"keras-cnns {command} " in f"{example} "


def test_an_option_has_one_name_in_all_commands() -> None:
    """A path that a command writes is --to, or a run directory; a flag has no opposite."""

    def options(app: typer.Typer) -> Iterator[tuple[str, Any, bool]]:
        """Yield name and type of all options, and whether their spelling is declared."""
        commands: list[Any] = [*app.registered_commands, *app.registered_groups]
        for command in commands:
            if isinstance(inner := getattr(command, "typer_instance", None), typer.Typer):
                yield from options(inner)
            elif command.callback:
                hints = get_type_hints(command.callback, include_extras=True)
                for name, hint in hints.items():
                    kind, *extra = get_args(hint) or (None,)
                    if extra and isinstance(extra[0], OptionInfo):
                        # In Annotated, the first declaration is in `default`.
                        yield name, kind, str(extra[0].default).startswith("--")

    found = list(options(app))
    paths = {name for name, kind, _ in found if kind in (Path, Path | None)}
    # `demo` has --runs and --models; `lab report` reads --to, and writes pages to --markdown too.
    assert paths == {"to", "run", "runs", "models", "markdown"}
    flags = {name: is_declared for name, kind, is_declared in found if kind is bool}
    assert flags == dict.fromkeys(flags, True)  # else Typer adds --no-...
    assert {"aux_heads", "skip_bad"} <= flags.keys()


def test_version() -> None:
    assert keras_cnns("--version")[:2] == (0, f"keras-cnns {metadata.version('keras-cnns')}\n")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from keras_cnns.cli import add_commands, app; add_commands(app); "
        "sys.exit(bool({'tensorflow', 'keras', 'onnxruntime', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["trian"], 2, "No such command 'trian'"),
        (["train"], 2, "Missing option '--recipe'"),
        (["train", "--recipe", "digits-resnet2", "--run", "x"], 2, "did you mean 'digits-resn"),
        (
            ["train", "--recipe", "digits-resnet20", "--run", "x", "--set", "training.epochs=0"],
            2,
            "training.epochs is 0",
        ),
        (["train", "--recipe", "digits-resnet20", "--run", "/"], 2, "is not empty, but has no"),
        (["evaluate", "no/such/run"], 1, "there is no run directory no/such/run"),
        (["evaluate", __file__], 1, f"{__file__} is a file; a run is a directory"),
        (["report", __file__], 1, f"{__file__} is a file; a run is a directory"),
        (
            # The page is checked before the data are opened.
            [*LR_FINDER, "--run", "/proc/first", "--set", "data.train_split=nowhere"],
            1,
            "/proc/first-find-lr",
        ),
        (["predict", "no/such/run"], 2, "Missing argument"),
        (["predict", "run", "x.png", "--tta"], 2, "no option --tta: test-time augmentation is not"),
        (["predict", "no/such/run", "x.png", "--top-k", "0"], 2, "--top-k"),
    ],
)
def test_an_error_is_short_and_debug_adds_the_traceback(
    arguments: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(app, arguments, "keras-cnns") == status
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) <= 2
    assert "Traceback" not in error
    assert run(app, [*arguments, "--debug"], "keras-cnns") == status
    assert "Traceback" in capsys.readouterr().err


@pytest.fixture
def unwritable(tmp_path: Path) -> Path:
    """Return a path below a file, where nobody can write, not even root."""
    (tmp_path / "file").write_text("x")
    return tmp_path / "file" / "new"


@pytest.mark.parametrize(
    "command",
    [
        ("train", "--recipe", "digits-resnet20", "--run"),
        ("train", "--recipe", "digits-resnet20", "--find-lr", "--run"),
        ("tune", "digits-resnet20", "--run"),
        ("lab", "run", "saddle", "--to"),
        ("card", "RUN", "--to"),
        ("predict", "RUN", __file__, "--to"),
    ],
    ids=" ".join,
)
def test_a_path_that_cannot_be_written_is_named_in_one_sentence(
    command: tuple[str, ...],
    unwritable: Path,
    finished_run: Run,
    capsys: pytest.CaptureFixture[str],
) -> None:
    to = unwritable.with_suffix(".csv") if command[0] == "predict" else unwritable
    arguments = [str(finished_run.path) if each == "RUN" else each for each in command]
    assert run(app, [*arguments, str(to)], "keras-cnns") == 1
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("keras-cnns")
    assert message.endswith(f": {unwritable.parent} is a file, not a directory")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            OSError(errno.EROFS, "Read-only file system", "/media/x"),
            "cannot write /media/x: Read-only file system",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", Path("x")),
            "cannot write x: No space left on device; free space and give the same command again",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "cannot write: No space left on device; free space and give the same command again",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", b"x"),
            "cannot write or read x: Permission denied",
        ),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "/no/such/x"),
            "cannot write or read /no/such/x: there is no directory /no/such",
        ),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "Connection refused"),
        (OSError("a sentence"), "a sentence"),
    ],
)
def test_an_error_of_the_system_is_a_sentence(error: OSError, message: str) -> None:
    assert describe_error(error) == message


def test_output_that_cannot_be_written_is_an_error() -> None:
    """Python would ignore an error at the end of the process, and print a part of a traceback."""
    code = (
        "import sys, typer; from keras_cnns.cli import run; app = typer.Typer(); "
        "app.command()(lambda: print('x')); sys.exit(run(app, [], 'keras-cnns'))"
    )
    command = [sys.executable, "-c", code]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch("keras-cnns: cannot write: No space left on device; .+\n", done.stderr)


@pytest.mark.parametrize(
    ("error", "lines"),
    [
        (ValueError("the file is damaged"), ["the file is damaged"]),
        (
            ValueError("  it does not fit\n  missing: a, b\n\n  surplus: c\n"),
            ["it does not fit", "  missing: a, b", "  surplus: c"],
        ),
        (
            OSError("cannot read:\n" + "\n".join(f"file {i}" for i in range(50))),
            ["cannot read:", *(f"file {i}" for i in range(19)), "and 31 more lines"],
        ),
        (
            OSError("cannot read:\n" + "\n".join(f"file {i}" for i in range(19))),
            ["cannot read:", *(f"file {i}" for i in range(19))],
        ),
        (
            TypeError(f"cannot load\nconfig={'x' * 9000}\nException encountered: no such layer"),
            [
                "TypeError: cannot load",
                f"config={'x' * 493}…",
                "Exception encountered: no such layer",
                "Add --debug to print the traceback.",
            ],
        ),
        (ValueError("x" * 9000), ["x" * 9000]),
        (KeyError(), ["KeyError: ", "Add --debug to print the traceback."]),
        (typer.BadParameter("not one of:\na\nb"), ["Invalid value: not one of:", "a", "b"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_long_message_keeps_the_lines_with_the_facts(error: Exception, lines: list[str]) -> None:
    assert describe_error(error).split("\n") == lines


def test_an_interruption_is_reported_once(capsys: pytest.CaptureFixture[str]) -> None:
    inner, outer = typer.Typer(), typer.Typer()

    @inner.command()
    def wait() -> None:
        raise KeyboardInterrupt

    outer.callback()(lambda: None)
    main = pass_on(lambda arguments, program: run(inner, arguments, program), "keras-cnns wait")
    outer.command("wait", context_settings=PASS_ALL)(main)
    with pytest.raises(SystemExit) as ended:
        run(outer, ["wait"], "keras-cnns")
    assert ended.value.code == INTERRUPTED
    assert capsys.readouterr().err == "keras-cnns wait: interrupted\n"


def test_a_finished_run_is_evaluated_and_predicts(
    finished_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(app, ["evaluate", str(finished_run.path)], "keras-cnns") == 0
    assert "test[:32]: accuracy " in capsys.readouterr().out
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    assert run(app, ["predict", str(finished_run.path), str(bad)], "keras-cnns") == 3
    assert "bad.png: not a JPEG, PNG, WebP, BMP or GIF image" in capsys.readouterr().err


def test_a_run_is_reported_and_runs_are_compared(
    finished_run: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(finished_run.path.parent)  # a long path would be wrapped in the table
    path, page = Path(finished_run.path.name), tmp_path / "comparison.html"
    assert run(app, ["report", str(path)], "keras-cnns") == 0
    assert f"{path}: {path / 'report.html'}" in capsys.readouterr().out
    assert run(app, ["report", str(path), str(path), "--to", str(page)], "keras-cnns") == 0
    printed = capsys.readouterr().out
    accuracy = f"{finished_run.results()['test']['accuracy']:.2%}"
    assert all(f") {accuracy} " in " ".join(line.split()) for line in printed.splitlines()[1:3])
    assert page.is_file()


def test_the_lr_finder_proposes_a_learning_rate_and_plots_the_loss(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "--recipe", "digits-resnet20", "--set", "training.batch_size=16"]
    arguments += ["--find-lr", "--run", str(tmp_path / "first")]
    assert run(app, arguments, "keras-cnns") == 0
    printed = capsys.readouterr().out
    (proposed,) = re.findall(r"--set optimizer.learning_rate=([\d.e-]+)", printed)
    assert 1e-4 < float(proposed) < 1
    assert not (tmp_path / "first").exists()  # a training may still begin there
    assert 'alt="Loss: loss against learning rate' in (tmp_path / "first-find-lr.html").read_text()
    progress = r"learning-rate finder: learning rate [\d.e+-]+, loss [\d.e+-]+, \d+\.?\d* s"
    assert re.fullmatch(progress, printed.splitlines()[0])  # no accuracy, and no epoch


def test_a_dry_run_prints_recipe_and_estimate_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "--recipe", "digits-resnet20", "--set", "training.epochs=3"]
    arguments += ["--set", "data.train_split=train[:96]", "--run", str(tmp_path / "first")]
    assert run(app, [*arguments, "--set", "training.batch_size=32", "--dry-run"], "keras-cnns") == 0
    printed = capsys.readouterr().out
    assert parse_recipe(tomllib.loads(printed.partition("\nmodel  ")[0])).training.epochs == 3
    assert "model     resnet20, " in printed
    assert "steps     9: 3 epochs of 3, with 96 images in batches of 32" in printed
    measured = r"^time      about \d.* from 10 measured steps of \d+ ms"
    assert re.search(measured, printed, re.MULTILINE)
    assert re.search(r"^memory    \d+\.\d GiB", printed, re.MULTILINE)
    assert not any(tmp_path.iterdir())


def test_recipes_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["recipes"], "keras-cnns") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list_recipes()
    assert any(re.search("digits-resnet20 +resnet20 +digits +99.7 %", line) for line in lines)
    assert run(app, ["recipes", "digits-resnet20"], "keras-cnns") == 0
    printed = capsys.readouterr().out
    assert "keras-cnns train --recipe digits-resnet20 --run runs/digits-resnet20" in printed
    assert parse_recipe(tomllib.loads(printed)) == load_recipe("digits-resnet20")
    assert run(app, ["recipes", "digits-resnet2"], "keras-cnns") == 2
    assert "did you mean 'digits-resnet20'" in capsys.readouterr().err


def test_the_help_of_train_lists_the_recipes() -> None:
    out = keras_cnns("train", "--help")[1]
    assert all(name in out for name in list_recipes())


def test_models_lists_the_registry(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["models"], "keras-cnns") == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.startswith("resnet50 ")]
    assert "25,557,032" in line
    assert "4,089.2 M" in line
    assert "arXiv:1512.03385" in line


def test_a_model_is_shown_stage_by_stage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["models", "show", "resnet20", "--size", "16"], "keras-cnns") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:5]] == [
        ["stem", "16x16x16"],
        ["stage1", "16x16x16"],
        ["stage2", "8x8x32"],
        ["stage3", "4x4x64"],
    ]
    assert "269,722" in lines[-1]
    assert run(app, ["models", "show", "resnet21"], "keras-cnns") == 2
    assert "there is no model 'resnet21'" in capsys.readouterr().err
