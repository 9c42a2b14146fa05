"""The facts about an image file in a folder of images."""

from dataclasses import dataclass, field
from pathlib import Path

from keras_cnns.data.sources.by_content import content_fraction
from keras_cnns.data.sources.folder.appearance import Appearance
from keras_cnns.data.sources.folder.layout import FoundFile


@dataclass(frozen=True)
class ImageFile:
    """An image file in a class folder.

    Attributes:
        path: the path of the file.
        label: the name of its class.
        split: the split that its split folder names; None without split folders.
        digest: the SHA-256 of the file; empty if the file was not read.
        format: a key of EXTENSIONS, or a key of CONVERTIBLE if the image must be converted; empty
            if the format is unknown. It is determined from the content.
        size: height and width of the upright image, in pixels.
        orientation: the EXIF orientation, 1 to 8.
        needs_pillow: whether TensorFlow's operations reject the file, or decode it to other pixels
            than Pillow does.
        problem: why the file cannot be read; empty if it can be read.
        appearance: the measurements of the image; None if the image was not decoded.
        near: the smallest digest in the group of near-duplicates; empty for an image without
            near-duplicates.
    """

    path: Path
    label: str
    split: str | None
    digest: str = ""
    format: str = ""
    size: tuple[int, int] = (0, 0)
    orientation: int = 1
    needs_pillow: bool = False
    problem: str = ""
    appearance: Appearance | None = field(default=None, repr=False)
    near: str = ""

    @property
    def content(self) -> str:
        """The digest that determines the split, which is equal for copies and near-duplicates."""
        return self.near or self.digest

    @property
    def fraction(self) -> float:
        """A number in [0, 1) that depends on the content alone."""
        return content_fraction(self.content)

    @property
    def found(self) -> FoundFile:
        """The entry of this file in a `Layout`."""
        return FoundFile(self.path, self.label, self.split)
