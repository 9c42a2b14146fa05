"""One optimizer step under a `tf.distribute` strategy, on the gradients of the whole batch."""

from typing import Any

import keras

from keras_cnns import keras_internals


def apply_on_replicas(optimizer: Any, gradients: list[Any], variables: list[Any]) -> None:
    """Sum the gradients of all replicas; then accumulate, clip, update and average.

    Keras clips the gradients of each replica before it adds them. Clipping by norm then has a
    different result than on one device. Keras also rejects accumulation and averages on several
    replicas. In this function, each replica computes the same values from the same sum, and
    `extended.update` writes all variables.

    Args:
        optimizer: a `PathOptimizer`.
        gradients: dense gradients of this replica.
        variables: Keras variables or `tf.Variable`s, created within the strategy's scope.

    Raises:
        ValueError: the function is called outside a replica, that is, outside `strategy.run` and
            `fit`.
    """
    import tensorflow as tf

    replica = tf.distribute.get_replica_context()
    if replica is None:
        raise ValueError(
            "apply was called within the strategy's scope, but outside of its replicas; "
            "call it in strategy.run, or train with fit"
        )
    gradients = replica.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
    learning_rate = tf.convert_to_tensor(optimizer.learning_rate)
    if steps := optimizer.gradient_accumulation_steps:
        accumulators = [
            accumulator.value
            for accumulator in keras_internals.gradient_accumulators(optimizer, variables)
        ]
        sums = [a + g for a, g in zip(accumulators, gradients, strict=True)]
        gradients = [s / steps for s in sums]
        is_due = (keras_internals.backward_passes(optimizer) + 1) % steps == 0
    else:
        accumulators, sums, is_due = [None] * len(variables), gradients, True
    gradients = keras_internals.clip_gradients(optimizer, gradients)

    def update(
        variable: Any,
        gradient: Any,
        total: Any,
        accumulator: Any,
        learning_rate: Any,
        is_due: Any,
    ) -> None:
        def step() -> None:
            optimizer.update_step(gradient, variable, learning_rate)

        if accumulator is None:
            step()
        else:
            tf.cond(is_due, step, lambda: None)
            accumulator.assign(tf.where(is_due, tf.zeros_like(total), total))

    def write(strategy: Any, gradients: Any, sums: Any, learning_rate: Any, is_due: Any) -> None:
        targets = [_tensorflow_variable(variable) for variable in variables]
        for target, *rest in zip(targets, gradients, sums, accumulators, strict=True):
            args = (*rest, learning_rate, is_due)
            strategy.extended.update(target, update, args=args, group=False)
        if optimizer.use_ema:
            _update_averages(strategy, optimizer)

    tf.__internal__.distribute.interim.maybe_merge_call(
        write, tf.distribute.get_strategy(), gradients, sums, learning_rate, is_due
    )
    optimizer.finish_step(learning_rate, is_due)


def _update_averages(strategy: Any, optimizer: Any) -> None:
    """Apply `use_ema` and `ema_overwrite_frequency`, within a cross-replica context."""
    import tensorflow as tf

    def update(average: Any, variable: Any) -> None:
        is_first = optimizer.iterations == 0
        momentum = tf.cast(tf.where(is_first, 0.0, optimizer.ema_momentum), average.dtype)
        value = momentum * average + (1 - momentum) * variable
        average.assign(value)
        if frequency := optimizer.ema_overwrite_frequency:
            overwrite = (optimizer.iterations + 1) % frequency == 0
            variable.assign(tf.where(overwrite, value, variable))

    for variable, average in keras_internals.averaged_variables(optimizer):
        if average is not None:
            target = _tensorflow_variable(variable)
            strategy.extended.update(average.value, update, args=(target,), group=False)


def _tensorflow_variable(variable: Any) -> Any:
    return variable.value if isinstance(variable, keras.Variable) else variable
