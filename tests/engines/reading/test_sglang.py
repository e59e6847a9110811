import json

import pytest

from pabtune.engines.reading.configuration import DualBlocks, Nothing
from pabtune.engines.reading.files import read_configuration
from pabtune.records.errors import PolicyError

ON = "SGLANG_CACHE_DIT_ENABLED=true"
MASK = "SGLANG_CACHE_DIT_SCM_COMPUTE_BINS=1,1,2,2\nSGLANG_CACHE_DIT_SCM_CACHE_BINS=1,2,1"


@pytest.fixture
def read(tmp_path):
    def of(text: str | dict):
        path = tmp_path / "serve.env"
        path.write_text(json.dumps(text) if isinstance(text, dict) else text, encoding="utf-8")
        return read_configuration(path)

    return of


def test_sglangs_defaults_are_not_cache_dits(read) -> None:
    assert read(ON).rule == DualBlocks(front=1, threshold=0.24, warm_up=4, most_in_row=3)
    assert read({"enable_cache_dit": True}).rule == read(ON).rule


def test_variables_are_read_from_a_shell_file(read) -> None:
    configuration = read(
        f"# ours\nexport {ON}\nexport SGLANG_CACHE_DIT_FN=2 SGLANG_CACHE_DIT_RDT='0.1'  # careful\n"
        f"{MASK}\nSGLANG_CACHE_DIT_SCM_POLICY=static \\\n  sglang generate --num-inference-steps 10 --prompt 'a cat'\n"
    )
    mask = tuple(bool(each) for each in (1, 0, 1, 0, 0, 1, 1, 0, 1, 1))
    assert configuration.rule == DualBlocks(
        front=2, threshold=0.1, warm_up=4, most_in_row=3, mask=mask, is_static=True
    )  # fmt: skip
    assert (configuration.engine, configuration.steps, configuration.remarks) == ("sglang", 10, ())
    assert configuration.is_cut


def test_commands_in_one_line_are_told_apart(read) -> None:
    rule = read(f"export {ON}; export SGLANG_CACHE_DIT_FN=2; sglang serve --port 30 && echo SGLANG_CACHE_DIT_BN=1").rule
    assert (rule.front, rule.back) == (2, 1)


def test_a_comment_is_no_setting(read) -> None:
    text = f"# SGLANG_CACHE_DIT_FN=3 {ON}\ncache_config:\n  Fn_compute_blocks: 2\n"
    assert (read(text).engine, read(text).rule.front) == ("cache-dit", 2)


def test_a_request_counts_before_the_environment(read) -> None:
    text = f"{ON}\nSGLANG_CACHE_DIT_RDT=0.5\nSGLANG_CACHE_DIT_FN=3\nsglang generate --cache-dit-params "
    rule = read(text + """'{"residual_diff_threshold": 0.1}'""").rule
    assert (rule.threshold, rule.front) == (0.1, 3)
    off = read(f"{ON} sglang generate --enable-cache-dit false")
    assert off.rule == Nothing()
    assert off.remarks == ("enable_cache_dit is false: SGLang caches nothing",)


@pytest.mark.parametrize(
    ("text", "remark"),
    [
        ("SGLANG_CACHE_DIT_FN=1", "SGLANG_CACHE_DIT_ENABLED is not true: SGLang caches nothing"),
        (f"{ON}\nSGLANG_CACHE_DIT_TAYLOR=1", "SGLang does not know, and ignores: SGLANG_CACHE_DIT_TAYLOR"),
        (f"{ON}\nSGLANG_CACHE_DIT_TAYLORSEER=ja", "does not understand it, and takes it for false"),
        (f"{ON}\nSGLANG_CACHE_DIT_SCM_COMPUTE_BINS=50", "only one list of run lengths is set: SGLang ignores it"),
        (
            f"{ON}\nSGLANG_CACHE_DIT_SCM_COMPUTE_BINS=a\nSGLANG_CACHE_DIT_SCM_CACHE_BINS=1",
            "are no numbers with commas between them: SGLang takes no mask",
        ),
        (
            {"enable_cache_dit": True, "cache_dit_params": {"scm_compute_bins": [50], "scm_cache_bins": []}},
            "SGLang then takes no mask and the threshold decides; to cache nothing, say enable_cache_dit: false",
        ),
        (
            f"{ON} sglang generate --enable-teacache true",
            "not judged: --enable-teacache: TeaCache leaves out calls besides",
        ),
        (
            {"enable_cache_dit": True, "cfg_gate_step": 0.5},
            "not judged: cfg_gate_step: the guidance difference is held",
        ),
        (
            {"enable_cache_dit": True, "seed": 1, "prompt": "a"},
            "not taken from the request: prompt, seed; say them to the run",
        ),
        ({"cache_dit_params": {}}, "judged as if SGLANG_CACHE_DIT_ENABLED were true on the server"),
    ],
)
def test_what_sglang_ignores_or_hardly_meant_is_said(read, text, remark) -> None:
    configuration = read(text)
    (said,) = configuration.remarks
    assert remark in said
    assert getattr(configuration.rule, "mask", None) is None


def test_the_second_transformer_inherits_and_differs(read) -> None:
    assert read(f"{ON}\nSGLANG_CACHE_DIT_FN=2").other_for_second == ()
    assert read(f"{ON}\nSGLANG_CACHE_DIT_FN=2\nSGLANG_CACHE_DIT_SECONDARY_FN=1").other_for_second == (
        "Fn_compute_blocks",
    )
    request = {"enable_cache_dit": True, "cache_dit_params": {"secondary": {"residual_diff_threshold": 0.3}}}
    assert read(request).other_for_second == ("residual_diff_threshold",)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ({"cache_dit_params": {"fn": 1}}, "SGLang refuses a request with fn; cache_dit_params takes Bn_compute_blocks"),
        ({"cache_dit_params": {"secondary": {"scm_preset": "fast"}}}, "SGLang refuses a request with scm_preset"),
        ({"cache_dit_params": {"scm_compute_bins": [1]}}, "a mask needs both lists of run lengths"),
        ({"cache_dit_params": {"scm_compute_bins": ["1"], "scm_cache_bins": [1]}}, "must be whole numbers from 0 on"),
        ({"cache_dit_params": {"scm_compute_bins": [10**9], "scm_cache_bins": [1]}}, "which no run has"),
        (
            {"cache_dit_params": {"scm_preset": "quick"}},
            "must be none or one of slow, medium, fast, ultra, not 'quick'",
        ),
        ({"cache_dit_params": {"enable_dmd": True}}, "enable_dmd: True cannot be judged"),
        ({"cache_dit_params": [1]}, "cache_dit_params must be an object, but is [1]"),
        ({"enable_cache_dit": "yes"}, "enable_cache_dit must be true or false, but is 'yes'"),
        ({"enable_cache_dit": True, "num_inference_steps": 0}, "num_inference_steps must be a whole number from 1 on"),
        (f"{ON}\nSGLANG_CACHE_DIT_FN=one", "SGLANG_CACHE_DIT_FN must be a number, but is 'one': SGLang stops at it"),
        (f"{ON} sglang generate --num-inference-steps many", "must be a number of steps, but is 'many'"),
        (f"{ON} --cache-dit-params '{{'", "broken JSON in line 1"),
        (f"{ON} 'never closed", "cannot be read as a shell file: No closing quotation"),
    ],
)
def test_what_sglang_or_pabtune_refuses(read, text, error) -> None:
    with pytest.raises(PolicyError) as refused:
        read(text)
    assert error in str(refused.value)


def test_comments_are_a_shells(read) -> None:
    """One that ended in a backslash took the next line with it, and `#` inside of a word took the rest of the line."""
    text = f"# off for now \\\n{ON}\nTAG=a#b SGLANG_CACHE_DIT_FN=2 # SGLANG_CACHE_DIT_FN=3\nX='#' SGLANG_CACHE_DIT_BN=1"
    rule = read(text).rule
    assert (rule.front, rule.back) == (2, 1)


def test_run_lengths_of_nothing_are_no_mask(read) -> None:
    assert read(f"{ON}\nSGLANG_CACHE_DIT_SCM_COMPUTE_BINS=0\nSGLANG_CACHE_DIT_SCM_CACHE_BINS=0").rule.mask is None


@pytest.mark.parametrize("steps", ["\u00b2", "9" * 5000])
def test_odd_numbers_of_steps_are_refused(read, steps) -> None:
    with pytest.raises(PolicyError, match="must be a number of steps"):
        read(f"{ON} sglang generate --num-inference-steps {steps}")
