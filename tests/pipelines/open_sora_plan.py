"""Open-Sora-Plan v1.1: pabtune's own classes."""

from pabtune.models.open_sora_plan import OpenSoraPlanPipeline
from tests.models.open_sora_plan.test_pipeline import CALL, make_pipeline
from tests.pipelines.parts import Case

CASES = {
    "open-sora-plan-1.1": Case(
        build=make_pipeline,
        call=CALL | {"output_type": "latent"},
        sites={"spatial": 2, "temporal": 2, "cross": 2, "mlp": 4},
        branches=frozenset({("transformer", "cond+uncond")}),
        loader=OpenSoraPlanPipeline,
    ),
}
