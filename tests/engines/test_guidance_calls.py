import pytest

from pabtune.engines.guidance_calls import guidance_calls
from pabtune.records.policies import Policy
from tests.engines.policies import made_for


@pytest.mark.parametrize(
    ("model", "arguments", "calls"),
    [
        ("WanTransformer3DModel", {}, 2),
        ("WanTransformer3DModel", {"guidance_scale": 1.0}, 1),
        ("CogVideoXTransformer3DModel", {}, 1),
        ("HunyuanVideoTransformer3DModel", {}, 1),
        ("HunyuanVideoTransformer3DModel", {"true_cfg_scale": 6.0}, 1),
        ("HunyuanVideoTransformer3DModel", {"true_cfg_scale": 6.0, "negative_prompt": "blurry"}, 2),
        ("HunyuanVideo15Transformer3DModel", {}, 2),
        ("CosmosTransformer3DModel", {}, 2),
        ("LTX2VideoTransformer3DModel", {}, None),
        ("UnknownTransformer3DModel", {}, None),
    ],
)
def test_calls_of_a_step(model, arguments, calls) -> None:
    policy = Policy(name="p", made_for=made_for(model, settings={"arguments": arguments}))
    assert guidance_calls(policy) == calls
