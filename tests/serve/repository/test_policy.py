import pytest

from keras_cnns_serve.repository.policy import All, Latest, Specific, VersionPolicy, parse_policy


@pytest.mark.parametrize(
    ("text", "policy", "chosen"),
    [
        ("latest", Latest(1), {12}),
        ("latest:2", Latest(2), {3, 12}),
        ("latest:9", Latest(9), {1, 2, 3, 12}),
        ("all", All(), {1, 2, 3, 12}),
        ("2", Specific(frozenset({2})), {2}),
        ("2,12,40", Specific(frozenset({2, 12, 40})), {2, 12}),
    ],
)
def test_reads_a_policy_and_chooses(text: str, policy: VersionPolicy, chosen: set[int]) -> None:
    assert parse_policy(text) == policy
    assert policy.choose([3, 12, 1, 2]) == chosen
    assert policy.choose([]) == set()


@pytest.mark.parametrize("text", ["", "newest", "latest:0", "latest:", "1,", "0", "-1", "1 2", "²"])
def test_refuses_what_is_no_policy(text: str) -> None:
    with pytest.raises(ValueError, match="is not a choice of versions; write latest:2, all or 3,4"):
        parse_policy(text)
