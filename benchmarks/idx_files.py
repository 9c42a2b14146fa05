"""Write data sets in the format of MNIST's files."""

from pathlib import Path

import numpy as np


def write_idx(folder: Path, split: str, images: np.ndarray, labels: np.ndarray) -> None:
    """Write the images and the labels of a split.

    Args:
        folder: the directory of the files.
        split: "train" or "t10k".
        images: [N, H, W], 0 to 255.
        labels: [N], 0 to 255.
    """
    for kind, values in (("images", images), ("labels", labels)):
        header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
        path = folder / f"{split}-{kind}-idx{values.ndim}-ubyte"
        path.write_bytes(header + values.astype(np.uint8).tobytes())
