"""What the accuracies over several seeds say."""

import pytest

from keras_cnns.lab.verdict import Verdict
from keras_cnns.tune.comparison import Comparison, comparison_seeds


def compare(*differences: float, recipe: float = 0.8) -> Comparison:
    """Return a comparison with these differences in points."""
    seeds = tuple(range(1, len(differences) + 1))
    bests = tuple(recipe + each / 100 for each in differences)
    return Comparison(7, seeds, (recipe,) * len(seeds), bests)


@pytest.mark.parametrize(
    ("differences", "verdict", "message"),
    [
        ((5.0, 5.1, 5.2), Verdict.SUPPORTED, "Trial 7 is at least 4.93 points better than the"),
        ((0.02, 0.04), Verdict.INCONCLUSIVE, "comparison with trial 7 is inconclusive. The"),
        ((0.10, 0.11, 0.40, 0.2), Verdict.SUPPORTED, "at least 0.03 points better"),
        ((0.01, 0.011, 0.0102, 0.0105), Verdict.SUPPORTED, "at least 0.009 points better"),
        ((-5.0, -5.1, -5.2), Verdict.NOT_SUPPORTED, "its test accuracy is 5.10 points lower over"),
        ((-5.0, -5.1, -5.2), Verdict.NOT_SUPPORTED, "(between 4.93 and 5.27; each bound holds"),
        ((-8.5, 53.3), Verdict.INCONCLUSIVE, "is +22.40 points over 2 seeds (between -172.69 and"),
        ((0.5, -0.2, 0.4), Verdict.INCONCLUSIVE, "About 10 seeds would decide it"),
        ((1.0, -1.0), Verdict.INCONCLUSIVE, "More seeds would hardly decide it"),
        ((0.0, 0.0, 0.0), Verdict.INCONCLUSIVE, "the two have the same test accuracy with every"),
        ((1.0, 1.0), Verdict.INCONCLUSIVE, "is +1.00 points with every one of 2 seeds"),
        ((-1.0, -1.0), Verdict.INCONCLUSIVE, "is -1.00 points with every one of 2 seeds"),
    ],
)
def test_three_results_and_equal_differences(
    differences: tuple[float, ...], verdict: Verdict, message: str
) -> None:
    comparison = compare(*differences)
    assert comparison.verdict is verdict
    text = comparison.describe()
    assert message in text
    assert ("Nothing was better" in text) == (verdict is Verdict.NOT_SUPPORTED)
    assert ("Nothing was shown" in text) == (verdict is Verdict.INCONCLUSIVE)


@pytest.mark.parametrize(
    ("number", "verdict", "message"),
    [
        (7, Verdict.NOT_SUPPORTED, "Nothing was better than the recipe: trial 7 is best on the"),
        (1, Verdict.INCONCLUSIVE, "the recipe's own training diverges with the seed 3."),
    ],
)
def test_a_training_that_diverges_ends_the_comparison(
    number: int, verdict: Verdict, message: str
) -> None:
    comparison = Comparison(7, diverged=(number, 3))
    assert comparison.verdict is verdict
    assert message in comparison.describe()


def test_differences_that_are_equal_but_for_rounding_have_no_interval() -> None:
    comparison = Comparison(2, (1, 2), (0.8, 0.7), (0.9, 0.8))
    assert len(set(comparison.differences)) == 2
    assert comparison.verdict is Verdict.INCONCLUSIVE
    assert "there is no interval" in comparison.describe()


def test_the_seed_of_the_search_is_not_used_again() -> None:
    assert comparison_seeds(0, 3) == (1, 2, 3)
    assert comparison_seeds(2**31 - 1, 2) == (0, 1)
