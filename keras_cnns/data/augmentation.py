"""Random changes of training images that leave their labels true."""

import tensorflow as tf

from keras_cnns.recipes import DataConfig


def augment(pairs: tf.data.Dataset, config: DataConfig, seed: int) -> tf.data.Dataset:
    """Pad-and-crop and flip (image [H, W, C], label) as configured, anew each epoch."""
    if not (config.pad_and_crop or config.horizontal_flip):
        return pairs

    def change(pair: tuple[tf.Tensor, tf.Tensor], key: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image, label = pair
        keys = tf.random.split(tf.stack([key, tf.constant(seed, tf.int64)]), 2)
        if config.pad_and_crop:
            image = pad_and_crop(image, config.pad_and_crop, keys[0])
        if config.horizontal_flip:
            image = tf.image.stateless_random_flip_left_right(image, keys[1])
        return image, label

    keys = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True)
    return tf.data.Dataset.zip(pairs, keys).map(change, num_parallel_calls=tf.data.AUTOTUNE)


def pad_and_crop(image: tf.Tensor, padding: int, key: tf.Tensor) -> tf.Tensor:
    """Pad with zeros and crop at random (He et al. 2015, section 4.2): [H, W, C] -> [H, W, C].

    Args:
        image: pixels.
        padding: pixels on each side.
        key: two integers; the same key crops the same way.
    """
    padded = tf.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    return tf.image.stateless_random_crop(padded, image.shape, key)
