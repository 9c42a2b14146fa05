"""The recipe of a plan: its reasons, its command, and errors before anything is read."""

import tomllib
from pathlib import Path

import pytest

from keras_cnns.fit.plan import Plan, Request, check_plan, make_plan, recipe_path, write_plan

LINE = "#     keras-cnns fit "


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epoch=3", "unknown key training.epoch"),
        ("data.image_size=large", "data.image_size is 'large'"),
        ("model.name=resnet21", "resnet20"),
        ("epochs=3", "does not have the form section.key=value"),
        ("data.channels=2", "data.channels is 2"),
    ],
)
def test_wrong_overrides_are_reported_before_the_folder_is_read(
    override: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_plan(Request(Path("no/such/folder"), 15, overrides=(override,)))


def test_a_plan_is_kept_for_the_same_request_only(tmp_path: Path) -> None:
    request = Request(tmp_path / "my photos", 15)
    run = tmp_path / "runs/photos"
    write_plan(Plan(f"{LINE}{request.arguments()}\n", "file,reason\n"), run)
    assert recipe_path(run) == tmp_path / "runs/photos.toml"
    assert tomllib.loads(recipe_path(run).read_text("utf-8")) == {}
    check_plan(run, request)
    for other in (
        Request(tmp_path / "my photos", 20),
        Request(tmp_path / "others", 15),
        Request(tmp_path / "my photos", 15, overrides=("training.seed=1",)),
        Request(tmp_path / "my photos", 15, weights="resnet50.safetensors"),
    ):
        with pytest.raises(ValueError, match="Give the same arguments to go on"):
            check_plan(run, other)


def test_a_recipe_of_somebody_else_is_not_touched(tmp_path: Path) -> None:
    recipe_path(tmp_path / "photos").write_text("[model]\n")
    with pytest.raises(ValueError, match="did not write it"):
        check_plan(tmp_path / "photos", Request(tmp_path, 15))
