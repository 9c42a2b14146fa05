"""Each layer against its formula, written out in NumPy."""

import keras
import numpy as np
import pytest

from keras_cnns.models import build, cpu_kernels, layers
from keras_cnns.models.batch_normalization import BatchNormalization
from keras_cnns.models.convolution import Conv2D


def random_map(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def test_local_response_normalization_is_the_formula() -> None:
    x = random_map(2, 3, 4, 8)
    expected = np.empty_like(x)
    for channel in range(8):
        window = x[..., max(channel - 2, 0) : channel + 3]
        energy = np.sum(window**2, axis=-1)
        expected[..., channel] = x[..., channel] / (1 + 1e-4 / 5 * energy) ** 0.75
    layer = layers.LocalResponseNormalization()
    np.testing.assert_allclose(layer(x), expected, rtol=1e-5)
    assert layer.compute_output_shape(x.shape) == x.shape


@pytest.mark.parametrize(("filters", "stride"), [(8, 1), (8, 2), (11, 2), (4, 3)])
def test_identity_shortcut_keeps_positions_and_adds_zeros(filters: int, stride: int) -> None:
    x = random_map(2, 7, 8, 4)
    layer = layers.IdentityShortcut(filters, stride)
    y = np.asarray(layer(x))
    before = (filters - 4) // 2
    np.testing.assert_array_equal(y[..., before : before + 4], x[:, ::stride, ::stride])
    assert np.count_nonzero(y) == np.count_nonzero(x[:, ::stride, ::stride])
    assert layer.compute_output_shape(x.shape) == y.shape
    assert layer.trainable_weights == []


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (8, 7), (7, 8)])
def test_max_pool_is_caffes_ceil_mode(size: tuple[int, int]) -> None:
    x = np.abs(random_map(1, *size, 1))
    inputs = keras.Input((*size, 1))
    pooled = keras.Model(inputs, layers.max_pool(inputs, name="pool"))(x)
    rows, columns = (-(-(side - 3) // 2) + 1 for side in size)
    expected = [
        [x[0, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3, 0].max() for j in range(columns)]
        for i in range(rows)
    ]
    np.testing.assert_array_equal(np.asarray(pooled)[0, ..., 0], expected)


def test_convolution_pads_both_sides_alike() -> None:
    """With stride 2 the first window is centred on the first pixel, as in Caffe and torch."""
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, layers.conv(inputs, 1, 3, stride=2, name="conv"))
    kernel = np.zeros((3, 3, 1, 1), "float32")
    kernel[1, 1] = 1
    model.set_weights([kernel])
    x = random_map(1, 8, 8, 1)
    np.testing.assert_array_equal(model(x), x[:, ::2, ::2])


def pair_of_norms() -> tuple[keras.layers.Layer, keras.layers.Layer]:
    options = {"momentum": 0.9, "epsilon": 1e-5}
    ours = BatchNormalization(**options)
    theirs = keras.layers.BatchNormalization(**options)
    generator = np.random.default_rng(1)
    for layer in (ours, theirs):
        layer.build((None, 5, 6, 3))
    weights = [generator.uniform(0.5, 1.5, 3).astype("float32") for _ in range(4)]
    ours.set_weights(weights)
    theirs.set_weights(weights)
    return ours, theirs


@pytest.mark.parametrize("training", [True, False])
def test_fused_batch_norm_is_keras_batch_norm(training: bool) -> None:
    ours, theirs = pair_of_norms()
    x = random_map(4, 5, 6, 3)
    np.testing.assert_allclose(
        ours(x, training=training), theirs(x, training=training), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(ours.moving_mean, theirs.moving_mean, rtol=1e-5, atol=1e-6)
    n = 4 * 5 * 6
    unbiased = n / (n - 1) if training else 1.0
    before = pair_of_norms()[0].moving_variance.numpy()
    increment = (theirs.moving_variance.numpy() - 0.9 * before) if training else 0 * before
    expected = 0.9 * before + increment * unbiased if training else before
    np.testing.assert_allclose(ours.moving_variance, expected, rtol=1e-5)


def test_frozen_batch_norm_uses_its_running_statistics() -> None:
    ours, _ = pair_of_norms()
    x = random_map(4, 5, 6, 3)
    expected = np.asarray(ours(x, training=False))
    ours.trainable = False
    np.testing.assert_array_equal(ours(x, training=True), expected)


@pytest.mark.parametrize("shape", [(6, 3), (2, 5, 3)])
def test_other_ranks_take_keras_own_code(shape: tuple[int, ...]) -> None:
    x = random_map(*shape)
    ours, theirs = BatchNormalization(), keras.layers.BatchNormalization()
    np.testing.assert_array_equal(ours(x, training=True), theirs(x, training=True))


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize(
    ("kernel_size", "strides", "padding", "groups"),
    [
        (1, 1, "same", 1),
        (1, 2, "valid", 1),
        (3, 1, "same", 1),
        (5, 1, "same", 1),
        (3, 2, "valid", 1),
        (3, 2, "same", 1),
        (3, 1, "same", 2),
    ],
)
@pytest.mark.parametrize("has_avx512", [True, False])
@pytest.mark.parametrize("products", [True, False])
def test_convolution_and_its_gradients_are_keras(
    kernel_size: int,
    strides: int,
    padding: str,
    groups: int,
    use_bias: bool,
    has_avx512: bool,
    products: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import tensorflow as tf

    monkeypatch.setattr(cpu_kernels, "has_avx512", lambda: has_avx512)
    limits = {(1, 1): 1000, (3, 3): 1000, (5, 5): 1000} if products else {}
    monkeypatch.setattr(cpu_kernels, "MAX_POSITIONS_FOR_MATMUL", limits)

    options = {"strides": strides, "padding": padding, "groups": groups, "use_bias": use_bias}
    ours = Conv2D(6, kernel_size, activation="relu", **options)
    theirs = keras.layers.Conv2D(6, kernel_size, activation="relu", **options)
    x = tf.constant(random_map(2, 7, 8, 4))
    for layer in (ours, theirs):
        layer.build(x.shape)
    generator = np.random.default_rng(2)
    weights = [generator.normal(size=w.shape).astype("float32") for w in theirs.get_weights()]
    results = []
    for layer in (ours, theirs):
        layer.set_weights(weights)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True) if layer is ours else layer(x)
            loss = tf.reduce_sum(y * y)
        variables = [weight.value for weight in layer.trainable_weights]
        results.append([y, *tape.gradient(loss, [x, *variables])])
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(ours(x, training=False), theirs(x))


@pytest.mark.parametrize("side", [8, 9, 10, 11])
def test_max_pool_is_the_same_where_the_size_is_not_known(side: int) -> None:
    x = np.abs(random_map(1, side, side, 2))
    results = []
    for size in (side, None):
        inputs = keras.Input((size, size, 2))
        results.append(keras.Model(inputs, layers.max_pool(inputs, name="pool"))(x))
    np.testing.assert_array_equal(*results)


def test_fused_batch_norms_gradients_are_keras() -> None:
    import tensorflow as tf

    x, gradients = tf.constant(random_map(4, 5, 6, 3)), []
    for layer in pair_of_norms():
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(layer(x, training=True) ** 3)
        gradients.append(tape.gradient(loss, [x, layer.gamma.value, layer.beta.value]))
    for one, other in zip(*gradients, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)


def test_renormalisation_is_keras_own() -> None:
    x = random_map(4, 5, 6, 3)
    ours = BatchNormalization(renorm=True)
    theirs = keras.layers.BatchNormalization(renorm=True)
    np.testing.assert_array_equal(ours(x, training=True), theirs(x, training=True))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("name", ["resnet20", "googlenet", "googlenet_bn"])
def test_models_train_in_mixed_precision(name: str, policy: str) -> None:
    keras.config.set_dtype_policy(policy)
    try:
        model = build(name, input_shape=(32, 32, 1), classes=3)
    finally:
        keras.config.set_dtype_policy("float32")
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    x, y = random_map(4, 32, 32, 1), np.arange(4) % 3
    assert np.isfinite(model.train_on_batch(x, y))


def test_a_fast_convolution_has_a_second_derivative_and_low_rank_updates() -> None:
    import tensorflow as tf

    x = tf.constant(random_map(1, 5, 5, 2))
    layers_ = [Conv2D(2, 3, padding="same"), keras.layers.Conv2D(2, 3, padding="same")]
    for layer in layers_:
        layer.build(x.shape)
    layers_[1].set_weights(layers_[0].get_weights())
    seconds = []
    for layer in layers_:
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                options = {"training": True} if layer is layers_[0] else {}
                loss = tf.reduce_sum(layer(x, **options) ** 3)
            first = inner.gradient(loss, x)
            penalty = tf.reduce_sum(first**2)
        seconds.append(outer.gradient(penalty, x))
    ours, theirs = seconds
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3)
    layers_[0].enable_lora(1)
    np.testing.assert_allclose(layers_[0](x, training=True), layers_[1](x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [0, 4, -1])
def test_a_window_without_a_middle_channel_is_refused(size: int) -> None:
    """TensorFlow and the other backends would take different neighbours."""
    with pytest.raises(ValueError, match=f"size is {size}; it must be an odd number of channels"):
        layers.LocalResponseNormalization(size)
