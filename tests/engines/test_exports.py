"""Each engine's file for the same mask, and what it says of the rest."""

import json
import runpy
from dataclasses import replace

import pytest
import yaml

from pabtune.engines.engine import ENGINES
from pabtune.engines.exports import WRITERS, export
from pabtune.engines.plan import Facts
from pabtune.planning.presets import PRESETS
from pabtune.records.errors import PolicyError
from pabtune.records.policies import Policy
from pabtune.records.rules import Rule
from tests.engines.policies import BEHIND_THE_FIRST, BITS, held, made_for

BEHIND = [name for name, engine in ENGINES.items() if engine.held == "behind the first"]
ALL = [name for name, engine in ENGINES.items() if engine.held == "all"]
TWO = Policy(
    name="two",
    rules=(Rule(kind="stack", compute=(0, 2, 5, 6, 8, 9), layers=BEHIND_THE_FIRST),),
    made_for=made_for(names=("transformer", "transformer_2")),
)
"""Of two transformers: at a boundary of .55 both have five steps, 1 0 1 0 0 and 1 1 0 1 1."""


def test_all_engines_have_a_writer() -> None:
    assert set(WRITERS) == {*ENGINES} - {"videosys"}


@pytest.mark.parametrize("name", BEHIND)
def test_blocks_behind_the_first_are_exact_where_the_first_runs(name) -> None:
    assert export(held(BEHIND_THE_FIRST), name).losses == ()
    assert export(held(), name).losses == ("stack: layers 0 of 4 compute there, in each of 4 held steps",)


@pytest.mark.parametrize("name", ALL)
def test_all_blocks_are_exact_where_all_are_held(name) -> None:
    assert export(held(), name).losses == ()
    assert export(held(BEHIND_THE_FIRST), name).losses == (
        "stack: layers 0 of 4 are held too, in each of 4 held steps",
    )


def test_layers_up_to_one_that_is_not_the_last_are_not_exact() -> None:
    expected = ("stack: layers 3 of 4 are held too, in each of 4 held steps",)
    assert export(held((1, 2)), "cache-dit").losses == expected
    unknown = held((1, 2), made_for=made_for(config={}))
    assert export(unknown, "cache-dit").losses == (
        "stack: which blocks the model has is not known, say --layers N; cache-dit holds all but the first in 4 steps",
    )
    assert export(unknown, "cache-dit", Facts(layers=(3,))).losses == ()


def test_cache_dit_gets_yaml_without_the_key_that_it_refuses() -> None:
    made = export(held(BEHIND_THE_FIRST), "cache-dit")
    assert yaml.safe_load(made.text) == {
        "cache_config": {
            "Fn_compute_blocks": 1, "Bn_compute_blocks": 0, "max_warmup_steps": 1, "max_cached_steps": -1,
            "max_continuous_cached_steps": -1, "residual_diff_threshold": 0.08, "num_inference_steps": 10,
            "steps_computation_mask": BITS, "steps_computation_policy": "static", "enable_separate_cfg": True,
        }
    }  # fmt: skip
    assert "steps_computation_mask: [1, 0, 1, 0, 0, 1, 1, 0, 1, 1]\n" in made.text
    assert "# exact: the engine does what the policy says\n" in made.text
    assert "# for exactly 10 steps, noise levels 1 … 0.5 (step 5) … 0.1\n" in made.text


def test_two_transformers_get_a_module_with_a_mask_each(tmp_path) -> None:
    made = export(TWO, "cache-dit", Facts(boundary=0.55))
    path = tmp_path / f"policy{made.suffix}"
    path.write_text(made.text.replace("import cache_dit", "cache_dit = None"))
    configs = runpy.run_path(str(path))["CONFIGS"]
    assert {name: config["steps_computation_mask"] for name, config in configs.items()} == {
        "transformer": [1, 0, 1, 0, 0],
        "transformer_2": [1, 1, 0, 1, 1],
    }
    assert [config["num_inference_steps"] for config in configs.values()] == [5, 5]
    assert made.losses == ()


def test_two_transformers_need_a_boundary_and_noise_levels() -> None:
    with pytest.raises(PolicyError, match=r"transformer, transformer_2, which take turns; .*--boundary 0.875"):
        export(TWO, "cache-dit")
    at_the_boundary = export(TWO, "cache-dit", Facts(boundary=0.5))  # of step 5, as diffusers compares timesteps
    assert [mask.start for mask in at_the_boundary.masks] == [0, 6]
    without = Policy(name="two", rules=TWO.rules, made_for=made_for(names=("a", "b"), sigmas=None))
    with pytest.raises(PolicyError, match="does not tell its noise levels"):
        export(without, "cache-dit", Facts(boundary=0.55))


def test_one_mask_for_two_transformers_is_taken_if_one_begins_the_other() -> None:
    with pytest.raises(PolicyError, match="sglang has one mask for both transformers"):
        export(TWO, "sglang", Facts(boundary=0.55))
    rule = Rule(kind="stack", compute=(0, 2, 4, 6, 7, 9), layers=BEHIND_THE_FIRST)
    begins = Policy(name="two", rules=(rule,), made_for=TWO.made_for)  # 1 0 1 0 and 1 0 1 1 0 1 at a boundary of .65
    with pytest.raises(PolicyError, match="xdit has one mask"):
        export(begins, "xdit", Facts(boundary=0.65))
    rule = Rule(kind="stack", compute=(0, 2, 4, 6, 8, 9), layers=BEHIND_THE_FIRST)
    begins = Policy(name="two", rules=(rule,), made_for=TWO.made_for)  # 1 0 1 0 and 1 0 1 0 1 1
    made = export(begins, "xdit", Facts(boundary=0.65))
    assert made.document["steps_computation_mask"] == [1, 0, 1, 0, 1, 1]
    assert made.losses == ()
    with pytest.raises(PolicyError, match=r"stable-diffusion\.cpp has one mask"):
        export(begins, "stable-diffusion.cpp", Facts(boundary=0.65))


def test_sglang_gets_an_environment_and_the_fields_of_a_request() -> None:
    made = export(held(BEHIND_THE_FIRST), "sglang")
    lines = dict(line.split("=", 1) for line in made.text.splitlines() if not line.startswith("#"))
    assert lines == made.document["environment"]
    assert lines["SGLANG_CACHE_DIT_SCM_COMPUTE_BINS"] == "1,1,2,2"
    assert lines["SGLANG_CACHE_DIT_SCM_CACHE_BINS"] == "1,2,1"
    assert (lines["SGLANG_CACHE_DIT_SCM_POLICY"], lines["SGLANG_CACHE_DIT_WARMUP"]) == ("static", "1")
    (request,) = [line for line in made.text.splitlines() if "of one request" in line]
    assert json.loads(request.split(": ", 1)[1]) == made.document["request"]
    assert made.document["request"]["cache_dit_params"]["scm_compute_bins"] == [1, 1, 2, 2]


def test_an_idle_mask_switches_sglangs_cache_off() -> None:
    """Without held steps it would cache by threshold."""
    made = export(held(BEHIND_THE_FIRST, tuple(range(10))), "sglang")
    assert made.document == {
        "environment": {"SGLANG_CACHE_DIT_ENABLED": "false"}, "request": {"enable_cache_dit": False}
    }  # fmt: skip
    assert not made.is_useful


def test_xdit_gets_json_that_switches_its_presets_off() -> None:
    made = export(held(BEHIND_THE_FIRST), "xdit")
    document = json.loads(made.text)
    assert (document["scm_policy"], document["enable_taylorseer"]) == (None, False)
    assert (document["steps_computation_mask"], document["steps_computation_policy"]) == (BITS, "static")
    line = Rule(kind="stack", compute=(0, 1, 2, 3, 5), layers=BEHIND_THE_FIRST, payload="linear")
    made = export(Policy(name="line", rules=(line,), made_for=made_for()), "xdit")
    assert json.loads(made.text)["enable_taylorseer"] is True
    # Fields of xfuser 0.7.0's DBCachePreset and of cache-dit 1.5's DBCacheConfig: others are refused.
    assert set(json.loads(made.text)) == {
        "Fn_compute_blocks", "Bn_compute_blocks", "max_warmup_steps", "scm_policy", "enable_taylorseer",
        "enable_encoder_calibrator", "enable_separate_cfg", "steps_computation_mask", "steps_computation_policy",
    }  # fmt: skip


def test_stable_diffusion_cpp_gets_options_on_a_line() -> None:
    *_, line = export(held(BEHIND_THE_FIRST), "stable-diffusion.cpp").text.splitlines()
    assert line == (
        "--steps 10 --cache-mode cache-dit --cache-option Fn=1,Bn=0,threshold=0.1,warmup=1 "
        "--scm-mask 1,0,1,0,0,1,1,0,1,1 --scm-policy static"
    )


def test_diffusers_gets_ratios_for_each_transformer_that_holds() -> None:
    rule = Rule(kind="stack", compute=(0, 1, 2, 3, 4, 5, 6, 8, 9))
    policy = Policy(name="two", rules=(rule,), made_for=TWO.made_for)
    made = export(policy, "diffusers", Facts(boundary=0.55))
    assert json.loads(made.text) == {
        "transformer_2": {
            "threshold": 0.5, "max_skip_steps": 5, "retention_ratio": 0.0, "num_inference_steps": 5,
            "mag_ratios": [1000.0, 1000.0, 1.0, 1000.0, 1000.0],
        }
    }  # fmt: skip


def test_a_class_that_was_not_run_is_said() -> None:
    """diffusers' MagCache changes the videos of Kandinsky 5 and Framepack, cache-dit those of ConsisID and Helios."""
    said = "model: {} was not run in {} here; compare a video before you trust it"
    config = {"transformer": {"num_visual_blocks": 4, "num_layers": 4}}
    for model, name in (("Kandinsky5Transformer3DModel", "diffusers"), ("HeliosTransformer3DModel", "cache-dit")):
        layers = None if name == "diffusers" else BEHIND_THE_FIRST
        policy = held(layers, made_for=made_for(model, config=config))
        assert export(policy, name).losses == (said.format(model, name),)
        assert export(policy, "lightx2v" if name == "diffusers" else "xdit").losses == ()


def test_lightx2v_counts_the_steps_of_both_transformers() -> None:
    made = export(TWO, "lightx2v", Facts(boundary=0.55))
    expected = [1000.0 if bit else 1.0 for bit in (1, 0, 1, 0, 0, 1, 1, 0, 1, 1)]
    assert made.document["magcache_ratios"] == [expected, expected]
    assert (made.document["infer_steps"], made.document["magcache_K"]) == (10, 10)
    assert made.document["enable_cfg"] is True


def test_a_takeover_computes() -> None:
    """The second transformer has nothing to hold at its first step."""
    policy = Policy(name="two", rules=(Rule(kind="stack", compute=(0, 9)),), made_for=TWO.made_for)
    first, second = export(policy, "diffusers", Facts(boundary=0.55)).masks
    assert (first.bits, second.bits) == ([1, 0, 0, 0, 0], [1, 0, 0, 0, 1])
    assert (first.start, second.start) == (0, 5)


def test_presets_are_the_nearest_and_their_distance_is_told() -> None:
    made_for_28 = made_for(steps=28, sigmas=None)
    fast = (0, 1, 2, 3, 4, 5, 7, 11, 16, 22, 27)
    exact = held(BEHIND_THE_FIRST, fast, made_for=made_for_28)
    for name in ("vllm-omni", "tensorrt-llm"):
        assert export(exact, name).losses == ()
    other = held(BEHIND_THE_FIRST, (*fast[:6], 8, *fast[7:]), made_for=made_for_28)
    made = export(other, "vllm-omni")
    assert json.loads(made.text)["scm_steps_mask_policy"] == "fast"
    assert made.losses == ("mask: vllm-omni takes presets alone; 'fast' is the nearest, and differs in 2 of 28 steps",)
    strict = yaml.safe_load(export(other, "tensorrt-llm").text)
    assert list(strict) == ["cache_config"]
    assert strict["cache_config"]["cache_backend"] == "cache_dit"
    few = export(held(BEHIND_THE_FIRST), "vllm-omni")
    assert few.losses == ("mask: vllm-omni takes presets alone; 'medium' is the nearest, and differs in 2 of 10 steps",)
    fewer = held(BEHIND_THE_FIRST, (0, 2, 4), made_for=made_for(steps=5, sigmas=None))
    with pytest.raises(PolicyError, match="has no mask 'slow' for 5 steps: only for 4, 6, and 8 or more"):
        export(fewer, "vllm-omni")


def test_a_policy_without_steps_needs_some() -> None:
    policy = held(BEHIND_THE_FIRST, made_for=made_for(steps=None, sigmas=None))
    with pytest.raises(PolicyError, match="does not say how many steps it is for, and a mask must; add --steps N"):
        export(policy, "cache-dit")
    assert export(policy, "cache-dit", Facts(steps=10)).masks[0].bits == BITS
    with pytest.raises(PolicyError, match="is for 10 steps, but --steps says 12"):
        export(held(BEHIND_THE_FIRST), "cache-dit", Facts(steps=12))
    with pytest.raises(PolicyError, match="computes at step 9, but the run has 5 steps"):
        export(policy, "cache-dit", Facts(steps=5))


def test_what_no_mask_says_is_counted_in_steps() -> None:
    rules = (
        Rule(kind="stack", compute=(0, 2, 5, 6, 8, 9), layers=BEHIND_THE_FIRST),
        Rule(kind="cross", range=2, window=(0, 10)),
        Rule(kind="guidance", compute=(0, 1, 2, 9)),
    )
    policy = Policy(name="p", rules=rules, variants={"fast": ()}, store="int8", made_for=made_for())
    assert export(policy, "cache-dit").losses == (
        "variant for fast: export it with --content fast",
        "store int8: residuals are kept as they are",
        "cross: 5 of 10 steps broadcast; only runs of whole blocks are held there",
        "guidance: 6 of 10 steps broadcast; only runs of whole blocks are held there",
    )


def test_whole_calls_are_a_mask_that_is_not_called_exact() -> None:
    policy = Policy(name="p", rules=(Rule(kind="transformer", compute=(0, 2, 5, 6, 8, 9)),), made_for=made_for())
    for name in ("cache-dit", "diffusers"):
        made = export(policy, name)
        assert made.masks[0].bits == BITS
        (loss,) = made.losses
        assert loss.startswith("transformer: its 4 skipped calls are exported as held blocks")
        assert loss.endswith("videos of that were not measured")


@pytest.mark.parametrize("name", ["sglang", "xdit"])
def test_one_payload_for_two_transformers_that_need_two_is_not_exact(name) -> None:
    """The longer mask's was taken for both, and called exact."""
    first, second = (
        Rule(kind="stack", compute=computed, layers=BEHIND_THE_FIRST, transformer=transformer, payload="linear")
        for transformer, computed in (("transformer", (0, 1, 3)), ("transformer_2", (*range(7), 8)))
    )
    both = Policy(name="two", rules=(first, second), made_for=made_for(names=("transformer", "transformer_2")))
    facts = Facts(boundary=0.55)
    assert not [loss for loss in export(both, name, facts).losses if "TaylorSeer" in loss]
    other = replace(both, rules=(replace(first, payload="hold"), second))
    assert [loss for loss in export(other, name, facts).losses if "TaylorSeer is for both or none" in loss]


@pytest.mark.parametrize("name", ["vllm-omni", "tensorrt-llm"])
def test_a_preset_is_no_use_to_a_policy_that_holds_no_block(name) -> None:
    """`pab246` was written as `slow`, which holds 8 of 30 steps that the policy never holds."""
    assert not export(PRESETS["pab246"], name, Facts(steps=30)).is_useful
    assert export(held(), name).is_useful
