"""The origin of this project's own files, whose tensors have names of the form `layer/variable`.

A model accepts every file with matching names and shapes. The files of models that differ only in a
stride, such as `resnet50` and `resnet50_v1`, can therefore not be distinguished.
"""

from keras_cnns.weights.origin import LAYOUTS, Blocks, FileTensors, Origin
from keras_cnns.weights.structure import ModelVariable


def _tensors_of(variable: ModelVariable, _: Blocks) -> FileTensors:
    return FileTensors((f"{variable.layer}/{variable.name}",))


ORIGINS = tuple(
    Origin(
        title=f"a {title} of keras-cnns",
        signature=signature,
        layouts=tuple(name for name in LAYOUTS if name.startswith(title.lower())),
        tensors_of=_tensors_of,
        heads=r"logits(_aux\d+)?/.*|aux\d+_.*",
        stem=stem,
        channels_axis=2,
        classifier="logits/bias",
    )
    for title, signature, stem in (
        ("GoogLeNet", r"inception_\d\w_\w+_conv/kernel", "conv1_conv/kernel"),
        ("ResNet", r"stage\d+_block\d+_conv1/kernel", "stem_conv/kernel"),
    )
)
