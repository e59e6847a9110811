import diffusers
import pytest
from torch import nn

from pabtune.models import site_tables
from pabtune.models.site_tables import SITE_TABLE, SitePattern, known_patterns, register_sites


@pytest.fixture(autouse=True)
def _nothing_registered(monkeypatch) -> None:
    monkeypatch.setattr(site_tables, "_registered", {})


class Mine(nn.Module):
    """A transformer of one's own."""


ATTENTION = SitePattern(blocks="blocks", child="attn", kind="full")


@pytest.mark.parametrize("key", [Mine, "Mine"])
def test_a_registered_class_joins_the_table(key) -> None:
    register_sites(key, ATTENTION)
    assert known_patterns()["Mine"] == (ATTENTION,)
    assert known_patterns().keys() == SITE_TABLE.keys() | {"Mine"}


def test_an_entry_of_ones_own_replaces_the_tables() -> None:
    register_sites("WanTransformer3DModel", ATTENTION)
    assert known_patterns()["WanTransformer3DModel"] == (ATTENTION,)
    assert len(SITE_TABLE["WanTransformer3DModel"]) == 3


def test_a_class_without_patterns_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one pattern"):
        register_sites(Mine)
    assert known_patterns() == SITE_TABLE


def test_a_site_with_state_has_no_feeders() -> None:
    with pytest.raises(ValueError, match="has no feeders"):
        SitePattern(blocks="layers", child="attn1", kind="full", feeders=("norm1",), state=("kv_cache",))


@pytest.mark.parametrize("name", [name for name in SITE_TABLE if not name.startswith(("STDiT3", "LatteT2V"))])
def test_every_class_of_the_table_is_one_of_diffusers(name) -> None:
    assert hasattr(diffusers, name)


def test_no_pattern_names_a_site_twice() -> None:
    for patterns in SITE_TABLE.values():
        paths = [(pattern.blocks, pattern.child) for pattern in patterns]
        assert len(paths) == len(set(paths))
