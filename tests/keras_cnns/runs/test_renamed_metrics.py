"""Metrics of earlier versions are read under their current names."""

from keras_cnns.runs.renamed_metrics import current_name, rename_old_metrics


def test_a_metric_and_its_layers_have_the_current_name() -> None:
    assert current_name("activation_spread") == "activation_std"
    assert current_name("activation_spread/stem_relu") == "activation_std/stem_relu"
    for name in ("activation_std", "loss", "gradient_norm/activation_spread"):
        assert current_name(name) == name


def test_keys_are_renamed_in_nested_dicts_and_lists() -> None:
    row = {"epoch": 0, "activation_spread/conv": 0.5}
    state = {"rows": [row, {"loss": 1.0}], 3: ("activation_spread",), "text": "activation_spread"}
    renamed = {**state, "rows": [{"epoch": 0, "activation_std/conv": 0.5}, {"loss": 1.0}]}
    assert rename_old_metrics(state) == renamed
    assert row == {"epoch": 0, "activation_spread/conv": 0.5}
