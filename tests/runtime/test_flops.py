from pabtune.runtime.flops import count_flops
from pabtune.runtime.targets import Target
from tests.conftest import draw


def test_sites_are_counted_exactly(pipeline) -> None:
    target = Target.of(pipeline)
    count = count_flops(target, lambda: draw(pipeline, num_inference_steps=3))
    D, T, S, L, B, h = 24, 8, 36, 24, 2, 2
    N = T * S
    for site, flops in zip(target.sites, count.sites, strict=True):
        expected = {
            "spatial": 8 * B * N * D * D + 4 * B * N * S * D,
            "temporal": 8 * B * N * D * D + 4 * B * N * T * D,
            "cross": 4 * B * N * D * D + 4 * B * L * D * D + 4 * B * N * L * D,
            "mlp": 16 * B * N * D * D,
        }[site.kind]
        assert flops == expected, site.name
    assert sum(count.sites) < count.total < 1.5 * sum(count.sites)
    assert h == pipeline.transformer.config.num_heads
