"""SGLang's DBCache (sglang 0.5.23, `multimodal_gen`): by environment variables, or by the parameters of a request.

A request's word counts before the environment's, knob by knob. The mask comes as two lists of run lengths: steps that compute,
and steps that are held, in turns; both must hold something, or there is no mask at all and the threshold decides.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from typing import Any

from pabtune.engines.reading.cache_dit import DEFAULTS, PRESETS, dual_blocks
from pabtune.engines.reading.configuration import Configuration, Nothing, Values
from pabtune.records.errors import PolicyError
from pabtune.records.files import parse_json

FORM = "SGLang's environment (SGLANG_CACHE_DIT_…, a .env or shell file)"
REQUEST_FORM = "SGLang's request as JSON (enable_cache_dit, cache_dit_params)"
PREFIX, SECOND = "SGLANG_CACHE_DIT_", "SECONDARY_"

OWN_DEFAULTS: Mapping[str, Any] = {
    **DEFAULTS, "Fn_compute_blocks": 1, "max_warmup_steps": 4, "residual_diff_threshold": 0.24,
    "max_continuous_cached_steps": 3, "enable_encoder_taylorseer": True,
    "scm_preset": "none", "scm_policy": "dynamic", "enable_dmd": False,
}  # fmt: skip
"""SGLang's, where they are not cache-dit's."""

VARIABLES: Mapping[str, tuple[str, type]] = {
    "FN": ("Fn_compute_blocks", int), "BN": ("Bn_compute_blocks", int), "WARMUP": ("max_warmup_steps", int),
    "RDT": ("residual_diff_threshold", float), "MC": ("max_continuous_cached_steps", int),
    "TAYLORSEER": ("enable_taylorseer", bool), "TS_ORDER": ("taylorseer_order", int), "DMD": ("enable_dmd", bool),
    "DMD_HISTORY": ("dmd_history", int), "DMD_RANK": ("dmd_rank", int), "DMD_RIDGE": ("dmd_ridge", float),
    "DMD_SVD_PRECISION": ("dmd_svd_precision", str),
}  # fmt: skip
"""Names of knobs in a request, and their types, by the ends of the variables' names."""

MASK_VARIABLES: Mapping[str, str] = {
    "SCM_PRESET": "scm_preset", "SCM_POLICY": "scm_policy", "SCM_COMPUTE_BINS": "scm_compute_bins",
    "SCM_CACHE_BINS": "scm_cache_bins",
}  # fmt: skip

KNOBS = frozenset(name for name, _ in VARIABLES.values())
MASK_KEYS = frozenset(MASK_VARIABLES.values())
TRUE = ("1", "true", "yes", "y", "t", "on")
FALSE = ("0", "false", "no", "n", "f", "off", "")
FLAGS = {"--enable-cache-dit": "enable_cache_dit", "--cache-dit-params": "cache_dit_params"}
STEPS_FLAG = "--num-inference-steps"
OTHER_ACCELERATORS: Mapping[str, str] = {
    "enable_teacache": "TeaCache leaves out calls besides", "enable_spectrum": "Spectrum leaves out calls besides",
    "cfg_gate_step": "the guidance difference is held from that step on", "progressive_mode": "sizes change in the run",
}  # fmt: skip
"""Parameters of a request that pabtune does not read, and what they do."""

MOST_STEPS = 10_000
"""More steps in a list of run lengths are a slip."""


def recognizes_text(text: str) -> bool:
    """Whether a text sets SGLang's variables, or calls it with its flags."""
    said = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    return re.search(rf"(?m)(^|\s){PREFIX}\w+=", said) is not None or any(flag in said for flag in FLAGS)


def recognizes(document: Any) -> bool:
    """Whether a document is a request."""
    return isinstance(document, dict) and bool({"enable_cache_dit", "cache_dit_params"} & document.keys())


def read_text(text: str, name: str) -> Configuration:
    """The configuration of a .env or shell file, with the flags of a call in it.

    Raises:
        PolicyError: it cannot be read, or SGLang would stop at it, or pabtune cannot judge what it says.
    """
    words = _words(text, name)
    settings: dict[str, str] = {}
    request: dict[str, Any] = {}
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if match := re.fullmatch(rf"{PREFIX}(\w+)=(.*)", word, re.DOTALL):
            settings[match[1]] = match[2]
        flag, equals, value = word.partition("=")
        if flag in FLAGS or flag == STEPS_FLAG:
            request[FLAGS.get(flag, "num_inference_steps")] = _flag_value(flag, value if equals else following, name)
    remarks = [
        f"not judged: {word}: {OTHER_ACCELERATORS[key]}"
        for word in words
        if (key := word.partition("=")[0].removeprefix("--").replace("-", "_")) in OTHER_ACCELERATORS
    ]
    knobs, second = _of_environment(settings, name, remarks)
    is_on = _truth(f"{PREFIX}ENABLED", settings.get("ENABLED", "false"), remarks)
    return _configuration(name, FORM, request, knobs, second, remarks, is_on)


def read(document: Mapping[str, Any], name: str) -> Configuration:
    """The configuration of a request.

    Raises:
        PolicyError: SGLang would refuse it, or pabtune cannot judge what it says.
    """
    remarks = [f"not judged: {key}: {why}" for key, why in OTHER_ACCELERATORS.items() if document.get(key)]
    others = sorted(document.keys() - OTHER_ACCELERATORS.keys() - {*FLAGS.values(), "num_inference_steps"})
    if others:
        remarks.append(
            f"not taken from the request: {', '.join(others)}; say them to the run (--size, --guidance-scale, --pipeline-arg)"
        )
    return _configuration(name, REQUEST_FORM, document, {}, {}, remarks, None)


def _configuration(
    name: str,
    form: str,
    request: Mapping[str, Any],
    knobs: dict[str, Any],
    second: dict[str, Any],
    remarks: list[str],
    is_on: bool | None,
) -> Configuration:
    """What a request says on top of the environment; `is_on` is the environment's word, None where it is unknown."""
    asked = request.get("enable_cache_dit")
    if asked not in (None, True, False):
        raise PolicyError(f"{name}: enable_cache_dit must be true or false, but is {asked!r}")
    parameters = request.get("cache_dit_params") or {}
    _check_keys(parameters, name)
    asked_second = parameters.get("secondary") or {}
    own = {key: value for key, value in parameters.items() if key != "secondary"}
    first = {**knobs, **own}
    other = {**first, **second, **{key: each for key, each in own.items() if key in KNOBS}, **asked_second}
    steps = request.get("num_inference_steps")
    if steps is not None and (not isinstance(steps, int) or isinstance(steps, bool) or steps < 1):
        raise PolicyError(f"{name}: num_inference_steps must be a whole number from 1 on, but is {steps!r}")
    if not (is_on if asked is None else asked) and not (asked is None and is_on is None):
        what = "enable_cache_dit is false" if asked is False else f"{PREFIX}ENABLED is not true"
        remarks.append(f"{what}: SGLang caches nothing")
        return Configuration(engine="sglang", name=name, form=form, rule=Nothing(), steps=steps, remarks=tuple(remarks))
    if asked is None and is_on is None:
        remarks.append(f"enable_cache_dit is not set: judged as if {PREFIX}ENABLED were true on the server")
    values = Values(first, name, OWN_DEFAULTS)
    values.refuse("enable_dmd", False, "pabtune does not have that payload")
    mask, preset = _mask(values, remarks)
    policy = values.take("scm_policy")
    if policy not in ("static", "dynamic"):
        raise PolicyError(f"{name}: the policy of the mask must be static or dynamic, but is {policy!r}")
    rule = dual_blocks(values, mask, preset, is_static=policy == "static" and (mask is not None or preset is not None))
    differing = sorted(key for key in KNOBS if _with_default(other, key) != _with_default(first, key))
    return Configuration(
        engine="sglang", name=name, form=form, rule=rule, steps=steps, is_cut=True, other_for_second=tuple(differing),
        remarks=tuple(remarks),
    )  # fmt: skip


def _with_default(values: Mapping[str, Any], key: str) -> Any:
    return values.get(key, OWN_DEFAULTS.get(key))


def _check_keys(parameters: Any, name: str) -> None:
    """Refuses keys with which SGLang refuses a request.

    Raises:
        PolicyError: names them.
    """
    if not isinstance(parameters, dict):
        raise PolicyError(f"{name}: cache_dit_params must be an object, but is {parameters!r}")
    second = parameters.get("secondary") or {}
    if not isinstance(second, dict):
        raise PolicyError(f"{name}: cache_dit_params.secondary must be an object, but is {second!r}")
    unknown = sorted(parameters.keys() - KNOBS - MASK_KEYS - {"secondary"}) + sorted(second.keys() - KNOBS)
    if unknown:
        known = ", ".join(sorted(KNOBS | MASK_KEYS))
        raise PolicyError(f"{name}: SGLang refuses a request with {', '.join(unknown)}; cache_dit_params takes {known}")


def _mask(values: Values, remarks: list[str]) -> tuple[tuple[bool, ...] | None, str | None]:
    """The mask of the run lengths, or the name of one."""
    computed, held = values.take("scm_compute_bins"), values.take("scm_cache_bins")
    preset, source = values.take("scm_preset"), values.source
    if preset not in ("none", *PRESETS):
        raise PolicyError(
            f"{source}: the preset of the mask must be none or one of {', '.join(PRESETS)}, not {preset!r}"
        )
    if (computed is None) != (held is None):
        raise PolicyError(
            f"{source}: a mask needs both lists of run lengths, scm_compute_bins and scm_cache_bins; SGLang refuses a request "
            "with one, and ignores one in the environment"
        )
    lists = [_run_lengths(source, each) for each in (computed or [], held or [])]
    if all(map(sum, lists)):
        runs = list(chain.from_iterable(zip_longest(*lists, fillvalue=0)))
        if sum(runs) > MOST_STEPS:
            raise PolicyError(f"{source}: the run lengths of the mask add up to {sum(runs)} steps, which no run has")
        return tuple(index % 2 == 0 for index, run in enumerate(runs) for _ in range(run)), None
    if computed is not None and preset == "none":
        remarks.append(
            "one list of run lengths is empty: SGLang then takes no mask and the threshold decides; to cache nothing, say "
            "enable_cache_dit: false"
        )
    return None, None if preset == "none" else preset


def _run_lengths(source: str, values: Any) -> list[int]:
    if not isinstance(values, list) or any(not isinstance(each, int) or each < 0 for each in values):
        raise PolicyError(f"{source}: run lengths of a mask must be whole numbers from 0 on, but are {values!r}")
    return [int(each) for each in values]


def _words(text: str, name: str) -> list[str]:
    """The words of a shell file, without comments; a backslash at the end of a line continues it."""
    lexer = shlex.shlex(_without_comments(text), posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        return list(lexer)
    except ValueError as error:
        raise PolicyError(f"{name}: cannot be read as a shell file: {error}") from error


def _without_comments(text: str) -> str:
    """A shell file in which lines are joined where they go on, and comments are left out, as a shell does.

    A `#` begins a comment at the beginning of a word outside of quotes; a comment does not go on in the next line.
    """
    kept, quote, place = list[str](), "", 0
    while place < len(text):
        sign, following = text[place], text[place : place + 2]
        if following == "\\\n" and quote != "'":
            place += 2
            continue
        if sign == "\\" and quote != "'":
            kept.append(following)
            place += 2
            continue
        if sign == "#" and not quote and (not kept or kept[-1][-1] in " \t\n;&|()"):
            end = text.find("\n", place)
            place = len(text) if end < 0 else end
            continue
        if sign in "'\"" and quote in ("", sign):
            quote = "" if quote else sign
        kept.append(sign)
        place += 1
    return "".join(kept)


def _flag_value(flag: str, text: str, name: str) -> Any:
    """The value of a flag."""
    if flag == "--cache-dit-params":
        return parse_json(text, f"{name}: {flag}", PolicyError)
    if flag == STEPS_FLAG:
        if not (text.isascii() and text.isdigit() and len(text) < 20):
            raise PolicyError(f"{name}: {flag} must be a number of steps, but is {text!r}")
        return int(text)
    return text.lower() not in FALSE or text == ""


def _of_environment(
    settings: Mapping[str, str], name: str, remarks: list[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The knobs of the variables, and those of a second transformer; unknown variables become a remark."""
    knobs: dict[str, Any] = {}
    second: dict[str, Any] = {}
    unknown = []
    for end, text in settings.items():
        own = end.removeprefix(SECOND)
        if own in VARIABLES:
            key, kind = VARIABLES[own]
            (knobs if own == end else second)[key] = _typed(f"{name}: {PREFIX}{end}", text, kind, remarks)
        elif end in MASK_VARIABLES:
            knobs[MASK_VARIABLES[end]] = text
        elif end != "ENABLED":
            unknown.append(PREFIX + end)
    if unknown:
        remarks.append(f"SGLang does not know, and ignores: {', '.join(unknown)}")
    _read_run_lengths(knobs, remarks)
    return knobs, second


def _read_run_lengths(knobs: dict[str, Any], remarks: list[str]) -> None:
    """Numbers in the place of the texts of the two lists, as far as SGLang reads them."""
    keys = ("scm_compute_bins", "scm_cache_bins")
    texts: Sequence[str] = [knobs.pop(key, "") for key in keys]
    if not all(texts):
        if any(texts):
            remarks.append(
                "only one list of run lengths is set: SGLang ignores it, so that the preset or the threshold decides"
            )
        return
    try:
        lists = [[int(each) for each in text.split(",")] for text in texts]
    except ValueError:
        remarks.append("the run lengths of the mask are no numbers with commas between them: SGLang takes no mask")
        knobs["scm_preset"] = "none"
        return
    knobs.update(zip(keys, lists, strict=True))


def _typed(source: str, text: str, kind: type, remarks: list[str]) -> Any:
    """The value of a variable."""
    if kind is bool:
        return _truth(source.rpartition(" ")[2], text, remarks)
    try:
        return kind(text)
    except ValueError:
        raise PolicyError(f"{source} must be a number, but is {text!r}: SGLang stops at it") from None


def _truth(name: str, text: str, remarks: list[str]) -> bool:
    """A variable as SGLang reads it: what it does not understand is false."""
    word = text.strip().lower()
    if word not in (*TRUE, *FALSE):
        remarks.append(f"{name}={text}: SGLang does not understand it, and takes it for false")
    return word in TRUE
