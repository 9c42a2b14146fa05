"""The networks that `fit` can choose, and an estimate of the time of a training."""

from dataclasses import dataclass

from keras_cnns.registry import find

# Pixels; up to this input size, a network is chosen whose first layer keeps the resolution.
SMALL = 48
# The speed that is assumed before the first measurement, in multiply-adds per second and core.
_ASSUMED_SPEED = 50e9
# Factor by which bfloat16 is assumed to speed up the networks for ImageNet. The layers of the
# networks for CIFAR have few channels, and are hardly faster in bfloat16.
_FASTER_IN_BFLOAT16 = 2.4
# A training step costs as much as this number of forward passes; the backward pass costs about two.
_TRAINING_COST = 3
_STEM_STRIDE = 4  # the stride of the stem for ImageNet, which a small stem replaces


@dataclass(frozen=True)
class Budget:
    """The resources that a training may use."""

    seconds: float  # time of the training, including its evaluations
    cores: int
    memory: int  # available bytes
    bfloat16: bool = False  # whether the CPU has bfloat16 instructions, and they may be used


@dataclass(frozen=True)
class Network:
    """A network that `fit` can choose."""

    name: str
    min_epochs: int = 0
    """The network is chosen only if there is time for this number of epochs; with fewer epochs, a
    faster network is more accurate."""
    small_stem: bool = False

    def epochs(self, size: int, images: int, budget: Budget) -> float:
        """Return the number of epochs for which there is time on cores of typical speed.

        Args:
            size: the size of the input in pixels.
            images: the number of training images.
            budget: the resources of the training.
        """
        entry = find(self.name)
        is_wide = entry.row.image_size > SMALL
        speed = _ASSUMED_SPEED * (_FASTER_IN_BFLOAT16 if budget.bfloat16 and is_wide else 1)
        forward_passes = budget.seconds * budget.cores * speed / _TRAINING_COST
        cost = entry.cost.multiply_adds * self._relative_area(size)
        return max(0.0, forward_passes / cost / max(images, 1))

    def activation_bytes(self, size: int) -> float:
        """Return the estimated memory of an image's activations in a training step.

        Args:
            size: the size of the input in pixels.
        """
        return find(self.name).cost.activation_bytes * self._relative_area(size) * _TRAINING_COST

    def _relative_area(self, size: int) -> float:
        """Return the area of the layers' outputs, relative to the size of the published cost."""
        row = find(self.name).row
        replaced = self.small_stem and row.image_size > SMALL  # CIFAR's networks keep their stem
        return (size * (_STEM_STRIDE if replaced else 1) / row.image_size) ** 2


_LADDERS = {  # from the fastest network to the most accurate one
    "small": (
        Network("resnet20"),
        Network("resnet32", min_epochs=80),
        Network("resnet44", min_epochs=80),
        Network("resnet56", min_epochs=80),
        Network("resnet18", min_epochs=20, small_stem=True),
    ),
    "large": (Network("resnet18"), Network("resnet34", min_epochs=80)),
}


def networks_for(size: int) -> tuple[Network, ...]:
    """Return the networks for an input size in pixels, from the fastest to the most accurate."""
    return _LADDERS["small" if size <= SMALL else "large"]


def is_too_slow(name: str, size: int, epochs: int) -> bool:
    """Return whether a faster network of the family would suit this number of epochs better.

    Args:
        name: the name of the network in the registry.
        size: the size of the input in pixels, which determines the family.
        epochs: the number of epochs for which there is time, as measured.
    """
    return any(each.name == name and 2 * epochs < each.min_epochs for each in networks_for(size))
