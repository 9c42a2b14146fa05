from pathlib import Path

import pytest

from keras_cnns_serve.errors import ConfigError
from keras_cnns_serve.repository.configuration import ModelConfig, ServerConfig, read_config
from keras_cnns_serve.repository.policy import All, Latest, Specific

TEXT = """
# As TensorFlow Serving's documentation writes it.
model_config_list {
  config {
    name: "half"
    base_path: "/models/half"
    model_platform: "tensorflow"
    model_version_policy { specific { versions: 42 versions: 43 } }
    version_labels { key: 'stable' value: 42 }
    version_labels { key: 'canary' value: 43 }
  }
  config: { name: "all" base_path: "here/all" model_version_policy { all {} } }
  config: { name: "plain" base_path: "file:///models/plain" logging_config { x: 1 } }
  config: { name: "two" base_path: "/t" model_version_policy { latest { num_versions: 2 } } }
}
"""
TOML = """
[models.half]
path = "/models/half"
versions = [42, 43]
labels = { stable = 42, canary = 43 }
[models.all]
path = "here/all"
versions = "all"
[models.plain]
path = "/models/plain"
[models.two]
path = "/t"
versions = "latest:2"
"""


@pytest.mark.parametrize(("name", "content"), [("m.config", TEXT), ("m.toml", TOML)])
def test_reads_both_forms(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert read_config(tmp_path / name) == ServerConfig(
        (
            ModelConfig(
                "half",
                Path("/models/half"),
                Specific(frozenset({42, 43})),
                {"stable": 42, "canary": 43},
            ),
            ModelConfig("all", tmp_path / "here" / "all", All()),
            ModelConfig("plain", Path("/models/plain"), Latest(1)),
            ModelConfig("two", Path("/t"), Latest(2)),
        )
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.config", "model_config_list { config { name: }", "Invalid protobuf file: '"),
        ("m.config", "", "m.config lists no model"),
        ("m.config", 'model_config_list { config { name: "x" } }', "no name or no base_path"),
        (
            "m.config",
            'model_config_list { config { name: "x" base_path: "/x" model_platform: "caffe" } }',
            "x: the model_platform must be 'tensorflow', not 'caffe'",
        ),
        (
            "m.config",
            'model_config_list { config { name: "x" base_path: "/x" '
            "model_version_policy { specific {} } } }",
            "x: the policy 'specific' lists no version",
        ),
        (
            "m.config",
            "model_config_list {" + 2 * ' config { name: "x" base_path: "/x" }' + "}",
            "the model 'x' is configured twice",
        ),
        ("m.toml", "[models", "m.toml is not TOML"),
        ("m.toml", "", "m.toml lists no model"),
        ("m.toml", "[model.x]", "has the unknown key 'model'; did you mean models?"),
        ("m.toml", "models = 3", "models must contain tables"),
        ("m.toml", "[models]\nx = 3", "models.x must be a table"),
        ("m.toml", "[models.x]", "models.x must have a path"),
        ("m.toml", "[models.x]\npaht = '/x'", "the unknown key 'paht'; did you mean path?"),
        ("m.toml", "[models.x]\npath = '/x'\nversions = []", "is not a choice of versions"),
        ("m.toml", "[models.x]\npath = '/x'\nversions = 'old'", "is not a choice of versions"),
        ("m.toml", "[models.x]\npath = '/x'\nlabels = {a = 'b'}", "labels must map labels to"),
        (
            "m.toml",
            "[models.x]\npath = 's3://b/x'",
            "begins with s3://, but only local",
        ),
        ("m.toml", '[models.x]\npath = "a\\u0000b"', "has a null character"),
        (
            "m.pbtxt",
            'model_config_list { config { name: "x" base_path: "gs://bucket/x" } }',
            "x: gs://bucket/x begins with gs://, but only local",
        ),
    ],
)
def test_says_what_is_wrong_where(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError) as refused:
        read_config(tmp_path / name)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.config", 'model_config_list { config { name: "x" base_path: "/x" } }\r\n'),
        ("m.toml", "[models.x]\r\npath = '/x'\r\n"),
    ],
)
def test_a_byte_order_mark_is_read_and_utf_16_refused(
    tmp_path: Path, name: str, content: str
) -> None:
    (tmp_path / name).write_text(content, "utf-8-sig")
    assert [model.name for model in read_config(tmp_path / name).models] == ["x"]
    (tmp_path / name).write_text(content, "utf-16")
    with pytest.raises(ConfigError, match=f"{name} cannot be read: it is in UTF-16; save it as"):
        read_config(tmp_path / name)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="absent cannot be read: No such file"):
        read_config(tmp_path / "absent")
