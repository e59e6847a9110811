"""SGLang-diffusion 0.5.23: cache-dit's static mask as runs of steps, for a server by its environment or for a request.

Runs of steps that compute and that are held take turns, in two lists; together they must cover all steps. Both transformers of
a model get the same lists, each cut to its own steps. A mask without held steps would switch on caching by threshold, so that
then the cache is switched off.
"""

import json
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from pabtune.engines.export import Export, export_of, header
from pabtune.engines.plan import Plan

PREFIX = "SGLANG_CACHE_DIT_"


def bins(mask: Sequence[int]) -> tuple[list[int], list[int]]:
    """Lengths of the runs that compute and of those that are held, which follow one another.

    Args:
        mask: 1 = compute, 0 = hold; the first is 1.
    """
    runs = [(bit, len(list(run))) for bit, run in groupby(mask)]
    return [length for bit, length in runs if bit], [length for bit, length in runs if not bit]


def request_parameters(plan: Plan) -> dict[str, Any]:
    """The fields of one request.

    Args:
        plan: what the engine is to do, with one mask for all transformers.
    """
    mask = max(plan.masks, key=lambda each: len(each.computes))
    computed, held = bins(mask.bits)
    if not held:
        return {"enable_cache_dit": False}
    parameters = {
        "Fn_compute_blocks": 1, "Bn_compute_blocks": 0, "max_warmup_steps": 1, "scm_compute_bins": computed,
        "scm_cache_bins": held, "scm_policy": "static", "enable_taylorseer": mask.is_line,
    }  # fmt: skip
    if mask.is_line:
        parameters["taylorseer_order"] = 1
    return {"enable_cache_dit": True, "cache_dit_params": parameters}


def environment(parameters: dict[str, Any]) -> dict[str, str]:
    """The environment of a server that does the same for every request.

    Args:
        parameters: of a request.
    """
    if not parameters["enable_cache_dit"]:
        return {f"{PREFIX}ENABLED": "false"}
    given = parameters["cache_dit_params"]
    variables = {
        "ENABLED": "true",
        "FN": "1",
        "BN": "0",
        "WARMUP": "1",
        "TAYLORSEER": str(given["enable_taylorseer"]).lower(),
        "TS_ORDER": "1",
        "SCM_COMPUTE_BINS": ",".join(map(str, given["scm_compute_bins"])),
        "SCM_CACHE_BINS": ",".join(map(str, given["scm_cache_bins"])),
        "SCM_POLICY": "static",
    }
    return {f"{PREFIX}{name}": value for name, value in variables.items()}


def write(plan: Plan) -> Export:
    """The environment of a server; the fields of a request stand in a comment."""
    parameters = request_parameters(plan)
    variables = environment(parameters)
    use = f"set -a; . ./policy.env; set +a; sglang serve … with requests of {plan.steps} steps"
    comments = header(plan, use) + f"# of one request instead: {json.dumps(parameters)}\n"
    text = comments + "".join(f"{name}={value}\n" for name, value in variables.items())
    return export_of(plan, {"environment": variables, "request": parameters}, text, use, ".env")
