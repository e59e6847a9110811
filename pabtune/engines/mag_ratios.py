"""Engines that run MagCache's rule: any mask as a list of made-up magnitude ratios.

The rule adds up how far products of ratios are from 1, and holds as long as the sum stays within a threshold. With ratios of 1
nothing adds up, with 1000 any threshold is passed; at a threshold of a half, without steps that are kept and with as many held
steps as there are, the list says the mask. All blocks are held.
"""

import json
from collections.abc import Mapping
from typing import Any

from pabtune.engines.export import Export, export_of, facts_of
from pabtune.engines.plan import Plan
from pabtune.engines.step_masks import StepMask

COMPUTE, HOLD, THRESHOLD = 1000.0, 1.0, 0.5

REGISTERED_BY_USERS: Mapping[str, str] = {
    "AllegroTransformer3DModel": "transformer_blocks[0]), TransformerBlockMetadata(return_hidden_states_index=0)",
    "SkyReelsV2Transformer3DModel": "blocks[0]), TransformerBlockMetadata(return_hidden_states_index=0)",
    "HunyuanVideo15Transformer3DModel": (
        "transformer_blocks[0]), TransformerBlockMetadata(\n"
        "    return_hidden_states_index=0, return_encoder_hidden_states_index=1)"
    ),
}
"""Transformers whose blocks diffusers 0.42.1 must be told of: a block, and what it returns."""


def ratios(mask: StepMask) -> list[float]:
    """The ratios that say a mask."""
    return [COMPUTE if computes else HOLD for computes in mask.computes]


def _lines(document: dict[str, Any]) -> str:
    """JSON with a line for each key."""
    lines = (f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in document.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def write_diffusers(plan: Plan) -> Export:
    """Arguments of diffusers' `MagCacheConfig`, for each transformer that holds anything."""
    document: dict[str, Any] = {
        mask.transformer: {
            "threshold": THRESHOLD,
            "max_skip_steps": len(mask.computes),
            "retention_ratio": 0.0,
            "num_inference_steps": len(mask.computes),
            "mag_ratios": ratios(mask),
        }
        for mask in plan.masks
        if mask.held
    }
    told = REGISTERED_BY_USERS.get(plan.policy.made_for.model or "")
    registering = (
        "from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry\n"
        f"TransformerBlockRegistry.register(type(pipe.transformer.{told})\n"
    )
    use = (
        f"import json\nfrom diffusers import MagCacheConfig\n{registering if told else ''}"
        'for name, arguments in json.load(open("policy.json")).items():\n'
        "    getattr(pipe, name).enable_cache(MagCacheConfig(**arguments))"
    )
    return export_of(plan, document, _lines(document), use, ".json")


def write_lightx2v(plan: Plan) -> Export:
    """Keys of LightX2V's configuration, for the model class `Mag`: one list for each guidance branch, over all steps."""
    both = [ratio for mask in plan.masks for ratio in ratios(mask)]
    config: dict[str, Any] = {
        "infer_steps": plan.steps,
        "enable_cfg": plan.calls != 1,
        "feature_caching": "Mag",
        "magcache_calibration": False,
        "magcache_K": plan.steps,
        "magcache_thresh": THRESHOLD,
        "magcache_retention_ratio": 0.0,
        "magcache_ratios": [both, both],
    }
    losses = [f"not expressed: {each}" for each in plan.losses]
    document = {"_comment": [*facts_of(plan), *losses], **config}
    use = "merge these keys into the file that you give as --config_json"
    return export_of(plan, document, _lines(document), use, ".json")
