"""The registry: names, functions and options; sizes, outputs and layer names of its models."""

import inspect
import json
import pydoc
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import keras
import numpy as np
import pytest

from keras_cnns import models, registry
from keras_cnns.models import MODELS, build
from keras_cnns.models.googlenet import googlenet
from keras_cnns.models.resnet import ARCHITECTURES, resnet

IMAGENET: dict[str, Any] = {"input_shape": (224, 224, 3), "classes": 1000}
SMALL: dict[str, Any] = {"input_shape": (32, 32, 3), "classes": 10}
LAYER_NAMES = Path(__file__).with_name("layer_names.json")


def count(weights: list[Any]) -> int:
    return sum(int(np.prod(weight.shape)) for weight in weights)


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("resnet20", SMALL, 269_722),
        ("resnet32", SMALL, 464_154),
        ("resnet44", SMALL, 658_586),
        ("resnet56", SMALL, 853_018),
        ("resnet110", SMALL, 1_727_962),
        ("googlenet", IMAGENET, 6_998_552),
        ("googlenet", {**IMAGENET, "aux_heads": True}, 13_378_280),
        ("googlenet_bn", IMAGENET, 7_005_832),
        ("googlenet_bn", {**IMAGENET, "aux_heads": True}, 13_385_816),
    ],
)
def test_trainable_parameters_are_the_papers(
    name: str, options: dict[str, Any], parameters: int
) -> None:
    assert count(build(name, **options).trainable_weights) == parameters


@pytest.mark.parametrize(
    ("part", "parameters"),
    [
        ("conv1_", 9_472),
        ("conv2_", 114_944),
        ("inception_3a_", 163_696),
        ("inception_3b_", 388_736),
        ("inception_4a_", 376_176),
        ("inception_4b_", 449_160),
        ("inception_4c_", 510_104),
        ("inception_4d_", 605_376),
        ("inception_4e_", 868_352),
        ("inception_5a_", 1_043_456),
        ("inception_5b_", 1_444_080),
        ("aux1", 3_188_840 - 1_025_000),
        ("aux2", 3_190_888 - 1_025_000),
        ("logits", 3 * 1_025_000),
    ],
)
def test_googlenet_is_table_1_row_by_row(part: str, parameters: int) -> None:
    model = googlenet_with_heads()
    layers = [layer for layer in model.layers if layer.name.startswith(part)]
    assert sum(layer.count_params() for layer in layers) == parameters


_GOOGLENET: list[keras.Model] = []


def googlenet_with_heads() -> keras.Model:
    if not _GOOGLENET:
        _GOOGLENET.append(build("googlenet", aux_heads=True))
    return _GOOGLENET[0]


@pytest.mark.parametrize(
    "name", ["googlenet", "googlenet_bn", "resnet18", "resnet50", "resnet20", "resnet50_v2"]
)
def test_outputs_are_probabilities_by_name(name: str) -> None:
    images = np.random.default_rng(0).uniform(0, 1, (2, 32, 32, 1)).astype("float32")
    options: dict[str, Any] = {"input_shape": (32, 32, 1), "classes": 7}
    single = build(name, **options)
    assert not isinstance(single.output, dict)
    several = build(name, **options, aux_heads=True)
    heads = 3 if name in ARCHITECTURES and len(ARCHITECTURES[name].blocks) == 4 else 2
    assert list(several.output) == ["main", *(f"aux{n}" for n in range(1, heads + 1))]
    for output in (single(images), *several(images).values()):
        assert output.shape == (2, 7)
        np.testing.assert_allclose(np.sum(output, axis=1), 1.0, rtol=1e-5)
    inference = keras.Model(several.input, several.output["main"])
    np.testing.assert_allclose(inference(images), several(images)["main"], rtol=1e-6)


@pytest.mark.parametrize("name", ["resnet20", "googlenet", "googlenet_bn"])
def test_layer_names_are_checkpoint_api(name: str) -> None:
    """A changed name makes earlier files unreadable: change the golden file only on purpose."""
    model = build(name, **SMALL, aux_heads=True)
    assert [layer.name for layer in model.layers] == json.loads(LAYER_NAMES.read_text())[name]


@pytest.mark.parametrize("name", ["resnet20", "googlenet", "googlenet_bn"])
def test_saved_and_loaded_it_is_the_same_model(name: str, tmp_path: Path) -> None:
    images = np.random.default_rng(0).uniform(0, 1, (2, 32, 32, 3)).astype("float32")
    model = build(name, **SMALL)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(images), model(images))


@pytest.mark.parametrize(
    ("size", "maps"),
    [
        (224, {"stage1": 56, "stage2": 28, "4a": 14, "stage3": 14, "stage4": 7}),
        (32, {"stage1": 16, "stage2": 8, "4a": 4, "stage3": 4, "stage4": 2}),
        (129, {"stage1": 32, "stage2": 16, "4a": 8, "stage3": 8, "stage4": 4}),
    ],
)
def test_googlenet_feature_maps_have_the_tables_sizes(size: int, maps: dict[str, int]) -> None:
    model = build(
        "googlenet_bn", input_shape=(size, size, 3), features=tuple(maps), include_top=False
    )
    assert {name: output.shape[1] for name, output in model.output.items()} == maps


def test_the_classifier_can_be_left_out() -> None:
    images = np.zeros((1, 32, 32, 3), "float32")
    assert build("resnet20", include_top=False)(images).shape == (1, 8, 8, 64)
    assert build("resnet20", include_top=False, pooling="avg")(images).shape == (1, 64)
    logits = build("resnet20", classifier_activation=None)
    assert not np.allclose(np.sum(logits(images)), 1.0)
    anywhere = build("resnet20", input_shape=(None, None, 3), include_top=False)
    assert anywhere(np.zeros((1, 40, 48, 3), "float32")).shape == (1, 10, 12, 64)


def test_heads_stay_in_float32_under_mixed_precision() -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build("resnet20")
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.get_layer("stage1_block1_conv1").compute_dtype == "bfloat16"
    assert model.output.dtype == "float32"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet21", {}, "there is no model 'resnet21'; did you mean 'resnet"),
        ("googlenet", {"input_shape": (15, 32, 3)}, "height and width of this model is 16"),
        ("resnet20", {"input_shape": (32, 32)}, "must be (height, width, channels)"),
        ("resnet20", {"input_shape": (32, 32, 0)}, "at least one channel"),
        ("resnet20", {"classes": 0}, "classes is 0"),
        ("resnet20", {"pooling": "mean"}, "'avg' or 'max'"),
        ("resnet20", {"features": ("stage9",)}, "did you mean 'stage"),
        ("resnet20", {"aux_heads": True, "include_top": False}, "include_top=True"),
        (
            "googlenet",
            {"input_shape": (None, None, 3), "aux_heads": True},
            "known height and width",
        ),
    ],
)
def test_wrong_arguments_say_what_is_right(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the message is what is tested
        build(name, **options)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("family", "name", "message"),
    [
        (resnet, "resnet19", "there is no ResNet 'resnet19'; did you mean 'resnet1"),
        (
            googlenet,
            "googlenet_v9",
            "there is no GoogLeNet 'googlenet_v9'; did you mean",
        ),
    ],
)
def test_an_unknown_row_of_a_family_is_named_with_the_nearest(
    family: Callable[[str], keras.Model], name: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        family(name)


def test_a_model_is_a_row_a_name_and_a_function() -> None:
    assert get_args(registry.ModelName) == tuple(MODELS)
    assert len(registry.FUNCTIONS) == len(MODELS)
    for name, function in {
        "googlenet_bn": "GoogLeNetBN",
        "plain20": "Plain20",
        "resnet1001_v2": "ResNet1001V2",
        "resnet50_v2_keras": "ResNet50V2Keras",
        "resnext50_32x4d": "ResNeXt50",
        "wide_resnet28_10": "WideResNet28x10",
    }.items():
        assert getattr(models, function) is MODELS[name].build
        assert MODELS[name].build.__name__ == function
    assert {*registry.FUNCTIONS, "build", "MODELS"} <= {*dir(models)} & {*models.__all__}
    with pytest.raises(AttributeError, match="no attribute 'ResNet51'; did you mean 'ResNet5"):
        _ = models.ResNet51


def test_functions_and_options_can_be_read_by_help_and_editors() -> None:
    signature = inspect.signature(build)
    parameters = list(signature.parameters)[1:]
    assert all(each.annotation is not each.empty for each in signature.parameters.values())
    modules = ["inception", "inception_branches", "width"]
    assert list(inspect.signature(models.ResNet50).parameters) == [
        each for each in parameters if each not in modules
    ]
    parameters.remove("shortcut")
    assert list(inspect.signature(models.GoogLeNet).parameters) == parameters
    page = pydoc.plain(pydoc.render_doc(models.ResNet50))
    assert re.search(r"ResNet50\(\s*input_shape: ", page)
    assert "arXiv:1512.03385" in page
    assert "classes: number of classes" in page
    assert "model: " not in page
    assert "resnet1202" in pydoc.plain(pydoc.render_doc(build))
    model = models.ResNet20((32, 32, 1), 4, name="mine")
    assert (model.name, model.output.shape) == ("mine", (None, 4))
    assert build("resnet20", name="mine").name == "mine"


@pytest.mark.parametrize(
    ("call", "option", "nearest"),
    [
        (build, "num_classes", "classes"),
        (build, "in_chans", "input_shape"),
        (build, "aux_logits", "aux_heads"),
        (build, "pretrained", "weights"),
        (build, "input_shapes", "input_shape"),
        (MODELS["resnet20"].build, "num_classes", "classes"),
        (MODELS["googlenet"].build, "poolin", "pooling"),
    ],
)
def test_an_unknown_option_is_named_with_the_nearest(
    call: Callable[..., keras.Model], option: str, nearest: str
) -> None:
    arguments = ("resnet20",) if call is build else ()
    with pytest.raises(TypeError, match=f"no option '{option}'; did you mean '{nearest}'"):
        call(*arguments, **{option: 10})


def test_googlenet_has_no_shortcut() -> None:
    with pytest.raises(TypeError, match="googlenet has no option 'shortcut'"):
        build("googlenet", shortcut="A")
    with pytest.raises(TypeError, match="no option 'shortcut'"):
        models.GoogLeNet(shortcut="A")


def test_a_cost_that_is_not_stated_is_computed() -> None:
    stated = MODELS["resnet20"]
    computed = replace(stated, row=replace(stated.row, cost=None))
    assert computed.cost == stated.cost
