import pytest
from torch import nn

from pabtune.models.site_tables import find_sites
from pabtune.records.errors import ModelError
from tests.conftest import make_transformer


def test_every_block_has_its_sites() -> None:
    sites = find_sites(make_transformer())
    assert len(sites) == 12 == len({site.name for site in sites})
    kinds = [site.kind for site in sites]
    assert {kind: kinds.count(kind) for kind in kinds} == {"spatial": 2, "temporal": 2, "cross": 4, "mlp": 4}
    by_path = {site.path: site for site in sites}
    assert by_path["temporal_blocks.1.attn"].kind == "temporal"
    assert by_path["temporal_blocks.1.attn"].feeders == ("temporal_blocks.1.norm1",)
    assert by_path["spatial_blocks.0.cross_attn"].feeders == ()


def test_unknown_and_changed_models_are_errors() -> None:
    with pytest.raises(ModelError, match="no sites are known for Linear; known transformers: STDiT3"):
        find_sites(nn.Linear(1, 1))
    broken = make_transformer()
    del broken.spatial_blocks[1].mlp
    with pytest.raises(ModelError, match="lacks the module 'spatial_blocks.1.mlp'"):
        find_sites(broken)
