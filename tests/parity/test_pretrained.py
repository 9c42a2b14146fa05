"""The table of pretrained weights says what torchvision, timm and keras.applications publish.

torchvision's facts are its `Weights` enums, timm's are its `pretrained_cfg`, and those of
keras.applications are in the source of Keras. They are read here and compared with every row of the
table. Only the top-1 accuracies of timm and the sizes and accuracies of keras.applications are
published elsewhere (`results/results-imagenet.csv` in timm's repository, and
https://keras.io/api/applications).
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import originals  # noqa: F401 - makes torchvision importable beside another build of torch
import pytest
import timm
import torch
from keras.src.applications import imagenet_utils, resnet
from torchvision.models import get_model_weights
from torchvision.models.googlenet import GoogLeNet

from keras_cnns.weights.pretrained import PRETRAINED, Checksum, Pretrained, default_for

# torchvision's name, and ours.
TORCHVISION = {
    "googlenet": "googlenet_tv",
    **{name: name for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")},
    "resnext50_32x4d": "resnext50_32x4d",
}
TIMM = {
    **{name: name for name in TORCHVISION if name != "googlenet"},
    **{f"resnetv2_{depth}": f"resnet{depth}_v2" for depth in (18, 34, 50, 101, 152)},
}
KERAS = {
    f"resnet{depth}{version}": f"resnet{depth}_{ours}"
    for depth in (50, 101, 152)
    for version, ours in (("", "v1"), ("v2", "v2_keras"))
}


def levels(values: Any) -> tuple[float, ...]:
    """Convert a mean or standard deviation of pixels from 0 to 1 to levels from 0 to 255."""
    return tuple(round(255 * float(value), 3) for value in np.atleast_1d(values))


def torchvision_rows() -> Iterator[Pretrained]:
    for theirs, ours in TORCHVISION.items():
        weights = get_model_weights(theirs)
        for each in weights:
            transforms, file = each.transforms(), each.url.rpartition("/")[2]
            mean, std = levels(transforms.mean), levels(transforms.std)
            if theirs == "googlenet":  # see the test of its transform_input
                mean = std = (127.5, 127.5, 127.5)
            yield Pretrained(
                name=f"torchvision/{theirs}.{each.name}",
                model=ours,
                default=each is weights.DEFAULT,
                url=each.url,
                checksum=Checksum("sha256-prefix", file.rpartition("-")[2].partition(".")[0]),
                mebibytes=each.meta["_file_size"],
                top_1=each.meta["_metrics"]["ImageNet-1K"]["acc@1"],
                licence=each.meta.get("license", ""),
                mean=mean,
                std=std,
                resize=transforms.resize_size[0],
                crop=transforms.crop_size[0],
                interpolation=transforms.interpolation.value,
            )


def timm_rows() -> Iterator[Pretrained]:
    defaults = {"resnet18_v2", "resnet34_v2", "resnet50_v2", "resnet101_v2"}
    for theirs, ours in TIMM.items():
        for name in timm.list_models(f"{theirs}.*", pretrained=True):
            config = timm.get_pretrained_cfg(name)
            if config.num_classes != 1000:
                continue
            size = (config.test_input_size or config.input_size)[1]
            yield Pretrained(
                name=f"timm/{name}",
                model=ours,
                default=ours in defaults,
                url=f"https://huggingface.co/{config.hf_hub_id}/resolve/main/model.safetensors",
                checksum=Checksum("hub-revision", "main"),
                mebibytes=None,
                top_1=None,
                licence=config.license or "",
                mean=levels(config.mean),
                std=levels(config.std),
                resize=math.floor(size / (config.test_crop_pct or config.crop_pct)),
                crop=size,
                interpolation=config.interpolation,
            )


def keras_rows() -> Iterator[Pretrained]:
    for theirs, ours in KERAS.items():
        # What preprocess_input does to black, and how many levels it makes of one.
        images = np.stack([np.zeros((1, 1, 3)), np.full((1, 1, 3), 1.0)])
        mode = "tf" if "v2" in theirs else "caffe"
        black, grey = imagenet_utils.preprocess_input(images, mode=mode)[:, 0, 0]
        scale, offset = grey - black, black
        if mode == "caffe":  # BGR
            scale, offset = scale[::-1], offset[::-1]
        file = f"{theirs}_weights_tf_dim_ordering_tf_kernels.h5"
        yield Pretrained(
            name=f"keras/{theirs}",
            model=ours,
            default=True,
            url=resnet.BASE_WEIGHTS_PATH + file,
            checksum=Checksum("md5", resnet.WEIGHTS_HASHES[theirs][0]),
            mebibytes=None,
            top_1=None,
            licence="",
            mean=tuple(round(float(value), 3) for value in -offset / scale),
            std=tuple(round(float(value), 3) for value in 1 / scale),
            resize=None,
            crop=224,
            interpolation="",
            bgr=mode == "caffe",
        )


def published() -> dict[str, Pretrained]:
    return {each.name: each for each in (*torchvision_rows(), *timm_rows(), *keras_rows())}


PUBLISHED = published()


def test_every_published_row_is_in_the_table_and_no_other() -> None:
    assert list(PRETRAINED) == list(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_row_is_what_is_published(name: str) -> None:
    row, expected = PRETRAINED[name], PUBLISHED[name]
    published_elsewhere = {
        key: getattr(row, key) for key in ("mebibytes", "top_1") if getattr(expected, key) is None
    }
    assert row == expected._replace(**published_elsewhere)


def test_torchvisions_googlenet_maps_its_input_to_minus_1_to_1() -> None:
    """Its published weights imply `transform_input`, after ImageNet's usual normalisation."""
    row = PRETRAINED["torchvision/googlenet.IMAGENET1K_V1"]
    pixels = torch.arange(0, 256, dtype=torch.float32).reshape(1, 1, 16, 16).repeat(1, 3, 1, 1)
    transforms = get_model_weights("googlenet").DEFAULT.transforms()
    mean, std = (
        torch.tensor(each).reshape(1, 3, 1, 1) for each in (transforms.mean, transforms.std)
    )
    network = GoogLeNet(transform_input=True, init_weights=False)
    theirs = network._transform_input((pixels / 255 - mean) / std)
    ours = (pixels - row.mean[0]) / row.std[0]
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)


def test_imagenet_is_torchvisions_default() -> None:
    for theirs, ours in TORCHVISION.items():
        row = default_for(ours)
        assert row is not None
        assert row.name == f"torchvision/{theirs}.{get_model_weights(theirs).DEFAULT.name}"
