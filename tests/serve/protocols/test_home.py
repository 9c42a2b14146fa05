from tests.serve.conftest import Client


def test_what_runs_each_model(client: Client) -> None:
    home = client.get("/").json()
    engines = {model["name"]: model["engine"] for model in home["models"]}
    engine = engines["grey"]
    assert list(engine) == ["file", "engine", "precision", "threads", "side_by_side", "reason"]
    assert (engine["file"], engine["engine"]) == ("model.onnx", "onnxruntime")
    assert (engine["precision"], engine["threads"]) == ("float32", 1)
    assert engine["reason"].startswith("the only format; ")
