"""Load checkpoints of other projects: `build("resnet50", weights="resnet50.safetensors")`.

Published checkpoints are also found by name, such as `weights="imagenet"` or
`weights="torchvision/resnet50.IMAGENET1K_V2"`: see `keras_cnns.weights.pretrained`. A model that is
built with such a name normalises its images itself. If the weights come from a file, the caller has
to normalise the images.

The names of a file's tensors show its origin, and a rule maps each name to a variable:

| file                                        | loaded by                               | pixels   |
|---------------------------------------------|-----------------------------------------|----------|
| torchvision, timm: ResNet, ResNeXt          | resnet18 to resnet152, resnext50_32x4d  | ImageNet |
| torchvision: GoogLeNet                      | googlenet_tv                            | -1 to 1  |
| timm: resnetv2_18, 34, 50, 101, 152         | resnet18_v2 to resnet152_v2             | -1 to 1  |
| keras.applications: ResNet50, 101, 152      | resnet50_v1 to resnet152_v1             | Caffe    |
| keras.applications: ResNet50V2 to 152V2     | resnet50_v2_keras to resnet152_v2_keras | -1 to 1  |
| our own .weights.h5 and .keras              | the model that wrote it                 | its own  |

`.safetensors`, `.h5` and `.keras` files need no other package. Files with the suffix `.pth`, `.pt`,
`.pth.tar`, `.bin` or `.ckpt` need torch, unless they contain only tensors and plain data, as
published files do. Such a file may be a training checkpoint; if it has averaged weights (EMA), they
are preferred. The prefixes of wrappers, such as `module.`, are removed. A classifier or an
auxiliary head that the file does not have keeps its initial values; heads that the model does not
have, such as projection heads of self-supervised training, are ignored.

The last column is the range of pixels on which published weights were trained. Files do not contain
this information. `ImageNet` is RGB from 0 to 1, minus (0.485, 0.456, 0.406), divided by (0.229,
0.224, 0.225). `Caffe` is BGR from 0 to 255, minus (103.939, 116.779, 123.68). Some weights of timm
were trained on `ImageNet`, others on -1 to 1; their page on the hub states the range.

A file does not describe its network completely: a ResNet v1, which has its stride in the 1x1
convolution, has the same tensors as a ResNet v1.5, and timm's resnetblur18, resnetblur50 and
resnetaa50 have the same tensors as resnet18 and resnet50. These three models of timm are rejected
if their name is in the file's metadata, in Hugging Face's `config.json` beside the file, or in the
name of the file (see `lookalikes`).
"""

from typing import TYPE_CHECKING, Any

from keras_cnns.weights.assignment import Report, load
from keras_cnns.weights.errors import WeightsError
from keras_cnns.weights.files import read

if TYPE_CHECKING:
    from keras_cnns.conversion import convert

__all__ = ["Report", "WeightsError", "convert", "load", "read"]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name != "convert":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from keras_cnns.conversion import convert  # imported here, because it builds models

        return convert
