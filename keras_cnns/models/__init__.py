"""GoogLeNet and ResNet, by name or as functions.

`build("resnet20", input_shape=(32, 32, 1), classes=10)` and `ResNet20((32, 32, 1), 10)` build the
same model. The functions have the arguments of `googlenet.googlenet` and `resnet.resnet`.

Importing this package registers the layers, optimizers and schedules of keras_cnns with Keras, so
that `keras.saving.load_model` can load a saved model.
"""

# Registers the optimizers and schedules that a compiled model was saved with.
import keras_cnns.optimizers  # noqa: F401
from keras_cnns.models.batch_normalization import BatchNormalization
from keras_cnns.models.cost import Cost, cost, stage_costs
from keras_cnns.models.googlenet import Inception, inception_module
from keras_cnns.models.layers import IdentityShortcut, LocalResponseNormalization
from keras_cnns.models.registry import MODELS, build

GoogLeNet = MODELS["googlenet"].build
GoogLeNetBN = MODELS["googlenet_bn"].build
GoogLeNetTV = MODELS["googlenet_tv"].build
ResNet18 = MODELS["resnet18"].build
ResNet34 = MODELS["resnet34"].build
ResNet50 = MODELS["resnet50"].build
ResNet101 = MODELS["resnet101"].build
ResNet152 = MODELS["resnet152"].build
ResNet20 = MODELS["resnet20"].build
ResNet32 = MODELS["resnet32"].build
ResNet44 = MODELS["resnet44"].build
ResNet56 = MODELS["resnet56"].build
ResNet110 = MODELS["resnet110"].build
ResNet1202 = MODELS["resnet1202"].build
ResNet18V1 = MODELS["resnet18_v1"].build
ResNet34V1 = MODELS["resnet34_v1"].build
ResNet50V1 = MODELS["resnet50_v1"].build
ResNet101V1 = MODELS["resnet101_v1"].build
ResNet152V1 = MODELS["resnet152_v1"].build
ResNet18V2 = MODELS["resnet18_v2"].build
ResNet34V2 = MODELS["resnet34_v2"].build
ResNet50V2 = MODELS["resnet50_v2"].build
ResNet101V2 = MODELS["resnet101_v2"].build
ResNet152V2 = MODELS["resnet152_v2"].build
ResNet110V2 = MODELS["resnet110_v2"].build
ResNet164V2 = MODELS["resnet164_v2"].build
ResNet1001V2 = MODELS["resnet1001_v2"].build
ResNet50V2Keras = MODELS["resnet50_v2_keras"].build
ResNet101V2Keras = MODELS["resnet101_v2_keras"].build
ResNet152V2Keras = MODELS["resnet152_v2_keras"].build
Plain18 = MODELS["plain18"].build
Plain34 = MODELS["plain34"].build
Plain20 = MODELS["plain20"].build
Plain32 = MODELS["plain32"].build
Plain44 = MODELS["plain44"].build
Plain56 = MODELS["plain56"].build
Plain110 = MODELS["plain110"].build
WideResNet28x10 = MODELS["wide_resnet28_10"].build
ResNeXt50 = MODELS["resnext50_32x4d"].build

__all__ = [
    "MODELS",
    "BatchNormalization",
    "Cost",
    "GoogLeNet",
    "GoogLeNetBN",
    "GoogLeNetTV",
    "IdentityShortcut",
    "Inception",
    "LocalResponseNormalization",
    "Plain18",
    "Plain20",
    "Plain32",
    "Plain34",
    "Plain44",
    "Plain56",
    "Plain110",
    "ResNeXt50",
    "ResNet18",
    "ResNet18V1",
    "ResNet18V2",
    "ResNet20",
    "ResNet32",
    "ResNet34",
    "ResNet34V1",
    "ResNet34V2",
    "ResNet44",
    "ResNet50",
    "ResNet50V1",
    "ResNet50V2",
    "ResNet50V2Keras",
    "ResNet56",
    "ResNet101",
    "ResNet101V1",
    "ResNet101V2",
    "ResNet101V2Keras",
    "ResNet110",
    "ResNet110V2",
    "ResNet152",
    "ResNet152V1",
    "ResNet152V2",
    "ResNet152V2Keras",
    "ResNet164V2",
    "ResNet1001V2",
    "ResNet1202",
    "WideResNet28x10",
    "build",
    "cost",
    "inception_module",
    "stage_costs",
]
