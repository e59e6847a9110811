"""cache-dit 1.5 (https://github.com/vipshop/cache-dit): a static steps computation mask of DBCache, F1B0.

Block 0 of each list of blocks always runs; at a step whose mask is 0 the others add the residual that they added at the last
computed step, without a look at any threshold. With TaylorSeer of order 1 they add the line through the last two, over steps.
A file has one mask; two transformers get a Python module, as only `params_modifiers` give each a mask of its own. The key
`cache_type` is left out: as text, which is all that YAML has, 1.5.3 refuses it.
"""

from typing import Any

import yaml

from pabtune.engines.export import Export, export_of, header
from pabtune.engines.plan import Plan
from pabtune.engines.step_masks import StepMask

MODULE = '''import cache_dit

CONFIGS = {configs}


def enable(pipe):
    """Enables the policy on a pipeline."""
    loaded = [cache_dit.load_configs({{"cache_config": each}}) for each in CONFIGS.values()]
    modifiers = [cache_dit.ParamsModifier(**each) for each in loaded]
    return cache_dit.enable_cache(pipe, params_modifiers=modifiers, **loaded[0])
'''


def cache_config(plan: Plan, mask: StepMask) -> dict[str, Any]:
    """The section `cache_config` for one transformer.

    Args:
        plan: what the engine is to do.
        mask: of the transformer.
    """
    config: dict[str, Any] = {
        "Fn_compute_blocks": 1,
        "Bn_compute_blocks": 0,
        "max_warmup_steps": 1,
        "max_cached_steps": -1,
        "max_continuous_cached_steps": -1,
        "residual_diff_threshold": 0.08,  # static masks do not ask it, but a loader may
        "num_inference_steps": len(mask.computes),
        "steps_computation_mask": mask.bits,
        "steps_computation_policy": "static",
    }
    if plan.calls is not None:
        config["enable_separate_cfg"] = plan.calls == 2
    if mask.is_line:
        # of the text too, which goes into the next list of blocks, where there is one
        config |= {"enable_taylorseer": True, "enable_encoder_taylorseer": True, "taylorseer_order": 1}
    return config


def write(plan: Plan) -> Export:
    """The configuration as YAML, or for two transformers as a Python module."""
    configs = {mask.transformer: cache_config(plan, mask) for mask in plan.masks}
    if plan.calls is None:
        plan = plan.with_loss(
            "guidance: whether a step calls the transformer once or twice is not known; cache-dit goes by the pipeline's "
            "class unless --calls says it"
        )
    if len(configs) > 1:
        use = "from policy import enable\nenable(pipe)"
        lines = ",\n".join(f"    {name!r}: {config!r}" for name, config in configs.items())
        text = header(plan, use) + MODULE.format(configs=f"{{\n{lines},\n}}")
        return export_of(plan, configs, text, use, ".py")
    (config,) = configs.values()
    use = 'import cache_dit\ncache_dit.enable_cache(pipe, **cache_dit.load_configs("policy.yaml"))'
    body = yaml.safe_dump({"cache_config": config}, sort_keys=False, default_flow_style=None, width=10_000)
    return export_of(plan, {"cache_config": config}, header(plan, use) + body, use, ".yaml")
