"""One step under a `tf.distribute` strategy: what Keras does per replica, for the whole batch."""

from typing import Any


def apply_on_replicas(optimizer: Any, gradients: list[Any], variables: list[Any]) -> None:
    """Sum the replicas' gradients first; then accumulate, clip, update and average.

    Keras clips each replica's own gradients, which by norm is another result, and accumulates and
    averages in ways that a strategy with several replicas refuses. Here every replica reckons the
    same from the same sum, and all that it writes is written by `extended.update`.

    Args:
        optimizer: a `PathOptimizer`.
        gradients: this replica's; dense.
        variables: Keras variables or `tf.Variable`s, made within the strategy's scope.

    Raises:
        ValueError: it is called outside of a replica, and so of `strategy.run` and `fit`.
    """
    import tensorflow as tf

    replica = tf.distribute.get_replica_context()
    if replica is None:
        raise ValueError(
            "apply was called within the strategy's scope, but outside of its replicas; "
            "call it in strategy.run, or train with fit"
        )
    gradients = replica.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
    rate = tf.convert_to_tensor(optimizer.learning_rate)
    if steps := optimizer.gradient_accumulation_steps:
        indices = [optimizer._get_variable_index(variable) for variable in variables]
        accumulators = [optimizer._accumulated_gradients[i].value for i in indices]
        sums = [a + g for a, g in zip(accumulators, gradients, strict=True)]
        gradients = [s / steps for s in sums]
        due = (optimizer._iterations + 1) % steps == 0
    else:
        accumulators, sums, due = [None] * len(variables), gradients, True
    gradients = optimizer._clip_gradients(gradients)

    def update(variable: Any, gradient: Any, total: Any, kept: Any, rate: Any, due: Any) -> None:
        def step() -> None:
            optimizer.update_step(gradient, variable, rate)

        if kept is None:
            step()
        else:
            tf.cond(due, step, lambda: None)
            kept.assign(tf.where(due, tf.zeros_like(total), total))

    def write(strategy: Any, gradients: Any, sums: Any, rate: Any, due: Any) -> None:
        targets = [_tensorflow_variable(variable) for variable in variables]
        for target, *rest in zip(targets, gradients, sums, accumulators, strict=True):
            strategy.extended.update(target, update, args=(*rest, rate, due), group=False)
        if optimizer.use_ema:
            _average(strategy, optimizer)

    tf.__internal__.distribute.interim.maybe_merge_call(
        write, tf.distribute.get_strategy(), gradients, sums, rate, due
    )
    optimizer._after_updates(rate, due)


def _average(strategy: Any, optimizer: Any) -> None:
    """Do what `use_ema` and `ema_overwrite_frequency` ask for, within a cross-replica context."""
    import tensorflow as tf

    def update(average: Any, variable: Any) -> None:
        first = optimizer.iterations == 0
        momentum = tf.cast(tf.where(first, 0.0, optimizer.ema_momentum), average.dtype)
        value = momentum * average + (1 - momentum) * variable
        average.assign(value)
        if frequency := optimizer.ema_overwrite_frequency:
            overwrite = (optimizer.iterations + 1) % frequency == 0
            variable.assign(tf.where(overwrite, value, variable))

    averages = optimizer._model_variables_moving_average
    for variable, average in zip(optimizer._trainable_variables, averages, strict=True):
        if average is not None:
            target = _tensorflow_variable(variable)
            strategy.extended.update(average.value, update, args=(target,), group=False)


def _tensorflow_variable(variable: Any) -> Any:
    import keras

    return variable.value if isinstance(variable, keras.Variable) else variable
