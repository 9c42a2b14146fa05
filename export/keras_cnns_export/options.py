"""The options of an export."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from keras_cnns.suggestions import did_you_mean
from keras_cnns_export.contract import Metrics

_F = TypeVar("_F", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True)
class Quantization:
    """The options that determine how int8 formats choose the ranges of the activations."""

    samples: int = 256  # number of training images on which the ranges are measured, at least 1
    method: str = "minmax"  # or "percentile"; onnx_int8 also has "entropy"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """The options of `export` and `export_run`.

    Attributes:
        labels: the names of the K classes in the order of the probabilities; by default "0", "1"
            and so on.
        preprocessing: a dict that describes how an encoded image becomes the model's input. Its
            keys are those of model.json ("resize_shorter", "crop", "interpolation", "antialias",
            "channels"). By default, the shorter side is resized to the model's size, and the centre
            is cropped.
        formats: names from `formats.FORMATS`.
        outputs: names from `network.OUTPUTS`; `probabilities` is always exported.
        samples: the images on which the formats are compared, as a tuple (name of the split,
            images). The second item is an array, uint8 [N, H, W, C], or a tuple (array, true
            classes), or an iterable of such tuples, which is read once. By default, the formats are
            compared on 256 generated images, and model.json has no accuracy.
        training_samples: the images on which int8 formats measure the ranges of activations: an
            array, a tuple or an iterable, like the second item of `samples`. By default, they are
            the images of `samples`.
        preprocess_input: the mode of `preprocess_input`, "caffe", "tf" or "torch", for a model of
            keras.applications that takes preprocessed pixels. The exported graph then includes the
            preprocessing, and takes raw pixels.
        calibrate: fit a temperature on `samples`, which must have true classes, and fold it into
            the graph.
        report: write report.html into the version.
        golden: write golden.npy into the version: up to 8 of the images on which the formats are
            compared, with the probabilities of Keras. A server checks the loaded version with them.
        kserve: write a KServe InferenceService manifest beside the versions.
        storage_uri: the URI of the model's directory in the manifest; by default
            `pvc://models/NAME`.
        trust: run Python code that a .keras file contains. Set it only for a file of your own.
        architecture: the network's name in model.json; by default the Keras model's name.
        metrics: the model's accuracy in model.json; by default its accuracy on `samples`.
        opset: the version of ONNX's operator set, from 13 to 18.
        quantization: how int8 formats choose the ranges of activations.
    """

    labels: Sequence[str] | None = None
    preprocessing: Mapping[str, Any] | None = None
    formats: Sequence[str] = ("saved_model", "onnx")
    outputs: Sequence[str] = ("probabilities",)
    samples: tuple[str, Any] | None = None
    training_samples: Any = None
    preprocess_input: str | None = None
    calibrate: bool = False
    report: bool = False
    golden: bool = True
    kserve: bool = False
    storage_uri: str | None = None
    trust: bool = False
    architecture: str | None = None
    metrics: Metrics | None = None
    opset: int = 17
    quantization: Quantization = Quantization()

    def replace(self, changes: Mapping[str, Any]) -> "ExportOptions":
        """Return the options with changed fields.

        Raises:
            TypeError: there is no such option; the message suggests the option with the nearest
                name.
        """
        known = [field.name for field in dataclasses.fields(self)]
        for name in changes:
            if name not in known:
                raise TypeError(f"export has no option {name!r}{did_you_mean(name, known)}")
        return dataclasses.replace(self, **changes)


def takes_options(function: _F) -> _F:
    """Make `help(function)` show the fields of `ExportOptions` instead of `**changes`."""
    signature = inspect.signature(function)
    fixed = list(signature.parameters.values())[:-1]
    options = inspect.signature(ExportOptions).parameters.values()
    function.__signature__ = signature.replace(parameters=[*fixed, *options])  # type: ignore[attr-defined]
    return function
