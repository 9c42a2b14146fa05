from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keras_cnns_export.formats import FORMATS


@pytest.mark.parametrize("batch", [1, 3, 64])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_reads_back_and_answers_any_batch(
    name: str, batch: int, version: Path, net: Any, split: Any
) -> None:
    images = split[0][:batch]
    given = FORMATS[name].load(version)(images)
    assert list(given) == ["probabilities"]
    assert given["probabilities"].dtype == np.float32
    expected = net.predict(images.astype("float32"), verbose=0)
    np.testing.assert_allclose(given["probabilities"], expected, rtol=0, atol=1e-5)


def test_every_file_of_a_version_is_of_one_format_or_of_the_contract(version: Path) -> None:
    patterns = [pattern for row in FORMATS.values() for pattern in row.files]
    known = [path for pattern in patterns for path in version.glob(pattern)]
    known += [version / "labels.txt", version / "model.json"]
    assert sorted(known) == sorted(path for path in version.rglob("*") if path.is_file())
