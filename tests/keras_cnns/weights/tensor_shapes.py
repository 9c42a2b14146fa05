"""The shapes of a file's tensors, from the tables of this project."""

from keras_cnns.weights.origin import Origin
from keras_cnns.weights.structure import blocks_of, variables_of


def tensor_shapes(name: str, origin: Origin, channels: int = 3) -> dict[str, tuple[int, ...]]:
    """Return the shapes by name in a file from keras.applications, without a classifier.

    Args:
        name: the model that loads the file.
        origin: a row of `keras_applications.ORIGINS`.
        channels: number of channels of the images.
    """
    variables = [*variables_of(name, channels)]
    shapes: dict[str, tuple[int, ...]] = {}
    for variable in variables:
        needs = origin.tensors_of(variable, blocks_of(variables))
        assert needs is not None
        shapes |= dict.fromkeys(needs.names, variable.shape)
    return shapes
