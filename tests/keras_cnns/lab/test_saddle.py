from pathlib import Path

import numpy as np

from keras_cnns.lab.saddle import (
    MINIMUM,
    OPTIMIZERS,
    START,
    descend,
    steps_to_escape,
    value,
    write_saddle_page,
)


def test_trajectories_follow_the_update_rules() -> None:
    for momentum in OPTIMIZERS.values():
        x, y = START
        velocity = np.zeros(2)
        expected = [START]
        for _ in range(20):
            velocity = momentum * velocity + np.array([x, y**3 - y])
            x, y = np.array([x, y]) - 0.05 * velocity
            expected.append((x, y))
        np.testing.assert_allclose(descend(momentum, 20), expected, rtol=1e-4, atol=1e-6)


def test_momentum_escapes_in_less_than_a_third_of_the_steps(tmp_path: Path) -> None:
    plain, heavy = (steps_to_escape(descend(momentum)) for momentum in OPTIMIZERS.values())
    assert plain is not None
    assert heavy is not None
    assert 0 < heavy < plain / 3
    assert value(0, 1) == MINIMUM
    write_saddle_page(tmp_path / "saddle.html")
    html = (tmp_path / "saddle.html").read_text()
    assert f'<td>momentum 0.9</td><td class="number">{heavy}</td>' in html
