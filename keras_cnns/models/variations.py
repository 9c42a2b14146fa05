"""Variations of a finished model: another activation, other initial weights, no batch norm.

`vary` copies a functional model layer by layer, replaces some layers, and keeps all names. Copying
works for every family of models, and the code of the blocks needs no options for variations.
"""

from typing import Any

import keras

from keras_cnns.models.batch_normalization import BatchNormalization
from keras_cnns.models.heads import deep_recursion

ACTIVATIONS = ("relu", "tanh", "sigmoid")
# Name -> distribution of initial weights. A filter has n = height * width * channels weights.
KERNEL_INITIALIZERS: dict[str, dict[str, Any]] = {
    # Krizhevsky et al. 2012: a standard deviation of 0.01 in every layer.
    "small_normal": {"class_name": "RandomNormal", "config": {"stddev": 0.01}},
    # Glorot and Bengio 2010, equation 16: variance 2 / (n_in + n_out).
    "glorot_uniform": {"class_name": "GlorotUniform", "config": {}},
    # He et al. 2015, "Delving Deep into Rectifiers", equation 14: variance 2 / n_out.
    "he_normal": {
        "class_name": "VarianceScaling",
        "config": {"scale": 2.0, "mode": "fan_out", "distribution": "untruncated_normal"},
    },
}


def vary(
    model: keras.Model,
    *,
    activation: str = "relu",
    kernel_initializer: str | None = None,
    batch_normalization: bool = True,
    batch_norm_noise: float = 0.0,
) -> keras.Model:
    """Return a copy of a model with other initial weights, or other layers under the same names.

    Args:
        model: a functional model, such as `resnet` returns; if nothing is varied, the model itself
            is returned.
        activation: a name of ACTIVATIONS, which replaces each ReLU. Max pooling still pads with
            zeros, which can change the border of a map if the activation can be negative.
        kernel_initializer: a key of KERNEL_INITIALIZERS for convolutions and dense layers, except
            the classifiers; None keeps the initial weights of the model.
        batch_normalization: if False, replace each batch normalisation by the identity, and add a
            bias to each convolution.
        batch_norm_noise: standard deviation of the noise that training adds after each batch
            normalisation: see `NoisyBatchNormalization`.

    Raises:
        ValueError: an argument is out of range, or an option changes the batch normalisation of a
            model without batch normalisation.
    """
    _check("activation", activation, ACTIVATIONS)
    if kernel_initializer is not None:
        _check("kernel_initializer", kernel_initializer, KERNEL_INITIALIZERS)
    if batch_norm_noise < 0:
        raise ValueError(f"batch_norm_noise is {batch_norm_noise}; it must be at least 0")
    if batch_norm_noise and not batch_normalization:
        raise ValueError("batch_norm_noise needs batch_normalization=True")
    if not batch_normalization or batch_norm_noise:
        if not any(isinstance(layer, BatchNormalization) for layer in model.layers):
            option = "batch_norm_noise" if batch_normalization else "batch_normalization=False"
            raise ValueError(f"{model.name} has no batch normalisation: {option} has no effect")
    elif activation == "relu" and kernel_initializer is None:
        return model

    def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if isinstance(layer, BatchNormalization):
            if not batch_normalization:
                return keras.layers.Identity(name=layer.name, dtype=config["dtype"])
            if batch_norm_noise:
                return NoisyBatchNormalization.from_config({**config, "noise": batch_norm_noise})
        if config.get("activation") == "relu":
            config["activation"] = activation
        if isinstance(layer, keras.layers.Conv2D) and not batch_normalization:
            config["use_bias"] = True
        is_classifier = layer.name.startswith("logits")
        if kernel_initializer and "kernel_initializer" in config and not is_classifier:
            config["kernel_initializer"] = {
                "module": "keras.initializers",
                "registered_name": None,
                **KERNEL_INITIALIZERS[kernel_initializer],
            }
        copied: keras.layers.Layer = type(layer).from_config(config)
        return copied

    def call(layer: keras.layers.Layer, *arguments: Any, **options: Any) -> Any:
        if isinstance(layer, keras.layers.Identity):
            # Batch normalisation has this argument, which an Identity layer does not have.
            options.pop("mask", None)
        return layer(*arguments, **options)

    with deep_recursion():
        varied: keras.Model = keras.models.clone_model(
            model, clone_function=copy, call_function=call
        )
    return varied


def _check(option: str, value: str, known: Any) -> None:
    if value not in known:
        raise ValueError(f"{option} is {value!r}; it must be one of {', '.join(known)}")


@keras.saving.register_keras_serializable("keras_cnns")
class NoisyBatchNormalization(BatchNormalization):
    """Batch normalisation followed, in training, by noise whose distribution changes at each step.

    See Santurkar et al. 2018, "How Does Batch Normalization Help Optimization?", section 2.1 and
    appendix A. The noise restores the shift of the next layer's inputs, which the normalisation has
    removed. In each step and for each channel, a mean m is drawn from N(0, noise^2) and a standard
    deviation s from |N(0, noise^2)|. A number drawn from N(m, s^2) is then added to each element of
    the map.

    Args:
        noise: standard deviation of the distributions of m and s, at least 0; the standard
            deviation of the normalised maps is 1.
    """

    def __init__(self, *args: Any, noise: float = 0.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.noise = noise
        self._generator = keras.random.SeedGenerator()

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Compute [N, H, W, C] -> [N, H, W, C]."""
        outputs = super().call(inputs, training=training, mask=mask)
        if not training:
            return outputs

        def normal(shape: Any) -> Any:
            return keras.random.normal(shape, dtype=outputs.dtype, seed=self._generator)

        channels = (outputs.shape[-1],)
        mean, deviation = self.noise * normal(channels), self.noise * normal(channels)
        return outputs + mean + abs(deviation) * normal(keras.ops.shape(outputs))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, for saving."""
        return {**super().get_config(), "noise": self.noise}
