"""A training that is killed with SIGKILL, its data shuffled, augmented and mixed."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from keras_cnns.recipes import AugmentationConfig, ClassBalanceConfig, Recipe, format_recipe
from keras_cnns.training import open_run, train


@pytest.mark.soak
@pytest.mark.parametrize(
    "class_balance",
    [
        ClassBalanceConfig(),
        ClassBalanceConfig(balanced_sampling=True),
        ClassBalanceConfig(weights="effective_number", focal_gamma=2.0),
    ],
)
def test_killed_it_ends_with_the_weights_of_one_never_stopped(
    class_balance: ClassBalanceConfig, quick_recipe: Recipe, tmp_path: Path
) -> None:
    augmentation = AugmentationConfig(
        pad_and_crop=1, horizontal_flip=True, color_jitter=0.4, random_erasing=0.5, mixup_alpha=0.2
    )
    recipe = replace(
        quick_recipe,
        augmentation=augmentation,
        class_balance=class_balance,
        training=replace(quick_recipe.training, batch_size=16),
    )
    (tmp_path / "recipe.toml").write_text(format_recipe(recipe))
    run = tmp_path / "killed"
    arguments = ["train", "--recipe", str(tmp_path / "recipe.toml"), "--run", str(run)]
    command = [sys.executable, "-m", "keras_cnns.cli", *arguments, "--checkpoint-steps", "1"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while not (run / "checkpoints" / "step-00000008.checkpoint").exists():  # of 12
            assert process.poll() is None
            time.sleep(0.001)
        process.kill()
    assert process.returncode == -9
    assert not (run / "results.json").exists()
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"{run}: resuming at step" in again.stderr

    unbroken = train(recipe, tmp_path / "unbroken")
    assert open_run(run).history() == unbroken.history()
    models = [each.load_model() for each in (open_run(run), unbroken)]
    for one, other in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(one, other)
