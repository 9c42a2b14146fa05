"""The fields that all tables of models have: the data set and the published numbers."""

from dataclasses import dataclass, field

from keras_cnns.models.cost import Cost


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model of a family's table.

    Two rows are equal if their networks are equal, even if their published numbers differ.

    Attributes:
        image_size: the height and width of the paper's images, in pixels.
        classes: the number of classes of the paper's data set.
        min_size: the minimum height and width in pixels; for a smaller image, a feature map would
            be empty.
        paper: authors, year and arXiv number.
        top_1: the published top-1 accuracy in per cent, and its source. The data set is CIFAR-10
            for models of 32x32 images, and ImageNet for all others. On ImageNet, the accuracy is
            measured on one central crop of 224x224 pixels, unless the source says otherwise.
        cost: the cost at the paper's image size and number of classes. If None, the model is built
            when its cost is needed, which takes seconds.
        function: the name of the function that builds the model, such as `ResNeXt50`; if None,
            `function_name` derives it from the name of the model.
    """

    image_size: int = 224
    classes: int = 1000
    min_size: int = 32
    paper: str = field(default="", compare=False)
    top_1: str | None = field(default=None, compare=False)
    cost: Cost | None = field(default=None, compare=False)
    function: str | None = field(default=None, compare=False)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the paper's images."""
        return (self.image_size, self.image_size, 3)


def function_name(name: str, row: Row) -> str:
    """Return the name of the function that builds a model: `resnet50_v2` -> `ResNet50V2`."""
    first, *rest = name.replace("resnet", "ResNet").split("_")
    return row.function or first[0].upper() + first[1:] + "".join(map(str.capitalize, rest))
