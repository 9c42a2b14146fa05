import re
from pathlib import Path

import pytest

from keras_cnns.lab.experiment import Measurements, Settings
from keras_cnns.lab.experiments import find_experiment
from keras_cnns.lab.markdown import write_markdown
from keras_cnns.lab.report import PAGE, describe_decision, render
from keras_cnns.lab.running import Size
from keras_cnns.lab.verdict import decide_effect

DEGRADATION = find_experiment("degradation")
SIZE = Size(5, Settings())


def measured(plain: float) -> Measurements:
    """Return measured errors; the argument is that of the deepest plain network."""
    names = [f"{family}{depth}" for family in ("plain", "resnet") for depth in (8, 20, 44)]
    last = dict.fromkeys(names, 0.01) | {"plain44": plain}
    return {
        name: {key: [0.9, 0.5, value] for key in ("error", "val_error", "loss")}
        for name, value in last.items()
    }


@pytest.fixture(scope="module")
def html() -> str:
    planted = [measured(0.2 + seed / 100) for seed in range(5)]
    saddle = find_experiment("saddle")
    return render([(DEGRADATION, SIZE, planted), (saddle, None, [])])


def test_the_page_has_the_claim_the_verdict_and_the_numbers(html: str) -> None:
    assert f'<a href="#degradation">{DEGRADATION.claim}</a>' in html
    assert '<section id="degradation">' in html
    assert (
        "Supported. Training error of plain-44 minus training error of plain-8: 21 percentage "
        "points (mean of 5 seeds; interval from 19.5 to 22.5, each bound with 95% confidence). The "
        "claim requires more than 1 percentage point, so this part is supported."
    ) in html
    assert '<td>plain44</td><td class="number">22 ± 1.58</td>' in html
    assert "def basic_block(" in html
    assert html.count("Download as PNG") == 5
    assert 'download="training-error-of-plain-networks.png"' in html
    assert 'href="data:image/png;base64,' in html
    assert "keras-cnns lab run degradation --seeds 10" in html
    assert "<script" not in html
    assert "http" not in html.replace("http-equiv", "").replace("http://www.w3.org", "")


def test_an_experiment_that_was_not_measured_has_its_command(html: str) -> None:
    assert "<td>not measured</td>" in html
    assert "To measure it, run: keras-cnns lab run saddle" in html


def test_an_inconclusive_result_says_how_many_seeds_would_decide() -> None:
    planted = [measured(0.02 + each / 200) for each in (-2, 0, 3)]
    html = render([(DEGRADATION, SIZE, planted)])
    assert "<td>inconclusive</td>" in html
    assert "seeds are enough for a decision." in html


@pytest.mark.parametrize(
    ("values", "deterministic", "sentence"),
    [
        (
            (3.0,),
            True,
            "{}: 3 percentage points. The claim requires more than 1 percentage point, so this "
            "part is supported.",
        ),
        (
            (0.5,),
            True,
            "{}: 0.5 percentage points. The claim requires more than 1 percentage point, so this "
            "part is not supported.",
        ),
        (
            (3.0,),
            False,
            "{}: 3 percentage points (one seed, therefore no interval). The claim "
            "requires more than 1 percentage point, so this part is inconclusive.",
        ),
        (
            (float("nan"),),
            True,
            "{}: there is no number, because the search for the best setting ended at the edge of "
            "its range.",
        ),
    ],
)
def test_a_sentence_follows_from_the_numbers(
    values: tuple[float, ...], deterministic: bool, sentence: str
) -> None:
    effect = DEGRADATION.effects[0]
    name = "Training error of plain-44 minus training error of plain-8"
    decision = decide_effect(effect, values, deterministic)
    assert describe_decision(decision, deterministic) == sentence.format(name)


def test_a_folder_becomes_a_page(saddle_folder: Path) -> None:
    html = (saddle_folder / PAGE).read_text()
    assert "<td>supported</td>" in html
    assert "With equal curvatures, gradient descent needs 9 steps" in html


def test_a_folder_becomes_pages_of_documentation(saddle_folder: Path, tmp_path: Path) -> None:
    (path,) = write_markdown(saddle_folder, tmp_path)
    assert path == tmp_path / "saddle.md"
    text = path.read_text()
    saddle = find_experiment("saddle")
    assert saddle.claim in text
    assert "**Verdict**: Supported.\n\n- Steps" in text
    figures = re.findall(r"!\[.+\]\((figures/saddle-.+\.svg)\)", text)
    assert len(figures) > 1
    assert all((tmp_path / figure).read_text().startswith("<svg") for figure in figures)
    assert "in [`keras_cnns/lab/experiments/saddle.py`]" in text
