"""The networks that `fit` can choose: their estimated time and memory."""

from dataclasses import replace

import pytest

from keras_cnns.fit.networks import Budget, Network, is_too_slow

MINUTE = Budget(seconds=60, cores=2, memory=16 * 2**30)


@pytest.mark.parametrize(
    ("name", "size", "epochs", "expected"),
    [
        ("resnet44", 28, 39, True),
        ("resnet44", 28, 40, False),
        ("resnet18", 28, 9, True),
        ("resnet18", 28, 10, False),
        ("resnet18", 128, 3, False),  # there is nothing faster for large images
        ("resnet34", 128, 30, True),
        ("resnet20", 28, 30, False),  # there is nothing faster
        ("resnet50", 128, 3, False),  # a network of weights
    ],
)
def test_a_slow_machine_gets_the_fastest_network(
    name: str, size: int, epochs: int, expected: bool
) -> None:
    assert is_too_slow(name, size, epochs) == expected


def test_the_time_allows_more_epochs_of_a_cheaper_network() -> None:
    # 41 million multiply-adds for an image, three times: 60 * 2 * 50e9 / (3 * 41e6) = 49,000.
    assert Network("resnet20").epochs(32, 1000, MINUTE) == pytest.approx(49, rel=0.02)
    assert Network("resnet20").epochs(16, 1000, MINUTE) == pytest.approx(4 * 49, rel=0.02)
    assert Network("resnet20").epochs(32, 1000, replace(MINUTE, seconds=-1)) == 0
    wide = Network("resnet18", small_stem=True)
    fewer = wide.epochs(32, 1000, MINUTE)
    # The paper's stem reduces height and width by 4.
    assert Network("resnet18").epochs(32, 1000, MINUTE) == pytest.approx(16 * fewer)
    assert wide.epochs(32, 1000, replace(MINUTE, bfloat16=True)) == pytest.approx(2.4 * fewer)


def test_a_small_stem_needs_more_memory_unless_the_network_has_one() -> None:
    for name, factor in (("resnet18", 16), ("resnet20", 1)):
        network = Network(name)
        with_stem = replace(network, small_stem=True)
        assert with_stem.activation_bytes(32) == factor * network.activation_bytes(32)
