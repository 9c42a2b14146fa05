import pytest

from keras_cnns.suggestions import did_you_mean


@pytest.mark.parametrize(
    ("name", "hint"),
    [("resnet5", "; did you mean 'resnet50'?"), ("vgg", ""), ("", "")],
)
def test_the_most_similar_name_is_suggested(name: str, hint: str) -> None:
    assert did_you_mean(name, ["googlenet", "resnet50"]) == hint
