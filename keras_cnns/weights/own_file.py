"""Our own `.weights.h5` and `.keras`: a tensor is named by its layer and its variable.

A model reads every file with its names and shapes: models that differ only in a stride, such as
`resnet50` and `resnet50_v1`, cannot be distinguished by their files.
"""

from keras_cnns.weights.origin import BLOCK, LAYOUTS, Origin, Place, Source

HEADS = r"logits(_aux\d+)?/.*|aux\d+_.*"


def source_in_own_file(place: Place) -> Source:
    """Return the tensor of the same name."""
    return Source((f"{place.layer}/{place.variable}",))


ORIGINS = (
    Origin(
        title="a GoogLeNet of ours",
        signature=r"inception_\d\w_1x1_conv/kernel",
        layouts=tuple(name for name in LAYOUTS if name.startswith("googlenet")),
        source=source_in_own_file,
        heads=HEADS,
        stem="conv1_conv/kernel",
        channels_axis=2,
        classifier="logits/bias",
    ),
    Origin(
        title="a ResNet of ours",
        signature=r"stage\d+_block\d+_conv1/kernel",
        layouts=tuple(name for name in LAYOUTS if name.startswith("resnet")),
        source=source_in_own_file,
        heads=HEADS,
        stem="stem_conv/kernel",
        channels_axis=2,
        classifier="logits/bias",
        block=BLOCK,
    ),
)
