import pytest

from pabtune.engines.reading.configuration import DualBlocks
from pabtune.engines.reading.files import read_configuration
from pabtune.records.errors import PolicyError


@pytest.fixture
def read(tmp_path):
    """Reads lines as fields of `cache_config`, or a whole text."""

    def of(*lines: str, text: str | None = None):
        path = tmp_path / "team.yaml"
        path.write_text(text or "\n".join(["cache_config:", *(f"  {line}" for line in lines)]), encoding="utf-8")
        return read_configuration(path)

    return of


def test_what_is_missing_or_null_is_cache_dits_default(read) -> None:
    configuration = read("Bn_compute_blocks: null")
    assert configuration.rule == DualBlocks(
        front=8, back=0, threshold=0.08, warm_up=8, warm_up_interval=1, most=None, most_in_row=None, most_change=None, order=0
    )  # fmt: skip
    assert (configuration.engine, configuration.name, configuration.steps) == ("cache-dit", "team.yaml", None)
    assert configuration.remarks == ()


def test_all_numbers_are_read(read) -> None:
    configuration = read(
        "Fn_compute_blocks: 2", "Bn_compute_blocks: 1", "max_warmup_steps: 4", "warmup_interval: 2", "max_cached_steps: 20",
        "max_continuous_cached_steps: 3", "residual_diff_threshold: 0.12", "max_accumulated_residual_diff_threshold: 2",
        "enable_taylorseer: true", "taylorseer_order: 2", "enable_encoder_taylorseer: true",
        "cfg_diff_compute_separate: false", "enable_separate_cfg: true", "num_inference_steps: 50",
    )  # fmt: skip
    assert configuration.rule == DualBlocks(
        front=2,
        back=1,
        threshold=0.12,
        warm_up=4,
        warm_up_interval=2,
        most=20,
        most_in_row=3,
        most_change=2.0,
        order=2,
        takes_one_decision=True,
    )
    assert not read("enable_taylorseer: true").rule.continues_text  # fmt: skip
    assert (configuration.steps, configuration.has_separate_calls, configuration.remarks) == (50, True, ())


def test_a_mask_is_read_as_a_list_or_by_its_name(read) -> None:
    listed = read("steps_computation_mask: [1, 0, 1]", "steps_computation_policy: static").rule
    assert (listed.mask, listed.preset, listed.is_fixed) == ((True, False, True), None, True)
    named = read("steps_computation_mask: fast", "num_inference_steps: 50").rule
    assert (named.mask, named.preset, named.is_fixed) == (None, "fast", False)


def test_the_older_form_has_its_fields_at_the_top(read) -> None:
    rule = read(text="Fn_compute_blocks: 3\nresidual_diff_threshold: 0.2\n").rule
    assert (rule.front, rule.threshold) == (3, 0.2)


@pytest.mark.parametrize(
    ("lines", "remark"),
    [
        (["enable_sperate_cfg: false"], "cache-dit does not know, and ignores: enable_sperate_cfg"),
        (["cache_type: DBCache"], "cache-dit 1.5.3 stops at cache_type in a file"),
        (
            ["steps_computation_mask: [1, 0]", "steps_computation_policy: static", "max_cached_steps: 3"],
            "a static mask does not consult max_cached_steps",
        ),
        (["steps_computation_policy: static"], "steps_computation_policy says nothing without steps_computation_mask"),
    ],
)
def test_what_cache_dit_ignores_is_said(read, lines, remark) -> None:
    (said,) = read(*lines).remarks
    assert said.startswith(remark)


def test_what_is_not_judged_is_said(read) -> None:
    configuration = read(
        text="cache_config: {Fn_compute_blocks: 1}\nquantize_config: {quant_type: float8}\nresidual_diff_threshold: 0.3\n"
    )
    assert configuration.rule.threshold == 0.08
    assert configuration.remarks == (
        "quantize_config: not judged: pabtune runs the weights as they are, so that the loss by quantizing is not seen",
        "cache-dit ignores residual_diff_threshold beside cache_config",
    )


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        (["Fn_compute_blocks: 0"], "Fn_compute_blocks must be a whole number from 1 on, but is 0"),
        (["residual_diff_threshold: 1e-3"], "must be a number, but is '1e-3'; in YAML 1e-3 is a text, write 1.0e-3"),
        (["residual_diff_threshold: .nan"], "residual_diff_threshold must be a number, but is nan"),
        (["enable_dmd: true"], "enable_dmd: True cannot be judged: pabtune does not have that payload"),
        (["enable_foca: true"], "enable_foca: True cannot be judged"),
        (["force_refresh_step_hint: 25"], "force_refresh_step_hint: 25 cannot be judged"),
        (["cfg_compute_first: true"], "cfg_compute_first: True cannot be judged"),
        (["enable_taylorseer: true", "taylorseer_cache_type: hidden_states"], "'hidden_states' cannot be judged"),
        (["enable_taylorseer: true", "taylorseer_order: 3"], "taylorseer_order 3 cannot be judged, only 0 to 2"),
        (["cache_type: DBPrune"], "cache_type 'DBPrune' cannot be judged, only DBCache"),
        (
            ["steps_computation_mask: quick", "num_inference_steps: 9"],
            "or one of slow, medium, fast, ultra, not 'quick'",
        ),
        (["steps_computation_mask: fast"], "needs num_inference_steps: cache-dit stops without it"),
        (["steps_computation_mask: [1, 2]"], "must hold a 1 (compute) or a 0 for each step, but is [1, 2]"),
        (
            ["steps_computation_policy: sometimes"],
            "steps_computation_policy must be static or dynamic, but is 'sometimes'",
        ),
        (
            ["steps_computation_mask: [0, 1]", "steps_computation_policy: static"],
            "the mask holds step 0, where nothing was computed yet: the engine stops there; begin the mask with 1",
        ),
    ],
)
def test_what_cannot_be_judged_is_refused(read, lines, error) -> None:
    with pytest.raises(PolicyError) as refused:
        read(*lines)
    assert error in str(refused.value)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("attention_backend: native", "there is no cache_config, so that cache-dit caches nothing"),
        ("steps_computation_mask: fast\nnum_inference_steps: 30", "by name only inside of cache_config; put it there"),
        (
            "Fn_compute_blocks: 1\nscm_steps_mask_policy: fast",
            "is vLLM-Omni or TensorRT-LLM's, whose files are not read",
        ),
        ('{"Fn_compute_blocks": 1, "scm_policy": "ultra"}', "scm_policy is xDiT's, whose files are not read"),
    ],
)
def test_other_files_with_the_same_fields_are_refused(read, text, error) -> None:
    with pytest.raises(PolicyError) as refused:
        read(text=text)
    assert error in str(refused.value)
