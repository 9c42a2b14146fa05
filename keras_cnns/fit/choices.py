"""Choose a recipe for photos; the reason for each choice states the number it is based on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from keras_cnns.data.class_balance import RARE_FRACTION, rare_classes
from keras_cnns.durations import format_seconds
from keras_cnns.fit.measurement import Measurement
from keras_cnns.fit.networks import SMALL, Budget, Network, networks_for
from keras_cnns.fit.photos import SIZES, Photos
from keras_cnns.recipes import Recipe, parse_recipe
from keras_cnns.weights.pretrained import PRETRAINED, Pretrained

# Maximum fraction of a photo's variance that may be lost by resizing it to the size of the input.
# Photographs that are reduced to 224 pixels lose about as much.
_MAX_LOST_DETAIL = 0.02
# Numbers of epochs. With fewer than `_MIN_EPOCHS` the network is trained too little, so a smaller
# input is better. More than `_MAX_EPOCHS` would overfit.
_MIN_EPOCHS, _MAX_EPOCHS = 15, 150
_FINE_TUNING_EPOCHS = (4, 12)  # the minimum and the maximum for pretrained weights
# Pixels; inputs that are smaller show too little, and are not chosen even if time is short.
_FLOOR, _FINE_TUNING_FLOOR = 64, 96
# Published weights for photos, from the most accurate network to the fastest one.
_PUBLISHED = ("torchvision/resnet50.IMAGENET1K_V2", "torchvision/resnet18.IMAGENET1K_V1")
# Key of a recipe -> whether a given value lets a training start from `_PUBLISHED`. All other keys
# of the section `model` change the network, and exclude published weights.
_FITS_PUBLISHED: dict[str, Callable[[Any], bool]] = {
    "model.name": lambda name: name in {PRETRAINED[each].model for each in _PUBLISHED},
    "model.frozen_epochs": lambda _: True,
    "model.unfreeze_epochs": lambda _: True,
    "data.image_size": lambda size: bool(size >= _FINE_TUNING_FLOOR),
    "data.channels": lambda channels: channels == 3,
    "data.mean": lambda _: False,
    "data.std": lambda _: False,
}
_MEMORY_FRACTION = 0.5  # fraction of the available memory that the activations of a batch may take
_EPOCH_OVERHEAD = 1.0  # seconds for diagnostics, checkpoint and history
# If at least this fraction of the photos has no colour, the network gets one channel.
_GREY_FRACTION = 0.99
# bfloat16 is used if a step in float32 takes at least this many times as long.
_MIN_SPEEDUP = 1.1


@dataclass
class Choices:
    """The chosen values, `section.key` -> value, and the reason for each.

    Attributes:
        given: `section.key` -> the user's value, which replaces the choice.
    """

    given: Mapping[str, Any] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def choose(self, key: str, value: Any, reason: str = "") -> Any:
        """Record a value, or the user's value if there is one; return the recorded value."""
        if key in self.given:
            value, reason = self.given[key], "This value was given with --set."
        self.values[key], self.reasons[key] = value, reason
        return value

    def recipe(self) -> Recipe:
        """Return the recipe with the values so far.

        Raises:
            RecipeError: a key is unknown or missing, or a value has a wrong type or range.
        """
        sections: dict[str, dict[str, Any]] = {}
        for path, value in {**self.values, **self.given}.items():
            section, _, key = path.partition(".")
            sections.setdefault(section, {})[key] = value
        return parse_recipe(sections)


def published_weights(
    photos: Photos, budget: Budget, given: Mapping[str, Any]
) -> tuple[list[Pretrained], str]:
    """Choose the published weights from which a training may start.

    ResNet-50 is among them if there is time for the maximum number of epochs at the largest size of
    the input, and ResNet-18 if there is time for the minimum number at the smallest size.

    Args:
        photos: the facts about the folder.
        budget: the resources of the training.
        given: `section.key` -> the user's value.

    Returns:
        The weights, the best ones first, or none if training from scratch suits the photos or the
        time better; and the reason, a sentence, which is empty if there was no alternative.
    """
    for key, value in given.items():
        if not _fits_published(key, value):
            return [], f"Published weights do not fit {key} = {value}, which was given with --set."
    sizes = _sizes(photos)
    detailed = next((size for size in sizes if _shows_enough(photos, size)), sizes[-1])
    if detailed < _FINE_TUNING_FLOOR and "data.image_size" not in given:
        return [], (
            f"An input of {detailed} pixels suits the photos; a larger one would enlarge them or "
            "show no more detail. The networks of published weights divide the size of their input "
            f"by 32, so that they need at least {_FINE_TUNING_FLOOR} pixels."
        )
    images = photos.splits["train"]
    smallest = given.get("data.image_size", _FINE_TUNING_FLOOR)
    largest = given.get("data.image_size", sizes[-1])
    rows = [PRETRAINED[name] for name in _PUBLISHED]
    *deeper, fastest = (row for row in rows if row.model == given.get("model.name", row.model))
    minimum, maximum = _FINE_TUNING_EPOCHS
    epochs = Network(fastest.model).epochs(smallest, images, budget)
    if epochs < minimum:
        return [], (
            f"The time was estimated to suffice for about {epochs:.1f} epochs of {fastest.model} "
            f"with {smallest} x {smallest} pixels, and fine-tuning needs at least {minimum}."
        )
    expected = {row: Network(row.model).epochs(largest, images, budget) for row in deeper}
    reasons = (
        f"The time was estimated to suffice for about {epochs:.0f} epochs of {row.model} with "
        f"{largest} x {largest} pixels; {fastest.model} is preferred if they are fewer than "
        f"{maximum}."
        for row, epochs in expected.items()
    )
    suitable = [row for row, epochs in expected.items() if epochs >= maximum]
    return [*suitable, fastest], " ".join(reasons)


def choose_input(
    choices: Choices,
    photos: Photos,
    budget: Budget,
    *,
    weights_model: str,
    largest: int = SIZES[-1],
    fastest: bool = False,
) -> None:
    """Choose the channels, the size of the input, and the network.

    Args:
        choices: receives the choices.
        photos: the facts about the folder.
        budget: the resources of the training.
        weights_model: the network of the given weights; "" to train from scratch.
        largest: the maximum size of the input in pixels.
        fastest: whether to choose the fastest network of the family.
    """
    if weights_model:
        choices.choose("data.channels", 3, "The given weights belong to a network for RGB.")
    else:
        grey = f"{photos.grey:.1%} of {len(photos.sample)} measured training images have no colour"
        channels = 1 if photos.grey >= _GREY_FRACTION else 3
        choices.choose("data.channels", channels, f"{grey}.")
    size, reason = _choose_size(photos, budget, weights_model, largest)
    size = choices.choose("data.image_size", size, reason)
    choices.choose(
        "data.resize_shorter", size, "The whole shorter side is visible: nothing of it is cropped."
    )
    if weights_model:
        choices.choose("model.name", weights_model, "The weights belong to this network.")
        return
    images = photos.splits["train"]
    small_stem = choices.given.get("model.small_stem", True)
    family = [each for each in networks_for(size) if small_stem or not each.small_stem]
    network, *larger = family
    for each in larger:
        if not fastest and each.epochs(size, images, budget) >= each.min_epochs:
            network = each
    minima = [f"{each.min_epochs} epochs of {each.name}" for each in larger]
    listed = " or ".join(filter(None, (", ".join(minima[:-1]), minima[-1])))
    reason = (
        "This is the fastest network of its family. A larger one was measured, and was too slow."
        if fastest
        else "Before the measurement, the time was estimated to suffice for about "
        f"{network.epochs(size, images, budget):.0f} epochs of {images} images. The last of the "
        "following networks for which there is time is chosen instead of "
        f"{family[0].name}: {listed}."
    )
    name = choices.choose("model.name", network.name, reason)
    if any(each.small_stem for each in family if each.name == name):
        choices.choose(
            "model.small_stem",
            True,
            f"The stem for ImageNet would reduce {size} x {size} pixels too much.",
        )


def choose_training(choices: Choices, photos: Photos, budget: Budget, *, pretrained: bool) -> None:
    """Choose the augmentation, the optimizer and the batches, after `choose_input`."""
    train, size = photos.splits["train"], choices.values["data.image_size"]
    choices.choose(
        "augmentation.horizontal_flip",
        True,
        "Photos may be mirrored. If they show text, use --set augmentation.horizontal_flip=false.",
    )
    choices.choose(
        "augmentation.pad_and_crop", max(1, size // 8), "An eighth of the image size, as for CIFAR."
    )
    choices.choose(
        "augmentation.label_smoothing", 0.1, "Label smoothing limits the influence of wrong labels."
    )
    _choose_class_balance(choices, photos)
    wanted = 32 if train < 2_000 or pretrained else 64 if train < 20_000 else 128
    fitting = _batch_that_fits(choices, wanted, budget)
    cap = f" Memory limits the batch size to {fitting}." if fitting < wanted else ""
    batch = choices.choose(
        "training.batch_size",
        fitting,
        f"With {train} training images, batches of {wanted} leave enough steps per epoch.{cap}",
    )
    learning_rate = 0.01 * batch / 32 if pretrained else 0.1 * batch / 128
    # `choose_learning_rate` adds the reason.
    choices.choose("optimizer.learning_rate", float(f"{learning_rate:.2g}"))
    choices.choose("optimizer.momentum", 0.9)
    choices.choose("optimizer.weight_decay", 1e-4 if pretrained else 5e-4)
    choices.choose("optimizer.schedule", "cosine")
    choices.choose("optimizer.warmup_epochs", 0.5 if pretrained else 1.0)
    choices.choose("training.epochs", 1)  # `choose_epochs` replaces it


def _choose_class_balance(choices: Choices, photos: Photos) -> None:
    """Choose balanced sampling if there are rare classes, as `data check` defines them."""
    rare = rare_classes(photos.classes)
    if not rare or "class_balance.weights" in choices.given:
        return
    fewest, most = (
        choose(photos.classes, key=lambda c: photos.classes[c]) for choose in (min, max)
    )
    smallest, largest = photos.classes[fewest], photos.classes[most]
    choices.choose(
        "class_balance.balanced_sampling",
        True,
        f"The classes are imbalanced: {largest} images of {most} are {largest / smallest:.1f} "
        f"times as many as the {smallest} of {fewest}; {len(rare)} of {len(photos.classes)} "
        f"classes have fewer than {RARE_FRACTION:.0%} of the images of the largest class.",
    )


def epochs_in(budget: Budget, measured: Measurement) -> int:
    """Return the number of epochs for which there is time."""
    return max(0, int(budget.seconds / _epoch_seconds(measured)))


def choose_precision(choices: Choices, float32: Measurement, bfloat16: Measurement) -> Measurement:
    """Choose the faster precision of the convolutions.

    Args:
        choices: receives the choice.
        float32: the measurement of the recipe in float32, with the learning-rate finder.
        bfloat16: the measurement of the recipe in bfloat16.

    Returns:
        The measurement in float32, with the times of the chosen precision.
    """
    reason = (
        f"A step took {bfloat16.step_seconds * 1e3:.0f} ms in bfloat16 and "
        f"{float32.step_seconds * 1e3:.0f} ms in float32, as measured once."
    )
    is_faster = bfloat16.step_seconds * _MIN_SPEEDUP <= float32.step_seconds
    choices.choose("training.precision", "bfloat16" if is_faster else "float32", reason)
    if not is_faster:
        return float32
    return replace(
        float32,
        step_seconds=bfloat16.step_seconds,
        validation_seconds=bfloat16.validation_seconds,
    )


def min_epochs(*, pretrained: bool) -> int:
    """Return the minimum number of epochs; with fewer epochs, a smaller input is better."""
    return _FINE_TUNING_EPOCHS[0] if pretrained else _MIN_EPOCHS


def smaller_sizes(size: int, *, pretrained: bool) -> list[int]:
    """Return the smaller input sizes that may be used if time is short, in ascending order."""
    floor = _FINE_TUNING_FLOOR if pretrained else _FLOOR
    return [each for each in SIZES if floor <= each < size]


def choose_epochs(
    choices: Choices, budget: Budget, measured: Measurement, *, pretrained: bool
) -> None:
    """Choose the number of epochs from the measured times."""
    maximum = _FINE_TUNING_EPOCHS[1] if pretrained else _MAX_EPOCHS
    allowed = epochs_in(budget, measured)
    epochs = choices.choose(
        "training.epochs",
        min(max(1, allowed), maximum),
        f"{measured.steps_per_epoch} steps of {measured.step_seconds * 1e3:.0f} ms, "
        f"{measured.validation_seconds:.1f} s of validation and {_EPOCH_OVERHEAD:g} s for "
        f"diagnostics and checkpoints are {_epoch_seconds(measured):.1f} s per epoch, as measured "
        f"once; {format_seconds(max(budget.seconds, 0))} are left for training, which is time for "
        f"{allowed} epochs" + (f"; at most {maximum} are used." if allowed > maximum else "."),
    )
    if choices.values["optimizer.warmup_epochs"] > epochs / 4:
        choices.choose("optimizer.warmup_epochs", round(epochs / 8, 2))
    if pretrained:
        frozen = min(2, epochs // 3)
        choices.choose("model.frozen_epochs", frozen, "First, only the new classifier is trained.")


def choose_learning_rate(choices: Choices, measured: Measurement) -> None:
    """Keep the learning rate that `choose_training` has chosen, unless the finder contradicts it.

    The finder contradicts a learning rate that is higher than the one with the lowest loss, since
    training may diverge there. A third of the learning rate with the lowest loss is chosen instead.
    """
    learning_rate = choices.values["optimizer.learning_rate"]
    lowest = measured.lowest_loss_learning_rate
    origin = f"The usual learning rate for this batch size is {learning_rate:g}"
    if not measured.finder_steps:
        reason = f"{origin}; there was no time for the learning-rate finder."
    elif lowest is None:
        reason = f"{origin}; the loss did not fall in {measured.finder_steps} steps of the finder."
    elif learning_rate <= lowest:
        reason = (
            f"{origin}. The learning-rate finder agrees: in {measured.finder_steps} steps, the "
            f"loss was lowest at the learning rate {lowest:.2g}, which is at least as high."
        )
    else:
        learning_rate = float(f"{lowest / 3:.1e}")
        reason = (
            f"{origin}. But in {measured.finder_steps} steps of the learning-rate finder, the loss "
            f"was lowest at a lower learning rate, {lowest:.2g}; a third of that is used."
        )
    choices.choose("optimizer.learning_rate", learning_rate, reason)


def _choose_size(
    photos: Photos, budget: Budget, weights_model: str, largest: int
) -> tuple[int, str]:
    """Return the size of the network's input in pixels, and the reason for it."""
    median, high = photos.quantile(0.5), photos.quantile(0.9)
    sides = (
        f"The shorter sides have {photos.sides[0]} to {photos.sides[-1]} pixels, median {median}"
    )
    if not weights_model and high <= SMALL:
        size = max(8, -(-high // 4) * 4)
        return size, f"{sides}: small images keep their size."
    sizes = [size for size in _sizes(photos) if size <= largest]
    minimum = min_epochs(pretrained=bool(weights_model))
    enough = [size for size in sizes if _shows_enough(photos, size) and not weights_model]
    if enough:
        sizes = [size for size in sizes if size <= enough[0]]
    floor = _FINE_TUNING_FLOOR if weights_model else _FLOOR
    network = Network(weights_model) if weights_model else networks_for(floor)[0]
    affordable = [
        size
        for size in sizes
        if size <= floor or network.epochs(size, photos.splits["train"], budget) >= minimum
    ]
    size = affordable[-1]
    lost = f"a copy reduced to {size} pixels loses {photos.lost_detail[size]:.1%} of the detail"
    if size in enough:
        return size, f"{sides}; {lost}, and at most {_MAX_LOST_DETAIL:.0%} are accepted."
    return size, (
        f"{sides}; {lost}. It is the largest size with time for about {minimum} epochs, or, if "
        "there is none, the smallest that shows enough."
    )


def _fits_published(key: str, value: Any) -> bool:
    fits = _FITS_PUBLISHED.get(key)
    return fits(value) if fits else not key.startswith("model.")


def _sizes(photos: Photos) -> list[int]:
    """Return the sizes of the input, ascending, that do not only enlarge nearly all photos."""
    high = photos.quantile(0.9)
    return [size for size in SIZES if size <= high or size == SIZES[0]]


def _shows_enough(photos: Photos, size: int) -> bool:
    return photos.lost_detail[size] <= _MAX_LOST_DETAIL


def _batch_that_fits(choices: Choices, batch: int, budget: Budget) -> int:
    """Halve a batch size until the activations of a training step fit in memory."""
    network = Network(
        choices.values["model.name"],
        small_stem={**choices.values, **choices.given}.get("model.small_stem", False),
    )
    per_image = network.activation_bytes(choices.values["data.image_size"])
    while batch > 1 and batch * per_image > _MEMORY_FRACTION * budget.memory:
        batch //= 2
    return batch


def _epoch_seconds(measured: Measurement) -> float:
    return (
        measured.steps_per_epoch * measured.step_seconds
        + measured.validation_seconds
        + _EPOCH_OVERHEAD
    )
