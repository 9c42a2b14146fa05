"""The model card of a run and its export has each format's comparison with Keras."""

import json
from pathlib import Path

from typer.testing import CliRunner

from keras_cnns.card.escaping import escape_markdown
from keras_cnns.cli import app


def test_the_card_has_the_exported_formats(
    run_directory: Path, model_repository: Path, tmp_path: Path
) -> None:
    model, to = model_repository / "quick", tmp_path / "README.md"
    arguments = ["card", str(run_directory), "--model", str(model), "--to", str(to)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    text = to.read_text("utf-8")
    parity = json.loads((model / "1/model.json").read_text("utf-8"))["parity"]
    assert f"compared with Keras in float32 on {parity['samples']} images" in text
    assert parity["formats"]
    for name, row in parity["formats"].items():
        difference = f"{row['largest_difference']:.2g}"
        agreement = f"{row['top_1_agreement']:.2%}"
        assert f"| {escape_markdown(name)} | {difference} | {agreement} | " in text
    assert "/v1/models/quick:classify-image" in text
    assert str(model_repository.parent) not in text
