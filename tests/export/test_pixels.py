import numpy as np
import pytest
import tensorflow as tf

from keras_cnns_export.batches import Array
from keras_cnns_export.contract import Preprocessing
from keras_cnns_export.image_bytes import decode_batch
from keras_cnns_export.pixels import KINDS, compare_pixels, generated_images, read_by_pillow


@pytest.mark.parametrize(
    "steps",
    [
        Preprocessing(resize_shorter=64, crop=56, channels=3),
        Preprocessing(resize_shorter=37, crop=(37, 20), channels=1),
        Preprocessing(resize_shorter=256, crop=224, channels=3),
    ],
    ids=str,
)
def test_tensorflow_and_pillow_agree_to_one_level(steps: Preprocessing) -> None:
    signature = [tf.TensorSpec((None,), tf.string)]
    decode = tf.function(lambda contents: decode_batch(contents, steps), input_signature=signature)
    comparison = compare_pixels(lambda contents: decode(contents).numpy(), steps)
    assert comparison.figures.images == 200
    assert comparison.figures.within_one_level >= 0.999
    assert set(comparison.within_one_level) == set(KINDS)
    assert min(comparison.within_one_level.values()) >= 0.999
    assert sum(comparison.levels) == 200 * np.prod(steps.size) * steps.channels


def test_the_images_are_odd_and_of_every_kind() -> None:
    import io

    from PIL import Image

    encoded = list(generated_images(60))
    assert {kind for kind, _ in encoded} == set(KINDS)
    sizes = {Image.open(io.BytesIO(content)).size for _, content in encoded}
    assert len(sizes) > 50
    assert all(side % 2 for size in sizes for side in size)


def test_a_reading_that_is_off_is_seen() -> None:
    steps = Preprocessing(resize_shorter=32, crop=32, channels=3)

    changed = list(generated_images(20))[3][1]

    def brighter(contents: list[bytes]) -> Array:
        pixels = [read_by_pillow(content, steps).astype(int) for content in contents]
        added = [5 * (content == changed) for content in contents]
        lighter = [np.minimum(each + more, 255) for each, more in zip(pixels, added, strict=True)]
        return np.stack(lighter).astype(np.uint8)

    comparison = compare_pixels(brighter, steps, images=20)
    assert comparison.figures.within_one_level < 0.96
    assert comparison.figures.largest_difference == 5
    assert comparison.worst[0] == list(KINDS)[3]
    assert comparison.within_one_level["JPEG"] == 1
