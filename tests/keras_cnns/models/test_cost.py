"""Multiply-adds are those counted by hand; a model's stages add up to its total."""

import keras
import pytest

from keras_cnns.models import Inception, build, cost, inception_module, stage_costs

IMAGE = (8, 6, 4)


@pytest.mark.parametrize(
    ("layer", "parameters", "multiply_adds", "activations"),
    [
        # 8 * 6 positions, 3 * 3 * 4 inputs, 5 filters.
        (keras.layers.Conv2D(5, 3, padding="same"), 3 * 3 * 4 * 5 + 5, 48 * 36 * 5, 48 * 5),
        # 4 * 3 positions; each of 6 filters sees 4 / 2 channels.
        (
            keras.layers.Conv2D(6, 3, strides=2, padding="same", groups=2, use_bias=False),
            3 * 3 * 2 * 6,
            12 * 18 * 6,
            12 * 6,
        ),
        # At each of 48 positions, a matrix from 4 to 7 channels.
        (keras.layers.Dense(7), 4 * 7 + 7, 48 * 4 * 7, 48 * 7),
        # Scale and offset are learned, mean and variance are not; nothing is multiplied and added.
        (keras.layers.BatchNormalization(), 2 * 4, 0, 48 * 4),
    ],
)
def test_a_layer_is_counted_as_by_hand(
    layer: keras.layers.Layer, parameters: int, multiply_adds: int, activations: int
) -> None:
    inputs = keras.Input(IMAGE)
    counted = cost(keras.Model(inputs, layer(inputs)))
    assert counted.parameters == parameters
    assert counted.multiply_adds == multiply_adds
    assert counted.activation_bytes == 4 * activations


@pytest.mark.parametrize(
    ("name", "multiply_adds"),
    [
        ("googlenet", 1_582.7e6),
        ("resnet18", 1.814e9),
        ("resnet34", 3.664e9),
        ("resnet50", 4.089e9),
    ],
)
def test_models_cost_what_is_published(name: str, multiply_adds: float) -> None:
    assert cost(build(name)).multiply_adds == pytest.approx(multiply_adds, rel=2e-4)


@pytest.mark.parametrize("naive", [True, False])
def test_the_table_of_the_inception_modules_docstring_is_true(naive: bool) -> None:
    inputs = keras.Input((28, 28, 192))
    row = Inception(64, 96, 128, 16, 32, 32)
    model = keras.Model(inputs, inception_module(inputs, row, naive=naive, name="3a"))
    counted = cost(model)
    form = "naive" if naive else "with reduction"
    table = (inception_module.__doc__ or "").splitlines()
    (line,) = [line for line in table if f"| {form}" in line]
    numbers = [int(cell.replace(",", "")) for cell in line.split("|")[2:5]]
    assert numbers == [model.output.shape[-1], counted.parameters, counted.multiply_adds]


def test_stages_add_up_to_the_total() -> None:
    *stages, (name, _, total) = stage_costs(build("googlenet", aux_heads=True))
    assert name == "total"
    assert sum(counted.parameters for *_, counted in stages) == total.parameters == 13_378_280
    by_name = {stage: counted.parameters for stage, _, counted in stages}
    assert by_name["inception_3a"] == 163_696
    assert by_name["aux1"] == 3_188_840
    assert by_name["aux2"] == 3_190_888


def test_a_model_without_a_fixed_size_cannot_be_counted() -> None:
    with pytest.raises(ValueError, match="has no fixed size"):
        cost(build("resnet20", input_shape=(None, None, 3)))
