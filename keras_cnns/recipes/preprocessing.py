"""The preprocessing that turns an image into the network's input, as model.json describes it."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """The conversion of an upright image into the network's input, uint8 [H, W, C].

    The image is converted to `channels`, resized so that its shorter side is `resize_shorter` (with
    the same aspect ratio), and cropped to its centre.
    """

    resize_shorter: int  # pixels
    crop: int | tuple[int, int]  # pixels: the side of a square, or (height, width)
    interpolation: str = "bilinear"
    antialias: bool = True
    channels: int = 3  # 1: grey, 3: RGB

    @property
    def size(self) -> tuple[int, int]:
        """The height and width of the result in pixels."""
        return (self.crop, self.crop) if isinstance(self.crop, int) else self.crop

    def to_dict(self) -> dict[str, Any]:
        """Return the keys and values of model.json."""
        return dataclasses.asdict(self)
