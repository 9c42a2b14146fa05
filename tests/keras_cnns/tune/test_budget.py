"""The division of a search's time."""

import pytest

from keras_cnns.tune.budget import make_plan


def test_the_comparison_is_part_of_the_time() -> None:
    plan = make_plan(minutes=30, trial=60, seeds=3)
    assert plan.reserved == pytest.approx(1.05 * 6 * 60)
    assert plan.fitting(spent=60) == int((1800 - 378 - 60) / 60)
    text = plan.describe(spent=60)
    assert "about 1 min 0 s" in text
    assert "22 more fit into the search" in text
    assert "29 min 0 s of 30 min 0 s are left, 6 min 18 s of them for the comparison" in text


def test_a_short_search_has_no_comparison_and_says_so() -> None:
    plan = make_plan(minutes=5, trial=60, seeds=3)
    assert plan.reserved == 0
    assert "is skipped" in plan.describe(spent=60)
    assert "comparison" not in make_plan(minutes=5, trial=60, seeds=0).describe(spent=60)
    for spent in (60, 1000):
        minutes = make_plan(minutes=5, trial=60, seeds=3).minutes_to_compare(spent)
        assert make_plan(minutes, trial=60, seeds=3).reserved
        assert make_plan(minutes, trial=60, seeds=3).search_ends >= spent
    assert make_plan(minutes=1, trial=0.0, seeds=3).fitting(spent=0) > 0  # by a coarse clock
    full = make_plan(minutes=1, trial=90, seeds=0)
    assert full.fitting(spent=90) == 0
    assert "and no other fits into the search." in full.describe(spent=90)
