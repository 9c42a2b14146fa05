"""The shapes of a file's tensors, from the tables of this project."""

from keras_cnns.weights.origin import BLOCK, Origin, Place, blocks_of
from keras_cnns.weights.structure import variables_of


def tensor_shapes(name: str, origin: Origin, channels: int = 3) -> dict[str, tuple[int, ...]]:
    """Return the shapes by name in a file from keras.applications, without a classifier.

    Args:
        name: the model that loads the file.
        origin: a row of `keras_applications.ORIGINS`.
        channels: number of the images' channels.
    """
    variables = [*variables_of(name, channels)]
    blocks = blocks_of((layer for layer, *_ in variables), BLOCK)
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, variable, shape in variables:
        source = origin.source(Place(layer, variable, shape, blocks))
        assert source is not None
        shapes |= dict.fromkeys(source.names, shape)
    return shapes
