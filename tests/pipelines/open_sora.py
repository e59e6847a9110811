"""Open-Sora 1.2: pabtune's own classes."""

from pabtune.models.open_sora import OpenSoraPipeline
from tests.models.open_sora.test_pipeline import CALL, make_pipeline
from tests.pipelines.parts import Case

CASES = {
    "open-sora-1.2": Case(
        build=make_pipeline,
        call=CALL | {"output_type": "latent"},
        sites={"spatial": 2, "temporal": 2, "cross": 4, "mlp": 4},
        branches=frozenset({("transformer", "cond+uncond")}),
        loader=OpenSoraPipeline,
    ),
}
