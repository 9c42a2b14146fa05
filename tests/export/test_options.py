import dataclasses
import inspect
from typing import Any

import pytest

from keras_cnns_export import ExportOptions, Quantization, export, export_run


def test_changes_replace_options_and_leave_the_given_ones() -> None:
    options = ExportOptions(labels=["a", "b"], opset=15)
    changed = options.replace({"opset": 16, "quantization": Quantization(samples=3)})
    assert (changed.labels, changed.opset, changed.quantization.samples) == (["a", "b"], 16, 3)
    assert options == ExportOptions(labels=["a", "b"], opset=15)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lables", "export has no option 'lables'; did you mean 'labels'"),
        ("samples_for_training", "export has no option 'samples_for_training'"),
    ],
)
@pytest.mark.parametrize("function", [export, export_run])
def test_an_unknown_option_is_named_with_the_nearest(
    function: Any, name: str, message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        function("absent", "models/absent", **{name: 1})


@pytest.mark.parametrize("function", [export, export_run])
def test_help_shows_and_documents_every_option(function: Any) -> None:
    fields = {field.name: field.default for field in dataclasses.fields(ExportOptions)}
    _, to, options, *shown = inspect.signature(function).parameters.values()
    assert (to.name, options.name) == ("to", "options")
    assert {each.name: each.default for each in shown} == fields
    assert all(each.kind == inspect.Parameter.KEYWORD_ONLY for each in shown)
    documentation = inspect.getdoc(ExportOptions) or ""
    assert all(f"    {name}: " in documentation for name in fields)
