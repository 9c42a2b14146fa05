"""The facts about an image file in a folder of images."""

from dataclasses import dataclass, field
from pathlib import Path

from keras_cnns.data.sources.by_content import content_fraction
from keras_cnns.data.sources.folder.appearance import Appearance
from keras_cnns.data.sources.folder.layout import FoundFile


@dataclass(frozen=True)
class ImageFile:
    """An image file in a class folder."""

    path: Path
    label: str
    split: str | None  # the split that its split folder names; None without split folders
    digest: str = ""  # the SHA-256 of its bytes; empty if they were not read
    # A key of EXTENSIONS, or of CONVERTIBLE for an image that must be converted; it is determined
    # from the content, and empty if it is unknown.
    format: str = ""
    size: tuple[int, int] = (0, 0)  # height and width of the upright image, in pixels
    orientation: int = 1  # the EXIF orientation, 1 to 8
    # Whether TensorFlow's operations reject the file, or decode it to other pixels than Pillow
    # does.
    needs_pillow: bool = False
    problem: str = ""  # why the file cannot be read; empty if it can be read
    appearance: Appearance | None = field(default=None, repr=False)  # None if it was not decoded
    # The smallest digest in the group of near-duplicates; empty for an image without
    # near-duplicates.
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
