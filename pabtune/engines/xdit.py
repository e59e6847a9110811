"""xDiT (xfuser 0.7.0): cache-dit's static mask as the JSON of `--cache_config`.

Its presets are switched off by name, as they would bring a mask and TaylorSeer of their own. Unknown keys are refused there,
so the file has no comments. Its TaylorSeer is always of order 1.
"""

import json
from typing import Any

from pabtune.engines.export import Export, export_of
from pabtune.engines.plan import Plan


def write(plan: Plan) -> Export:
    """The argument of `--cache_config`."""
    mask = max(plan.masks, key=lambda each: len(each.computes))
    config: dict[str, Any] = {
        "Fn_compute_blocks": 1,
        "Bn_compute_blocks": 0,
        "max_warmup_steps": 1,
        "scm_policy": None,
        "enable_taylorseer": mask.is_line,
        "enable_encoder_calibrator": mask.is_line,
        "steps_computation_mask": mask.bits,
        "steps_computation_policy": "static",
    }
    if plan.calls is not None:
        config["enable_separate_cfg"] = plan.calls == 2
    use = f'xdit … --num_inference_steps {plan.steps} --cache_method dbcache --cache_config "$(cat policy.json)"'
    return export_of(plan, config, json.dumps(config) + "\n", use, ".json")
