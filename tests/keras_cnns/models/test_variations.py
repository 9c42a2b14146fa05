"""Variations keep a model's layer names and change exactly what they name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from keras_cnns.models import build, inception_module
from keras_cnns.models.googlenet import BODY, Inception
from keras_cnns.models.variations import ACTIVATIONS, KERNEL_INITIALIZERS, NoisyBatchNormalization

SHAPE = (16, 16, 1)


def resnet(**options: Any) -> keras.Model:
    return build("resnet20", SHAPE, 10, **options)


def names(model: keras.Model) -> list[str]:
    return [layer.name for layer in model.layers]


def test_a_model_without_a_variation_is_not_copied() -> None:
    assert not any(
        isinstance(layer, keras.layers.Identity | NoisyBatchNormalization)
        for layer in resnet(activation="relu", batch_normalization=True).layers
    )


@pytest.mark.parametrize("activation", ACTIVATIONS[1:])
def test_every_relu_is_replaced_and_every_name_stays(activation: str) -> None:
    model = resnet(activation=activation)
    assert names(model) == names(resnet())
    found = {each.get_config().get("activation") for each in model.layers} - {None, "linear"}
    assert found == {activation, "softmax"}
    heads = build("googlenet_bn", (32, 32, 1), 10, width=0.1, aux_heads=True, activation=activation)
    assert heads.get_layer("aux1_dense").get_config()["activation"] == activation


@pytest.mark.parametrize(
    ("initializer", "deviation"),
    [
        ("small_normal", lambda fan_in, fan_out: 0.01),
        ("glorot_uniform", lambda fan_in, fan_out: (2 / (fan_in + fan_out)) ** 0.5),
        ("he_normal", lambda fan_in, fan_out: (2 / fan_out) ** 0.5),
    ],
)
def test_initial_weights_have_the_deviation_of_their_paper(
    initializer: str, deviation: Callable[[int, int], float]
) -> None:
    assert initializer in KERNEL_INITIALIZERS
    model = resnet(kernel_initializer=initializer)
    kernel = np.asarray(model.get_layer("stage3_block1_conv1").kernel)  # [3, 3, 32, 64]
    assert kernel.std() == pytest.approx(deviation(9 * 32, 9 * 64), rel=0.03)
    classifier = np.asarray(model.get_layer("logits").kernel)
    assert classifier.std() == pytest.approx((2 / (64 + 10)) ** 0.5, rel=0.15)


def test_without_batch_norm_the_convolutions_have_biases() -> None:
    model = resnet(batch_normalization=False)
    assert names(model) == names(resnet())
    variables = {variable.path.split("/")[-1] for variable in model.variables}
    assert variables == {"kernel", "bias"}
    convolutions = [each for each in model.layers if isinstance(each, keras.layers.Conv2D)]
    assert all(each.use_bias for each in convolutions)
    assert len(convolutions) == 19


def test_noise_follows_batch_norm_in_training_only() -> None:
    layer = NoisyBatchNormalization(noise=0.5)
    x = np.random.default_rng(0).normal(size=(64, 8, 8, 3)).astype("float32")
    plain = np.asarray(keras.layers.BatchNormalization()(x, training=True))
    first, second = (np.asarray(layer(x, training=True)) - plain for _ in range(2))
    means = np.stack([each.mean((0, 1, 2)) for each in (first, second)])
    assert np.abs(means).max() > 0.05
    assert not np.allclose(means[0], means[1], atol=0.01)
    one, two = (np.asarray(layer(x, training=False)) for _ in range(2))
    assert np.array_equal(one, two)
    copy = NoisyBatchNormalization.from_config(layer.get_config())
    assert copy.noise == 0.5


def test_a_variation_can_be_saved_and_loaded(tmp_path: Any) -> None:
    model = resnet(activation="tanh", kernel_initializer="glorot_uniform", batch_norm_noise=0.1)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    images = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype("float32")
    assert np.array_equal(np.asarray(model(images)), np.asarray(loaded(images)))


def test_inception_modules_have_the_branches_and_the_width_that_are_asked_for(
    tmp_path: Path,
) -> None:
    model = build("googlenet_bn", (32, 32, 1), 10, width=0.25, inception_branches=("1x1", "pool"))
    filters = BODY["3a"]
    assert isinstance(filters, Inception)
    assert model.get_layer("inception_3a_output").output.shape[-1] == (64 + 32) // 4
    assert not any("5x5" in name or "3x3" in name for name in names(model))
    one = build("googlenet_bn", (32, 32, 1), 10, width=0.25, inception_branches=("5x5",))
    assert one.get_layer("inception_3a_output").output.shape[-1] == 8
    weights = one.get_layer("inception_3a_5x5_conv").get_weights()
    one.save_weights(tmp_path / "one.weights.h5")
    again = build(
        "googlenet_bn",
        (32, 32, 1),
        10,
        width=0.25,
        inception_branches=("5x5",),
        weights=tmp_path / "one.weights.h5",
    )
    assert np.array_equal(again.get_layer("inception_3a_5x5_conv").get_weights()[0], weights[0])
    model.save_weights(tmp_path / "two.weights.h5")
    options: dict[str, Any] = {"width": 0.25, "inception_branches": ("1x1", "pool")}
    build("googlenet_bn", (32, 32, 1), 10, **options, weights=tmp_path / "two.weights.h5")
    naive = build("googlenet", (32, 32, 1), 10, width=0.25, inception="naive")
    # 16 + 32 + 8 filters, and the 48 channels of the input from the pool.
    assert naive.get_layer("inception_3a_output").output.shape[-1] == 104
    assert not any("reduce" in name or "proj" in name for name in names(naive) if "inc" in name)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet20", {"activation": "gelu"}, "activation is 'gelu'; it must be one of relu, tanh"),
        ("resnet20", {"kernel_initializer": "lecun"}, "must be one of small_normal, glorot_uni"),
        ("resnet20", {"batch_norm_noise": -1.0}, "must be at least 0"),
        (
            "resnet20",
            {"batch_norm_noise": 0.5, "batch_normalization": False},
            "batch_norm_noise needs batch_normalization=True",
        ),
        ("googlenet", {"batch_normalization": False}, "googlenet has no batch normalisation"),
        ("googlenet", {"batch_norm_noise": 0.5}, "googlenet has no batch normalisation"),
        ("googlenet", {"inception": "plain"}, "inception is 'plain'; it must be reduced or naive"),
        ("googlenet", {"inception_branches": ()}, "must be some of 1x1, 3x3, 5x5, pool"),
        ("googlenet", {"inception_branches": ("7x7",)}, "must be some of 1x1, 3x3, 5x5, pool"),
        ("googlenet", {"width": 0.0}, "width is 0.0; it must be above 0"),
    ],
)
def test_an_impossible_variation_is_an_error(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build(name, (32, 32, 1), 10, **options)


@pytest.mark.parametrize(
    "options",
    [{"inception": "naive"}, {"inception_branches": ("1x1",)}, {"width": 0.5}],
)
def test_residual_networks_have_no_inception_modules(options: dict[str, Any]) -> None:
    (option,) = options
    with pytest.raises(TypeError, match=f"resnet20 has no option '{option}', as it has no incep"):
        resnet(**options)


def test_a_module_without_branches_is_an_error() -> None:
    with pytest.raises(ValueError, match="inception_branches is"):
        inception_module(keras.Input((8, 8, 4)), Inception(1, 1, 1, 1, 1, 1), branches=(), name="m")


_STEM_LAYERS = {"stem_conv_pad", "stem_pool_pad", "stem_pool"}


@pytest.mark.parametrize(
    ("name", "first", "layers", "feature", "feature_shape"),
    [
        ("resnet18", "stem_conv", _STEM_LAYERS, "stage1", (28, 28, 64)),
        ("resnet18_v2", "stem_conv", _STEM_LAYERS, "stage1", (28, 28, 64)),
        ("googlenet_bn", "conv1_conv", {"pool1"}, "3a", (14, 14, 256)),
    ],
)
def test_a_small_stem_has_a_3x3_and_no_pool(
    name: str, first: str, layers: set[str], feature: str, feature_shape: tuple[int, ...]
) -> None:
    small = build(name, (28, 28, 1), 10, small_stem=True, features=(feature,))
    paper = build(name, (32, 32, 1), 10)
    assert small.get_layer(first).kernel.shape == (3, 3, 1, 64)
    assert small.get_layer(first).strides == (1, 1)
    assert set(names(paper)) - set(names(small)) == layers
    assert small.output[feature].shape[1:] == feature_shape
    # 64 filters of 3x3 instead of 7x7, on one channel.
    assert paper.count_params() - small.count_params() == 40 * 64


def test_a_small_stem_allows_small_images() -> None:
    with pytest.raises(ValueError, match="the smallest height and width of this model is 32"):
        build("resnet18", (28, 28, 1), 10)
    with pytest.raises(ValueError, match="the smallest height and width of this model is 8"):
        build("resnet18", (7, 7, 1), 10, small_stem=True)


def test_networks_of_cifar_have_a_small_stem_already() -> None:
    small, usual = resnet(small_stem=True), resnet()
    assert small.get_layer("stem_conv").kernel.shape[:2] == (3, 3)
    assert [each.shape for each in small.weights] == [each.shape for each in usual.weights]
