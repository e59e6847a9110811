import pytest

from pabtune.engines.reading.files import MOST_CHARACTERS, read_configuration
from pabtune.records.errors import PolicyError

BOMB = "a: &a [x, x]\n" + "\n".join(
    f"{new}: &{new} [*{old}, *{old}]" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [
        '{"schema": "pabtune.policy/2", "name": "n", "rules": []}',
        '{"name": "n", "rules": []}',
        '{"schema": "pabtune.profile/3"}',
    ],
)
def test_pabtunes_own_files_are_left_to_their_readers(text, tmp_path) -> None:
    (tmp_path / "policy.json").write_text(text)
    assert read_configuration(tmp_path / "policy.json") is None


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"cache_config: [1", "broken YAML in line 1: expected ',' or ']'"),
        (b"cache_config:\n  a: 1\n b: 2", "broken YAML in line 3"),
        (BOMB.encode(), "broken YAML: references (*a) are not read; write the value out"),
        (b"[" * 2000, "broken YAML: nested too deeply"),
        (b"cache_config: \x07", "broken YAML: "),
        (b"a: 2020-99-99", "broken YAML: "),
        (b"\xff\xfe\x00", "not a text file in UTF-8"),
        (b"#" * (MOST_CHARACTERS + 1), f"longer than {MOST_CHARACTERS} characters"),
        (b'{"cache_config": ', "broken JSON in line 1"),
        (b"", "no policy, and of no form that is known (NoneType); known besides policies: cache-dit's YAML"),
        (b"- 1", "of no form that is known (list)"),
        (b"hello: 1\nworld: 2", "of no form that is known (keys hello, world)"),
        (b'{"cache_config": {"cache_backend": "teacache"}}', "cache_backend is vLLM-Omni or TensorRT-LLM's"),
        (b'{"cache_config": 3}', "of no form that is known (keys cache_config)"),
        (b"attention_backend: x\ncache_config:", "cache_config must be an object, but is None"),
        (b"attention_backend: x\ncache_config: 3", "cache_config must be an object, but is 3"),
        (b"cache_config:\n  Fn_compute_blocks: 1\n  Fn_compute_blocks: 2", "the key 'Fn_compute_blocks' stands twice"),
        (b"enable_cache_dit: true\n1: 2", "the key '1' is no text"),
        (b"_class_name: MagCacheConfig\nmag_ratios: [" + b"9" * 400 + b"]", "a number has more than 64 bits"),
        (b'{"cache_config": {"a": 1, "a": 2}}', "the key 'a' stands twice"),
        (
            b'{"enable_cache_dit": true, "cache_dit_params": {"scm_compute_bins": 3, "scm_cache_bins": [1]}}',
            "whole numbers",
        ),
    ],
)
def test_what_is_broken_or_unknown_is_refused_in_one_line(content, error, tmp_path) -> None:
    path = tmp_path / "team.yaml"
    path.write_bytes(content)
    with pytest.raises(PolicyError) as refused:
        read_configuration(path)
    assert error in str(refused.value)
    assert "\n" not in str(refused.value)


def test_yaml_in_braces_is_no_broken_json(tmp_path) -> None:
    (tmp_path / "team.yaml").write_text("{cache_config: {Fn_compute_blocks: 2}}")
    assert read_configuration(tmp_path / "team.yaml").rule.front == 2
