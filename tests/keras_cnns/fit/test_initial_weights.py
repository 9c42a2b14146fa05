"""Which weights a guided training starts from."""

import pytest

from keras_cnns.fit.initial_weights import find_initial_weights


def test_published_names_bring_their_network_and_normalisation() -> None:
    assert find_initial_weights("") is None
    found = find_initial_weights("torchvision/resnet50.IMAGENET1K_V2")
    assert found is not None
    assert (found.model, len(found.mean), len(found.std)) == ("resnet50", 3, 3)
    with pytest.raises(ValueError, match="imagenet"):
        find_initial_weights("imagenet")


def test_a_published_file_is_recognised_by_its_name() -> None:
    found = find_initial_weights("downloads/googlenet-1378be20.pth")
    assert found is not None
    assert (found.model, found.mean) == ("googlenet_tv", (127.5,) * 3)
    with pytest.raises(ValueError, match=r"give the name of these weights instead, keras/resnet50"):
        find_initial_weights("resnet50_weights_tf_dim_ordering_tf_kernels.h5")
