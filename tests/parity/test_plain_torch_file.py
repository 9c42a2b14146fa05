"""What torch.save writes is read without torch as torch reads it."""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from keras_cnns.weights.readers.plain_torch_file import PlainTensor, read_plain


@pytest.mark.parametrize("as_zip", [True, False])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_state_dict_is_read_as_torch_reads_it(
    wrapped: bool, as_zip: bool, tmp_path: Path
) -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
    state = network.state_dict()
    state["0.bias"] = torch.nn.Parameter(state["0.bias"])
    state["half"], state["tied"] = torch.ones(2, 3).half(), state["1.weight"]
    assert isinstance(state, OrderedDict)
    assert state._metadata  # type: ignore[attr-defined] # it is in the file, as an attribute
    file = tmp_path / "net.pth"
    content = {"state_dict": state, "epoch": 3, "arch": "resnet18"} if wrapped else state
    torch.save(content, file, _use_new_zipfile_serialization=as_zip)
    found = read_plain(file)
    tensors = found.content["state_dict"] if wrapped else found.content
    assert list(tensors) == list(state)
    for name, tensor in tensors.items():
        assert isinstance(tensor, PlainTensor)
        np.testing.assert_array_equal(found.array(tensor), state[name].detach().numpy())
