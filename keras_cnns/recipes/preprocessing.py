"""The preprocessing of an image before the network sees it, as model.json describes it."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """From an upright image to the network's input, uint8 [H, W, C].

    Convert to `channels`, resize so that the shorter side is `resize_shorter` (keeping the aspect
    ratio), crop the centre.
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
