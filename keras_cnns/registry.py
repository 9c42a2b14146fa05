"""Build a model by its name: `build("resnet20", weights="resnet20.weights.h5")`.

A model is one row of `models.googlenet.VARIANTS` or `models.resnet.ARCHITECTURES`. `MODELS` has an
entry for each row, and `keras_cnns.models` has a function for each, such as `ResNet20`.
"""

import functools
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, ParamSpec, Protocol, TypeVar, Unpack

import keras
from keras import KerasTensor

from keras_cnns import suggestions
from keras_cnns.models.cost import Cost, cost
from keras_cnns.models.googlenet import BRANCHES, VARIANTS, googlenet
from keras_cnns.models.heads import HeadOptions, InputShape, Pooling, normalised_input
from keras_cnns.models.resnet import ARCHITECTURES, resnet
from keras_cnns.models.rows import Row, function_name
from keras_cnns.models.variations import vary
from keras_cnns.weights import pretrained
from keras_cnns.weights.assignment import load
from keras_cnns.weights.download import fetch
from keras_cnns.weights.pretrained import Pretrained

# The keys of MODELS, for completion in editors. A test compares them with MODELS.
ModelName = Literal[
    "googlenet",
    "googlenet_bn",
    "googlenet_tv",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnet8",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet110",
    "resnet1202",
    "resnet18_v1",
    "resnet34_v1",
    "resnet50_v1",
    "resnet101_v1",
    "resnet152_v1",
    "resnet18_v2",
    "resnet34_v2",
    "resnet50_v2",
    "resnet101_v2",
    "resnet152_v2",
    "resnet50_v2_keras",
    "resnet101_v2_keras",
    "resnet152_v2_keras",
    "resnet110_v2",
    "resnet164_v2",
    "resnet1001_v2",
    "plain18",
    "plain34",
    "plain8",
    "plain20",
    "plain32",
    "plain44",
    "plain56",
    "plain110",
    "wide_resnet28_10",
    "resnext50_32x4d",
]
# Name of an option in torchvision, timm or keras.applications -> our name.
_SYNONYMS = {
    "num_classes": "classes",
    "n_classes": "classes",
    "num_labels": "classes",
    "in_chans": "input_shape",
    "in_channels": "input_shape",
    "channels": "input_shape",
    "image_size": "input_shape",
    "img_size": "input_shape",
    "aux_logits": "aux_heads",
    "auxiliary_heads": "aux_heads",
    "pretrained": "weights",
    "checkpoint_path": "weights",
    "features_only": "features",
    "out_indices": "features",
    "global_pool": "pooling",
    "skip": "shortcut",
    "cifar_stem": "small_stem",
    "stem": "small_stem",
    "inputs": "input_tensor",
    "model_name": "name",
}
# The options of `build` that apply to only one family.
_OF_GOOGLENET = ("inception", "inception_branches", "width")
_OF_RESNET = ("shortcut",)
# Value of `inception` -> whether the modules are naive.
_MODULES = {"reduced": False, "naive": True}
_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


class Options(HeadOptions, total=False):
    """The keyword options of `build`; its docstring describes them."""

    shortcut: str | None
    inception: str
    inception_branches: Iterable[str]
    width: float
    small_stem: bool
    activation: str
    kernel_initializer: str | None
    batch_normalization: bool
    batch_norm_noise: float
    input_tensor: KerasTensor | None
    weights: Path | str | None
    name: str | None


class Builder(Protocol):
    """A function that builds one model, such as `ResNet50`; `build` describes its arguments."""

    __name__: str

    def __call__(
        self,
        input_shape: InputShape | None = None,
        classes: int | None = None,
        **options: Unpack[Options],
    ) -> keras.Model:
        """Build the model: images [N, H, W, C] -> probabilities [N, K]."""


def _checking_options(function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """Wrap a function so that its TypeError for an unknown option suggests the nearest option."""
    parameters = inspect.signature(function).parameters.values()
    known = [each.name for each in parameters if each.kind is not each.POSITIONAL_ONLY]

    @functools.wraps(function)
    def checked(*arguments: _Parameters.args, **options: _Parameters.kwargs) -> _Result:
        for option in options:
            if option not in known:
                synonym = _SYNONYMS.get(option)
                near = [synonym] if synonym in known else get_close_matches(option, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise TypeError(
                    f"{function.__name__}() has no option {option!r}{hint} "
                    f"(it has {', '.join(known)})"
                )
        return function(*arguments, **options)

    return checked


@_checking_options
def build(
    model: ModelName | str,
    /,
    input_shape: InputShape | None = None,
    classes: int | None = None,
    *,
    aux_heads: bool | Iterable[str] = False,
    features: Iterable[str] = (),
    include_top: bool = True,
    pooling: Pooling | None = None,
    classifier_activation: str | None = "softmax",
    shortcut: str | None = None,
    inception: str = "reduced",
    inception_branches: Iterable[str] = BRANCHES,
    width: float = 1.0,
    small_stem: bool = False,
    activation: str = "relu",
    kernel_initializer: str | None = None,
    batch_normalization: bool = True,
    batch_norm_noise: float = 0.0,
    input_tensor: KerasTensor | None = None,
    weights: Path | str | None = None,
    name: str | None = None,
) -> keras.Model:
    """Build a model: images [N, H, W, C] -> probabilities [N, K].

    Args:
        model: a key of MODELS.
        input_shape: (H, W, C) of the images, by default as in the paper; H and W may be None.
        classes: number of classes, K; by default as in the paper.
        aux_heads: True adds the model's default auxiliary classifiers; a tuple of names of feature
            maps adds a classifier to each of these maps. Their outputs are named `aux1`, `aux2`,
            ... in this order.
        features: names of feature maps that become outputs, such as `stage3`.
        include_top: if False, build the model without its classifier.
        pooling: if there is no classifier, `avg` or `max` pools the last feature map to [N, C].
        classifier_activation: `softmax`, or None for logits.
        shortcut: for residual networks, the shortcut of the blocks: a key of `shortcuts.SHORTCUTS`,
            or the paper's letter A, B or C; by default the shortcut of the model's paper.
        inception: for GoogLeNet, `reduced` for modules with dimension reduction (Szegedy et al.
            2014, figure 2b) or `naive` (figure 2a).
        inception_branches: for GoogLeNet, the branches of each module: some of 1x1, 3x3, 5x5, pool.
        width: for GoogLeNet, a factor for the number of filters of each convolution, above 0.
        small_stem: if True, begin with a 3x3 convolution of stride 1 without a pool after it, for
            images of about 32x32 pixels. The networks of CIFAR always have such a stem.
        activation: relu, tanh or sigmoid, for all layers but the classifiers.
        kernel_initializer: small_normal, glorot_uniform or he_normal, for all layers but the
            classifiers; by default the distribution of the model's paper.
        batch_normalization: if False, build the model without its batch normalisation, and with a
            bias in each convolution.
        batch_norm_noise: standard deviation of the noise that training adds after each batch
            normalisation (Santurkar et al. 2018).
        input_tensor: a tensor to use instead of a new input.
        weights: a file to load, of this project or another (see `keras_cnns.weights`); or the name
            of published weights, such as `imagenet` or `torchvision/resnet50.IMAGENET1K_V2` (see
            `keras_cnns.weights.pretrained`). With published weights, the input of the model is RGB
            pixels from 0 to 255, and its first layer, `normalise`, normalises them for the weights.
            If `input_tensor` is given, it must already be normalised in this way.
        name: the name of the Keras model; by default the key of MODELS.

    Returns:
        A `keras.Model` with one output tensor or, if there are several, a dict of name -> output:
        `main` [N, K], `aux1`, `aux2`, ... [N, K], and each feature map.

    Raises:
        TypeError: there is no such option; the message names the most similar option.
        ValueError: there is no such model, or an option is out of range.
        WeightsError: the weights cannot be read or do not fit the model; in particular
            DownloadError, if they are not cached and cannot be downloaded.
    """
    row = find(model).row
    published = file = None
    if weights is not None and pretrained.is_name(weights):
        published = pretrained.find(str(weights), model)
        shape = row.input_shape if input_shape is None else input_shape
        if input_tensor is None and tuple(shape)[-1] != len(published.mean):
            raise ValueError(
                f"input_shape is {shape}; the weights {published.name} need RGB images, (H, W, 3)"
            )
        file = fetch(published)
        if input_tensor is None:
            input_tensor = normalised_input(shape, published.mean, published.std)
    heads: HeadOptions = {
        "aux_heads": aux_heads,
        "features": features,
        "include_top": include_top,
        "pooling": pooling,
        "classifier_activation": classifier_activation,
    }
    branches = tuple(inception_branches)
    if model in ARCHITECTURES:
        given = (inception != "reduced", branches != BRANCHES, width != 1)
        for option, is_given in zip(_OF_GOOGLENET, given, strict=True):
            if is_given:
                raise TypeError(f"{model} has no option {option!r}, as it has no inception modules")
        built = resnet(
            model,
            input_shape,
            classes,
            shortcut=shortcut,
            small_stem=small_stem,
            input_tensor=input_tensor,
            name=name,
            **heads,
        )
    elif shortcut is not None:
        raise TypeError(f"{model} has no option 'shortcut', as it has no residual blocks")
    else:
        if inception not in _MODULES:
            raise ValueError(f"inception is {inception!r}; it must be {' or '.join(_MODULES)}")
        built = googlenet(
            model,
            input_shape,
            classes,
            naive=_MODULES[inception],
            branches=branches,
            width=width,
            small_stem=small_stem,
            input_tensor=input_tensor,
            name=name,
            **heads,
        )
    built = vary(
        built,
        activation=activation,
        kernel_initializer=kernel_initializer,
        batch_normalization=batch_normalization,
        batch_norm_noise=batch_norm_noise,
    )
    if published is not None and file is not None:
        _load_published(built, published, file)
    elif weights is not None:
        load(built, weights)
    return built


def _load_published(model: keras.Model, row: Pretrained, file: Path) -> None:
    """Load published weights, and convert weights that were trained on BGR images to RGB."""
    load(model, file)
    if row.bgr:
        kernel = model.get_layer("stem_conv").kernel
        kernel.assign(keras.ops.convert_to_numpy(kernel)[:, :, ::-1])


@dataclass(frozen=True)
class Entry:
    """One model of the registry."""

    build: Builder
    row: Row

    @property
    def paper(self) -> str:
        """The paper that describes the model, with its arXiv number."""
        return self.row.paper

    @property
    def top_1(self) -> str | None:
        """The published top-1 accuracy in per cent with its source; None if there is none."""
        return self.row.top_1

    @functools.cached_property
    def cost(self) -> Cost:
        """The cost at the paper's image size and number of classes.

        If the row does not state the cost, the model is built and measured, which takes seconds.
        """
        return self.row.cost or cost(self.build())


def _entry(name: str, row: Row) -> Entry:
    """Return the entry of a row; its function has a signature and a docstring for editors."""

    def builder(
        input_shape: InputShape | None = None,
        classes: int | None = None,
        **options: Unpack[Options],
    ) -> keras.Model:
        return build(name, input_shape, classes, **options)

    omitted = ("model", *(_OF_GOOGLENET if name in ARCHITECTURES else _OF_RESNET))
    signature = inspect.signature(build)
    parameters = [each for each in signature.parameters.values() if each.name not in omitted]
    vars(builder)["__signature__"] = signature.replace(parameters=parameters)
    builder.__name__ = builder.__qualname__ = function_name(name, row)
    builder.__module__ = "keras_cnns.models"
    # Python 3.13 removes the indentation of a docstring, and `getdoc` does so in every version.
    _, _, details = (inspect.getdoc(build) or "").partition("\n")
    builder.__doc__ = f"Build {name} ({row.paper}): images [N, H, W, C] -> probabilities [N, K].\n"
    builder.__doc__ += details.replace("    model: a key of MODELS.\n", "")
    return Entry(_checking_options(builder), row)


MODELS: dict[str, Entry] = {
    name: _entry(name, row) for name, row in {**VARIANTS, **ARCHITECTURES}.items()
}
# The functions that `keras_cnns.models` offers, such as `ResNet50`.
FUNCTIONS: dict[str, Builder] = {entry.build.__name__: entry.build for entry in MODELS.values()}


def find(name: str) -> Entry:
    """Return the entry of a model.

    Raises:
        ValueError: there is no such model; the message names the most similar model.
    """
    return suggestions.find(name, MODELS, "model")
