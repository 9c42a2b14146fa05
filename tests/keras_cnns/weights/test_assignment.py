"""A file is loaded completely, or refused with the names of the tensors that do not fit."""

import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import safetensors.numpy
from random_weights import Array, random_tensor
from tensor_shapes import tensor_shapes
from test_goldens import read_golden

from keras_cnns.models import build
from keras_cnns.weights import WeightsError, keras_applications, load
from keras_cnns.weights.assignment import load_tensors

SHAPE = (32, 32, 3)


@pytest.fixture(scope="module")
def resnet18() -> dict[str, Array]:
    """A checkpoint of torchvision's, of 10 classes."""
    return read_golden("torchvision_resnet18")[1]


@pytest.fixture(scope="module")
def googlenet() -> dict[str, Array]:
    return read_golden("torchvision_googlenet")[1]


@pytest.fixture(scope="module")
def refusing() -> keras.Model:
    """A resnet18 for tests whose files do not fit it, so that it is never changed."""
    return build("resnet18", input_shape=SHAPE, classes=10)


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.name.startswith("keras_cnns")]


def values(model: keras.Model) -> dict[str, Array]:
    return {each.path: each.numpy() for each in model.weights}


@pytest.mark.parametrize(
    ("change", "kind", "names", "line"),
    [
        (
            {"layer1.0.conv1.weight": None, "fc.bias": None},
            "missing",
            ("layer1.0.conv1.weight", "fc.bias"),
            "FILE does not fit resnet18: 2 missing (layer1.0.conv1.weight, fc.bias)",
        ),
        (
            {"layer1.0.se.weight": np.zeros(3, "float32"), "extra": np.zeros(3, "float32")},
            "surplus",
            ("layer1.0.se.weight", "extra"),
            "FILE does not fit resnet18: 2 surplus (layer1.0.se.weight, extra)",
        ),
        (
            {"layer1.0.bn1.bias": np.zeros(63, "float32")},
            "misshaped",
            ("layer1.0.bn1.bias [63] for stage1_block1_bn1/beta [64]",),
            "FILE does not fit resnet18: 1 mis-shaped (layer1.0.bn1.bias [63] for "
            "stage1_block1_bn1/beta [64])",
        ),
        (
            {"layer1.0.conv1.weight": np.zeros((64, 64, 9), "float32")},
            "misshaped",
            ("layer1.0.conv1.weight [64, 64, 9] for stage1_block1_conv1/kernel [3, 3, 64, 64]",),
            "",
        ),
        (
            {"bn1.bias": np.zeros(64, "int64")},
            "misshaped",
            ("bn1.bias of int64 for stem_bn/beta [64]",),
            "",
        ),
        (
            {"fc.weight": np.zeros((10, 511), "float32")},
            "misshaped",
            ("fc.weight [10, 511] for logits/kernel [512, 10]",),
            "",
        ),
        (
            {"conv1.weight": np.zeros((64, 1, 7, 7), "float32")},
            "misshaped",
            ("conv1.weight [64, 1, 7, 7] for stem_conv/kernel [7, 7, 3, 64]",),
            "FILE does not fit resnet18, which reads images of 3 channels where the file's network "
            "reads 1: 1 mis-shaped",
        ),
    ],
)
def test_what_does_not_fit_is_listed_by_name_and_nothing_is_loaded(
    resnet18: dict[str, Array],
    refusing: keras.Model,
    change: dict[str, Array | None],
    kind: str,
    names: tuple[str, ...],
    line: str,
) -> None:
    before = values(refusing)
    tensors = {name: each for name, each in {**resnet18, **change}.items() if each is not None}
    with pytest.raises(WeightsError) as error:
        load_tensors(refusing, tensors, "FILE")
    assert getattr(error.value, kind) == names
    message = str(error.value).splitlines()
    assert message[0].startswith(line)
    assert len(message) == 1 + len(names)
    for path, value in values(refusing).items():
        np.testing.assert_array_equal(value, before[path])


def test_for_a_file_of_another_network_every_tensor_is_listed(resnet18: dict[str, Array]) -> None:
    with pytest.raises(WeightsError) as error:
        load_tensors(build("resnet34", input_shape=SHAPE, classes=10), resnet18, "FILE")
    blocks = 3 + 4 + 6 + 3 - (2 + 2 + 2 + 2)
    assert len(error.value.missing) == blocks * 2 * 5  # a block has two convolutions and norms
    assert not error.value.surplus
    line = str(error.value).splitlines()[0]
    assert line.startswith(
        "FILE does not fit resnet34 (resnet18 or resnet18_v1 can load it): 80 missing"
    )
    assert line.endswith(" and 76 more)")


@pytest.mark.parametrize("name", ["resnet18_v2", "resnet110", "googlenet_tv"])
def test_a_model_that_computes_something_else_is_refused(
    resnet18: dict[str, Array], name: str
) -> None:
    with pytest.raises(WeightsError) as error:
        load_tensors(build(name, input_shape=SHAPE, classes=10), resnet18, "FILE")
    assert name in str(error.value)


@pytest.mark.parametrize("name", ["googlenet", "googlenet_bn"])
def test_torchvisions_googlenet_is_not_the_papers(googlenet: dict[str, Array], name: str) -> None:
    with pytest.raises(WeightsError, match="3x3 convolutions where the paper has 5x5"):
        load_tensors(build(name, input_shape=SHAPE, classes=10), googlenet, "FILE")


def test_unknown_names_are_refused() -> None:
    model = build("resnet20", input_shape=SHAPE)
    with pytest.raises(WeightsError, match=r"names \(a, b\) match none of the known origins: tor"):
        load_tensors(model, {"a": np.zeros(1), "b": np.zeros(1)}, "FILE")
    with pytest.raises(WeightsError, match="not a model of keras_cnns"):
        load_tensors(keras.Sequential(name="mine"), read_golden("timm_resnet50")[1], "FILE")


def test_with_other_classes_the_backbone_is_loaded_and_a_warning_names_the_head(
    resnet18: dict[str, Array], caplog: pytest.LogCaptureFixture
) -> None:
    model = build("resnet18", input_shape=SHAPE, classes=7)
    before = values(model)
    with caplog.at_level(logging.WARNING):
        report = load_tensors(model, resnet18, "FILE")
    assert messages(caplog) == [
        "FILE: logits keeps its initial values, because the file has 10 classes and the model 7"
    ]
    assert report.new_heads == ("logits",)
    changed = {path for path, each in values(model).items() if (each != before[path]).any()}
    assert changed == {path for path in before if not path.startswith("logits")}


def test_auxiliary_heads_are_new_too_and_keep_their_hidden_layer(
    googlenet: dict[str, Array], caplog: pytest.LogCaptureFixture
) -> None:
    model = build("googlenet_tv", input_shape=(128, 128, 3), classes=7, aux_heads=True)
    report = load_tensors(model, googlenet, "FILE")
    assert report.new_heads == ("logits", "logits_aux1", "logits_aux2")
    assert messages(caplog) == [
        "FILE: logits, logits_aux1, logits_aux2 keep their initial values, because the file has "
        "10 classes and the model 7"
    ]


def test_heads_that_the_model_does_not_have_are_ignored(googlenet: dict[str, Array]) -> None:
    body = load_tensors(
        build("googlenet_tv", input_shape=SHAPE, include_top=False), googlenet, "FILE"
    )
    assert {name.partition(".")[0] for name in body.ignored_heads} == {"aux1", "aux2", "fc"}
    main = load_tensors(build("googlenet_tv", input_shape=SHAPE, classes=10), googlenet, "FILE")
    assert {name.partition(".")[0] for name in main.ignored_heads} == {"aux1", "aux2"}
    assert main.parameters == 6_624_904 - 990 * 1025


def without(tensors: dict[str, Array], pattern: str) -> dict[str, Array]:
    return {name: each for name, each in tensors.items() if not re.match(pattern, name)}


@pytest.mark.parametrize(
    ("absent", "classes", "new", "reasons"),
    [
        ("aux", 10, "aux1 aux2", "aux1, aux2 keep their initial values, because the file has no "),
        ("aux2", 10, "aux2", "aux2 keeps its initial values, because the file has no such head"),
        (
            "aux",
            7,
            "aux1 aux2 logits",
            "aux1, aux2 keep their initial values, because the file has no such head; logits keeps "
            "its initial values, because the file has 10 classes and the model 7",
        ),
    ],
)
def test_auxiliary_heads_that_the_file_lacks_keep_their_initial_values(
    googlenet: dict[str, Array],
    caplog: pytest.LogCaptureFixture,
    absent: str,
    classes: int,
    new: str,
    reasons: str,
) -> None:
    """torchvision's own pretrained `googlenet()` deletes its auxiliary heads by default."""
    model = build("googlenet_tv", input_shape=SHAPE, classes=classes, aux_heads=True)
    before = values(model)
    report = load_tensors(model, without(googlenet, absent), "FILE")
    assert report.new_heads == tuple(new.split())
    (message,) = messages(caplog)
    assert message.startswith(f"FILE: {reasons}")
    kept = rf"(logits_)?({'|'.join(report.new_heads)})[_/]"
    for path, value in values(model).items():
        if re.match(kept, path):
            np.testing.assert_array_equal(value, before[path])
        elif path.endswith("kernel"):
            assert (value != before[path]).any(), path


@pytest.mark.parametrize(
    ("golden", "name", "absent", "missing"),
    [
        (
            "torchvision_googlenet",
            "googlenet_tv",
            r"aux2\.fc1",
            ("aux2.fc1.weight", "aux2.fc1.bias"),
        ),
        ("torchvision_googlenet", "googlenet_tv", r"aux1\.fc2\.b", ("aux1.fc2.bias",)),
        ("torchvision_resnet18", "resnet18", r"fc\.bias", ("fc.bias",)),
        ("torchvision_resnet18", "resnet18", r"fc\.weight", ("fc.weight",)),
        ("timm_resnetv2_18", "resnet18_v2", r"head\.fc\.bias", ("head.fc.bias",)),
    ],
)
def test_a_head_that_is_incomplete_is_missing_and_no_other_model_is_recommended(
    golden: str, name: str, absent: str, missing: tuple[str, ...]
) -> None:
    tensors = without(read_golden(golden)[1], absent)
    model = build(name, input_shape=SHAPE, classes=10, aux_heads=name == "googlenet_tv")
    with pytest.raises(WeightsError) as error:
        load_tensors(model, tensors, "FILE")
    assert sorted(error.value.missing) == sorted(missing)
    line = str(error.value).splitlines()[0]
    assert line.startswith(f"FILE does not fit {name}: {len(missing)} missing")


def mlp_head(*names: str) -> dict[str, Array]:
    return {name: np.zeros((128, 512), "float32") for name in names}


@pytest.mark.parametrize(
    "head",
    [
        ("fc.0.weight", "fc.0.bias", "fc.2.weight", "fc.2.bias"),
        ("fc.0.weight", "fc.1.weight", "fc.1.running_mean", "fc.3.weight"),
        ("projector.0.weight", "projector.2.weight"),
        ("projection_head.layers.0.weight", "predictor.0.weight"),
        ("proj.weight", "projection.0.bias"),
        ("cls_head.fc.weight", "cls_head.fc.bias"),
    ],
)
@pytest.mark.parametrize("classes", [None, 7])
def test_heads_of_self_supervised_training_are_ignored(
    resnet18: dict[str, Array],
    caplog: pytest.LogCaptureFixture,
    head: tuple[str, ...],
    classes: int | None,
) -> None:
    body = {f"backbone.{name}": each for name, each in without(resnet18, "fc").items()}
    options: dict[str, Any] = {"classes": classes} if classes else {"include_top": False}
    model = build("resnet18", input_shape=SHAPE, **options)
    report = load_tensors(model, {**body, **mlp_head(*head)}, "FILE")
    assert report.ignored_heads == head
    assert report.new_heads == (("logits",) if classes else ())
    assert messages(caplog) == [
        "FILE: logits keeps its initial values, because the file has no classifier"
    ] * bool(classes)


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
@pytest.mark.parametrize(("classes", "new"), [(10, ()), (7, ("logits",))])
def test_the_classifier_of_mmpretrain_is_loaded(
    resnet18: dict[str, Array], prefix: str, classes: int, new: tuple[str, ...]
) -> None:
    tensors = {
        prefix + ("head." if name.startswith("fc") else "backbone.") + name: each
        for name, each in resnet18.items()
    }
    model = build("resnet18", input_shape=SHAPE, classes=classes)
    report = load_tensors(model, tensors, "FILE")
    assert (report.new_heads, report.ignored_heads) == (new, ())
    if not new:
        np.testing.assert_array_equal(model.get_layer("logits").kernel, resnet18["fc.weight"].T)


def test_the_only_layer_of_a_sequential_classifier_is_loaded(resnet18: dict[str, Array]) -> None:
    """As in `model.fc = Sequential(Dropout(), Linear(...))`."""
    tensors = {re.sub(r"^fc\.", "fc.1.", name): each for name, each in resnet18.items()}
    model = build("resnet18", input_shape=SHAPE, classes=10)
    assert load_tensors(model, tensors, "FILE").new_heads == ()
    np.testing.assert_array_equal(model.get_layer("logits").kernel, resnet18["fc.weight"].T)


def test_of_two_classifiers_that_of_the_usual_name_is_loaded(resnet18: dict[str, Array]) -> None:
    head = {"head.fc.weight": np.zeros((3, 512), "float32"), "head.fc.bias": np.zeros(3, "float32")}
    model = build("resnet18", input_shape=SHAPE, classes=10)
    assert load_tensors(model, {**resnet18, **head}, "FILE").ignored_heads == tuple(head)


def test_a_file_without_a_classifier_keeps_the_new_one(
    resnet18: dict[str, Array], caplog: pytest.LogCaptureFixture
) -> None:
    model = build("resnet18", input_shape=SHAPE, classes=7)
    before = values(model)
    report = load_tensors(model, without(resnet18, "fc"), "FILE")
    assert messages(caplog) == [
        "FILE: logits keeps its initial values, because the file has no classifier"
    ]
    assert report.new_heads == ("logits",)
    assert report.tensors == 100
    changed = {path for path, each in values(model).items() if (each != before[path]).any()}
    assert changed == {path for path in before if not path.startswith("logits")}


@pytest.mark.parametrize("layout", ["v1", "v2_keras"])
def test_keras_applications_without_top_are_read(layout: str, tmp_path: Path) -> None:
    """The file lacks a classifier, as with `include_top=False`."""
    file = tmp_path / "no-top.h5"
    name = f"resnet50_{layout}"
    (origin,) = (
        each for each in keras_applications.ORIGINS if each.layouts == (f"resnet_{layout}",)
    )
    with h5py.File(file, "w") as content:
        for tensor, shape in tensor_shapes(name, origin).items():
            content[tensor] = random_tensor(tensor, shape)
    assert load(build(name, input_shape=SHAPE, classes=7), file).new_heads == ("logits",)


def test_a_headless_file_of_ours_and_of_googlenet(
    googlenet: dict[str, Array], tmp_path: Path
) -> None:
    body = build("resnet20", input_shape=SHAPE, include_top=False)
    body.save_weights(tmp_path / "body.weights.h5")
    model = build("resnet20", input_shape=SHAPE, classes=3)
    assert load(model, tmp_path / "body.weights.h5").new_heads == ("logits",)
    model = build("googlenet_tv", input_shape=(128, 128, 3), classes=10, aux_heads=True)
    assert load_tensors(model, without(googlenet, "fc"), "FILE").new_heads == ("logits",)


@pytest.mark.parametrize(
    ("prefixes", "head"),
    [
        ("module.", None),
        ("_orig_mod.", None),
        ("model.", None),
        ("backbone.", None),
        ("net.", None),
        ("module._orig_mod.", None),
        ("model.module.backbone._orig_mod.net.", None),
        ("backbone.", ""),
        ("model.backbone.", "model."),
        ("module._orig_mod.backbone.", "module._orig_mod."),
    ],
)
def test_the_prefixes_of_wrappers_are_removed(
    resnet18: dict[str, Array], prefixes: str, head: str | None
) -> None:
    """A head may lie outside of the backbone."""
    tensors = {
        (prefixes if head is None or not name.startswith("fc") else head) + name: each
        for name, each in resnet18.items()
    }
    tensors[f"{prefixes}n_averaged"] = np.asarray(3, "int64")
    report = load_tensors(build("resnet18", input_shape=SHAPE, classes=10), tensors, "FILE")
    assert report.tensors == sum(not name.endswith("batches_tracked") for name in resnet18)
    assert report.parameters == 11_689_512 - 990 * 513


def test_two_networks_in_one_file_are_refused(
    resnet18: dict[str, Array], refusing: keras.Model
) -> None:
    both = {prefix + name: each for prefix in ("net.", "model.") for name, each in resnet18.items()}
    with pytest.raises(WeightsError) as error:
        load_tensors(refusing, both, "FILE")
    assert str(error.value) == (
        "FILE has conv1.weight twice, as net.conv1.weight and as model.conv1.weight: keep the "
        "tensors of one network only"
    )


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("layer1.0.conv1.weight", np.nan, "layer1.0.conv1.weight has NaN values"),
        ("bn1.weight", np.inf, "bn1.weight has infinite values"),
        ("fc.bias", -np.inf, "fc.bias has infinite values"),
        ("bn1.running_var", -0.1, "bn1.running_var is a variance, but has negative values"),
        ("bn1.running_var", np.nan, "bn1.running_var has NaN values"),
    ],
)
def test_numbers_that_no_trained_network_has_are_refused_by_name(
    resnet18: dict[str, Array], refusing: keras.Model, name: str, value: float, message: str
) -> None:
    before = values(refusing)
    tensors = {**resnet18, name: resnet18[name].copy()}
    tensors[name].flat[-1] = value
    with pytest.raises(WeightsError) as error:
        load_tensors(refusing, tensors, "FILE")
    assert error.value.invalid == (message,)
    assert str(error.value).splitlines()[0] == f"FILE is damaged: 1 invalid ({message})"
    for path, each in values(refusing).items():
        np.testing.assert_array_equal(each, before[path])


def test_numbers_of_heads_that_are_not_loaded_do_not_matter(resnet18: dict[str, Array]) -> None:
    tensors = {**resnet18, "fc.bias": np.full(10, np.nan, "float32")}
    load_tensors(build("resnet18", input_shape=SHAPE, classes=7), tensors, "FILE")


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
@pytest.mark.parametrize(
    ("variable", "value"),
    [("kernel", np.nan), ("moving_variance", -1.0), ("moving_mean", np.inf)],
)
def test_every_reader_is_checked(variable: str, value: float, suffix: str, tmp_path: Path) -> None:
    model = build("resnet20", input_shape=SHAPE)
    layer = model.get_layer("stem_conv" if variable == "kernel" else "stem_bn")
    getattr(layer, variable).assign(np.full(getattr(layer, variable).shape, value))
    file = tmp_path / f"net{suffix}"
    model.save_weights(file) if suffix == ".weights.h5" else model.save(file)
    with pytest.raises(
        WeightsError, match=rf"is damaged: 1 invalid \({layer.name}/{variable} (has|is)"
    ):
        load(build("resnet20", input_shape=SHAPE), file)


@pytest.mark.parametrize(("name", "suffix"), [("resnet20", ".keras"), ("googlenet", ".weights.h5")])
def test_our_own_files_come_back(name: str, suffix: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"input_shape": SHAPE, "classes": 10}
    model = build(name, **options, aux_heads=True)
    for variable in model.weights:
        variable.assign(random_tensor(variable.path, tuple(variable.shape)))
    file = tmp_path / f"net{suffix}"
    model.save_weights(file) if suffix == ".weights.h5" else model.save(file)
    expected = values(model)
    for aux_heads in (True, False):
        again = build(name, **options, aux_heads=aux_heads, weights=str(file))
        for path, value in values(again).items():
            np.testing.assert_array_equal(value, expected[path], err_msg=path)


def test_reading_weights_imports_neither_tensorflow_nor_torch() -> None:
    code = "import sys, keras_cnns.weights; print(*({'tensorflow', 'torch'} & set(sys.modules)))"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={"KERAS_BACKEND": "numpy", "PATH": ""},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not found.stdout.strip()


def test_half_precision_is_read(resnet18: dict[str, Array], tmp_path: Path) -> None:
    half = {
        name: each.astype("float16") if each.dtype == "float32" else each
        for name, each in resnet18.items()
    }
    safetensors.numpy.save_file(half, tmp_path / "half.safetensors")
    model = build("resnet18", input_shape=SHAPE, classes=10)
    load(model, tmp_path / "half.safetensors")
    found = model.get_layer("stem_bn").gamma.numpy()
    np.testing.assert_array_equal(found, half["bn1.weight"].astype("float32"))
