import pytest

from pabtune.records.sites import KINDS, Site


def test_names_are_unique_across_transformers() -> None:
    first = Site(path="blocks.0.attn", kind="spatial", layer=0)
    second = Site(transformer="transformer_2", path="blocks.0.attn", kind="spatial", layer=0)
    assert first.name == "transformer.blocks.0.attn" != second.name
    assert "spatial" in KINDS


def test_a_site_is_read_as_it_was_written() -> None:
    site = Site(path="a.blocks.3.attn", kind="full", layer=3, block="a.blocks.3", feeders=("a.blocks.3.norm",))
    assert Site.from_document(site.to_document()) == site


@pytest.mark.parametrize(
    ("path", "block"),
    [("blocks.3.attn", "blocks.3"), ("a.blocks.3.ff.net", "a.blocks.3"), ("perceivers.0", ""), ("attn", "")],
)
def test_a_document_without_its_block_tells_it_by_the_path(path, block) -> None:
    document = Site(path=path, kind="full", layer=0).to_document()
    del document["block"]
    assert Site.from_document(document).block == block
