"""State on disk: by variable path, whole or not at all; on every backend."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from keras_cnns.optimizers import LARS, Momentum
from keras_cnns.optimizers.base import PathOptimizer
from keras_cnns.optimizers.state import match_names

OPTIONS: dict[str, Any] = {
    "use_ema": True,
    "learning_rate_in_velocity": True,
    "momentum_correction": True,
    "gradient_accumulation_steps": 2,
}


def make_model(layers: tuple[str, ...] = ("stem", "head"), units: int = 2) -> keras.Model:
    inputs = keras.Input((units,))
    x = inputs
    for name in layers:
        x = keras.layers.Dense(units, name=name)(x)
    return keras.Model(inputs, x)


def trained(optimizer: Any, model: keras.Model | None = None) -> keras.Model:
    model = model or make_model()
    model.compile(optimizer, loss="mse")
    model(np.ones((1, 2)))
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):  # on JAX, only `fit` accepts it
        model.fit(np.ones((6, 2)), np.ones((6, 2)), batch_size=2, verbose=0)
        return model
    for step in range(3):
        gradients = [np.full(v.shape, step + 1.0, "float32") for v in model.trainable_variables]
        optimizer.apply(
            list(map(keras.ops.convert_to_tensor, gradients)), model.trainable_variables
        )
    return model


def state_of(optimizer: Any) -> dict[str, Any]:
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return {name: variable.numpy().tolist() for name, variable in inner._state().items()}


@pytest.mark.parametrize(
    "make",
    [
        lambda: Momentum(0.01),
        lambda: Momentum(0.01, momentum=0.0),
        lambda: Momentum(keras.optimizers.schedules.ExponentialDecay(0.01, 2, 0.5), **OPTIONS),
        lambda: LARS(weight_decay=1e-4),
        lambda: keras.optimizers.LossScaleOptimizer(Momentum(0.01)),
    ],
)
def test_a_loaded_model_goes_on_where_the_saved_one_stood(make: Any, tmp_path: Path) -> None:
    model = trained(make())
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert state_of(loaded.optimizer) == state_of(model.optimizer)
    x = np.ones((4, 2), "float32")
    for one in (model, loaded):
        one.fit(x, x, batch_size=2, verbose=0)
    assert state_of(loaded.optimizer) == state_of(model.optimizer)
    for ours, theirs in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_names() -> None:
    model = trained(Momentum(**OPTIONS))
    assert list(state_of(model.optimizer)) == [
        "iteration",
        "learning_rate",
        "previous_learning_rate",
        *(
            f"{slot}:{layer}/{leaf}"
            for slot in ("average", "gradient_accumulator", "velocity")
            for layer in ("stem", "head")
            for leaf in ("kernel", "bias")
        ),
    ]


def test_order_does_not_matter() -> None:
    first, second = keras.Variable([1.0], name="first"), keras.Variable([2.0], name="second")
    one, other = Momentum(), Momentum()
    one.apply([keras.ops.ones(1), keras.ops.zeros(1)], [first, second])
    other.build([second, first])
    store: dict[str, Any] = {}
    one.save_own_variables(store)
    other.load_own_variables(store)
    assert [v.numpy().tolist() for v in other.velocities] == [[0.0], [1.0]]
    assert state_of(other) == {**state_of(one)}


def test_outer_scopes_do_not_matter(tmp_path: Path) -> None:
    """Keras calls it sequential/inner/kernel when trained and inner/kernel when loaded."""
    model = trained(Momentum(0.01), keras.Sequential([keras.layers.Dense(2, name="inner")]))
    before = {variable.path for variable in model.trainable_variables}
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert before != {variable.path for variable in loaded.trainable_variables}
    assert list(state_of(loaded.optimizer).values()) == list(state_of(model.optimizer).values())


@pytest.mark.parametrize("make", [Momentum, LARS])
def test_a_learning_rate_that_ended_at_zero_is_saved_and_loaded(make: Any, tmp_path: Path) -> None:
    model = make_model()
    model.compile(make(0.1), loss="mse")
    linear = keras.callbacks.LearningRateScheduler(lambda epoch, _: 0.1 * (1 - epoch / 2))
    x = np.ones((4, 2), "float32")
    model.fit(x, x, epochs=3, verbose=0, callbacks=[linear])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert float(loaded.optimizer.learning_rate.numpy()) == 0.0
    assert state_of(loaded.optimizer) == state_of(model.optimizer)


def test_a_new_optimizer_saves_and_loads_as_new(tmp_path: Path) -> None:
    model = make_model()
    model.compile(Momentum(0.25), loss="mse")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.built
    assert not any(np.any(v.numpy()) for v in loaded.optimizer.velocities)
    assert float(loaded.optimizer.learning_rate.numpy()) == 0.25


@pytest.mark.parametrize(
    ("optimizer", "model", "problems"),
    [
        (Momentum(0.01, momentum=0.0), {}, ["surplus: velocity:stem/kernel"]),
        (
            Momentum(0.01, use_ema=True),
            {},
            ["missing: average:stem/kernel", "missing: average:head/bias"],
        ),
        (Momentum(keras.optimizers.schedules.CosineDecay(0.1, 9)), {}, ["surplus: learning_rate"]),
        (
            Momentum(0.01),
            {"layers": ("stem", "other")},
            ["missing: velocity:other/kernel", "surplus: velocity:head/kernel"],
        ),
        (
            Momentum(0.01),
            {"units": 3},
            ["shape of velocity:stem/kernel: (2, 2) was saved, (3, 3) is needed"],
        ),
    ],
)
def test_a_mismatch_is_an_error_that_names_each(
    optimizer: Momentum, model: dict[str, Any], problems: list[str]
) -> None:
    store: dict[str, Any] = {}
    trained(Momentum(0.01)).optimizer.save_own_variables(store)
    optimizer.build(make_model(**model).trainable_variables)
    before = state_of(optimizer)
    with pytest.raises(ValueError, match="not loaded into Momentum 'momentum'") as error:
        optimizer.load_own_variables(store, strict=True)
    with pytest.warns(UserWarning, match="was not loaded into") as warned:
        optimizer.load_own_variables(store)
    assert len(warned) == 1
    for problem in problems:
        assert problem in str(error.value)
        assert problem in str(warned[0].message)
    assert state_of(optimizer) == before  # nothing was loaded partially


SAVED_BY: dict[str, Callable[[], Any]] = {
    "Momentum": lambda: Momentum(0.01),
    "without momentum": lambda: Momentum(0.01, momentum=0.0),
    "scheduled": lambda: Momentum(keras.optimizers.schedules.CosineDecay(0.1, 9)),
    "averaged": lambda: Momentum(0.01, use_ema=True),
    "LARS": lambda: LARS(0.01, momentum_correction=True),
    "SGD": lambda: keras.optimizers.SGD(0.01, 0.9),
    "Adam": lambda: keras.optimizers.Adam(0.01),
}


@pytest.mark.parametrize("is_built", [True, False])
@pytest.mark.parametrize("loading", ["Momentum", "averaged", "LARS"])
@pytest.mark.parametrize("saving", SAVED_BY)
def test_load_weights_loads_the_weights_of_any_file(
    saving: str, loading: str, is_built: bool, tmp_path: Path
) -> None:
    """A state of another optimizer, or for one that is not built, is left out with a warning."""
    model = trained(SAVED_BY[saving]())
    model.save_weights(tmp_path / "model.weights.h5")
    again = make_model()
    again.compile(SAVED_BY[loading](), loss="mse")
    if is_built:
        again.optimizer.build(again.trainable_variables)
    fits = is_built and loading == saving
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        again.load_weights(tmp_path / "model.weights.h5")
    messages = [str(each.message) for each in caught if each.category is UserWarning]
    assert len(messages) == (not fits)
    for message in messages:
        assert "was not loaded into" in message
        assert ("optimizer.build(model.trainable_variables)" in message) is not is_built
    for one, other in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert int(again.optimizer.iterations) == (3 if fits else 0)


def test_a_state_from_before_the_first_step_resets_the_optimizer(tmp_path: Path) -> None:
    model = make_model()
    model.compile(Momentum(0.01), loss="mse")
    model.save_weights(tmp_path / "initial.weights.h5")
    trained(model.optimizer, model)
    assert any(np.any(v.numpy()) for v in model.optimizer.velocities)
    model.load_weights(tmp_path / "initial.weights.h5")
    assert int(model.optimizer.iterations) == 0
    assert not any(np.any(v.numpy()) for v in model.optimizer.velocities)


def test_only_what_differs_is_named_after_a_model_was_built_again() -> None:
    stores: list[dict[str, Any]] = [{}, {}]
    options: tuple[dict[str, Any], ...] = (
        {"learning_rate_in_velocity": True},
        {"learning_rate_in_velocity": True, "momentum_correction": True},
    )
    optimizers = []
    for store, each in zip(stores, options, strict=True):
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2), keras.layers.Dense(2)])
        optimizers.append(Momentum(0.01, **each))
        optimizers[-1].build(model.trainable_variables)
        optimizers[-1].save_own_variables(store)
        optimizers[-1].iterations.assign(3)
    stores[0]["iteration"] = np.array(3)
    with pytest.raises(ValueError, match=r"fit \(missing: previous_learning_rate\);"):
        optimizers[1].load_own_variables(stores[0], strict=True)


def test_weights_without_an_optimizer_are_loaded(tmp_path: Path) -> None:
    make_model().save_weights(tmp_path / "model.weights.h5")
    model = trained(Momentum(0.01))
    with pytest.warns(UserWarning, match=r"the file has no optimizer state"):
        model.load_weights(tmp_path / "model.weights.h5")


def test_backup_and_restore_continues_a_model_that_was_built_again(tmp_path: Path) -> None:
    """Its layers have other automatic names, and the velocities still find their weights."""

    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if epoch == 2:
                raise KeyboardInterrupt

    def make() -> keras.Model:
        layers = [keras.layers.Dense(2) for _ in range(11)]  # `dense_10` sorts before `dense_2`
        model = keras.Sequential([keras.Input((2,)), *layers])
        for number, layer in enumerate(layers):
            layer.set_weights([np.eye(2) + 0.001 * number, np.zeros(2)])
        model.compile(Momentum(1e-4), loss="mse")
        return model

    x = np.random.default_rng(0).normal(size=(8, 2))
    fit = {"x": x, "y": x + 1, "batch_size": 4, "epochs": 4, "shuffle": False, "verbose": 0}
    unbroken = make()
    unbroken.fit(**fit)
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(KeyboardInterrupt):
        make().fit(**fit, callbacks=[backup, Interrupt()])
    resumed = make()
    resumed.fit(**fit, callbacks=[keras.callbacks.BackupAndRestore(tmp_path / "backup")])
    assert int(resumed.optimizer.iterations) == 8
    for one, other in zip(resumed.get_weights(), unbroken.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("saved", "ours", "matched"),
    [
        (["conv", "a/conv"], ["conv", "a/conv"], ["conv", "a/conv"]),
        (["net/conv", "net/a/conv"], ["conv", "a/conv"], ["net/conv", "net/a/conv"]),
        (["conv", "a/conv"], ["net/conv", "net/a/conv"], ["conv", "a/conv"]),
        (["net/block/conv", "head"], ["block/conv", "head"], ["net/block/conv", "head"]),
        (["a/conv", "b/conv"], ["conv", "stem"], [None, None]),  # which of the two?
        (["conv"], ["a/conv", "b/conv"], [None, None]),
        (["my_conv"], ["conv"], [None]),  # another layer
        (["a/conv"], ["b/conv"], [None]),
        # Keras numbers automatic names over a whole process.
        (["conv2d", "conv2d_1"], ["conv2d_1", "conv2d_2"], ["conv2d", "conv2d_1"]),
        (["conv2d_9", "conv2d_10"], ["conv2d", "conv2d_1"], ["conv2d_9", "conv2d_10"]),
        (
            ["net/conv2d", "net/dense"],
            ["net_1/conv2d_7", "net_1/dense"],
            ["net/conv2d", "net/dense"],
        ),
        (["conv2d", "conv2d_1"], ["conv2d_1", "dense"], ["conv2d_1", None]),
        (["block_2", "block_7"], ["block_1", "block_2"], [None, "block_2"]),  # another network
        (["dense", "dense_5"], ["dense", "dense_1"], ["dense", "dense_5"]),  # a head built again
    ],
)
def test_which_saved_path_is_taken(
    saved: list[str], ours: list[str], matched: list[str | None]
) -> None:
    def full(paths: list[Any]) -> list[Any]:
        return [path and f"velocity:{path}/kernel" for path in paths]

    source = match_names([*full(ours), "iteration"], ["iteration", *full(saved)])
    assert source.pop("iteration") == "iteration"
    assert [source.get(name) for name in full(ours)] == full(matched)


def test_equal_paths_are_kept_apart() -> None:
    variables = [keras.Variable([0.0], name="same") for _ in range(2)]
    optimizer = Momentum()
    store: dict[str, Any] = {}
    optimizer.apply([keras.ops.ones(1), keras.ops.zeros(1)], variables)
    optimizer.save_own_variables(store)
    again = Momentum()
    again.build(variables)
    again.load_own_variables(store)
    assert [v.numpy().tolist() for v in again.velocities] == [[1.0], [0.0]]


def test_every_optimizer_here_matches_by_path() -> None:
    assert issubclass(Momentum, PathOptimizer)
    assert issubclass(LARS, PathOptimizer)
