"""Other people's checkpoints, for our nets: `build("resnet50", weights="resnet50.safetensors")`.

Whose file it is shows in its tensors' names; each becomes a layer's variable by a rule:

| file                                         | read by                                | pixels   |
|----------------------------------------------|----------------------------------------|----------|
| torchvision, timm: ResNet, ResNeXt           | resnet18 to resnet152, resnext50_32x4d | ImageNet |
| torchvision: GoogLeNet                       | googlenet_tv                           | -1 to 1  |
| timm: resnetv2_18, 34, 50, 101, 152          | resnet18_v2 to resnet152_v2            | -1 to 1  |
| keras.applications: ResNet50, 101, 152       | resnet50_v1 to resnet152_v1            | Caffe    |
| keras.applications: ResNet50V2, 101V2, 152V2 | resnet50_v2_keras to resnet152_v2_keras | -1 to 1 |
| our own .weights.h5 and .keras               | the net that wrote it                  | as then  |

`.safetensors` needs nothing more, `.pth` and `.pt` need torch. The pixels are those that published
weights were trained on, which a file of weights does not say: `ImageNet` is RGB from 0 to 1 less
(0.485, 0.456, 0.406) over (0.229, 0.224, 0.225), `Caffe` is BGR from 0 to 255 less (103.939,
116.779, 123.68). timm has weights trained on either: its page of the weights tells.
"""

from keras_cnns.weights.assignment import Report, load
from keras_cnns.weights.conversion import convert
from keras_cnns.weights.errors import WeightsError
from keras_cnns.weights.files import read

__all__ = ["Report", "WeightsError", "convert", "load", "read"]
