import pytest

from pabtune.catalog.card import (
    ByCount,
    ByProperties,
    Cut,
    FrameSplit,
    Guidance,
    ModelCard,
    SitePattern,
    TokenSplit,
    WhenArgument,
    WhenConfig,
    WhenPipeline,
    argument_cuts,
    rotary_cuts,
    sites_in,
)

SITES = sites_in("blocks", attn="full")


def test_the_sites_of_a_list_in_words() -> None:
    assert sites_in("blocks", after=("first",), optional=("mlp",), attn=("full", "norm1", "norm2"), mlp="mlp") == (
        SitePattern(blocks="blocks", child="attn", kind="full", feeders=("norm1", "norm2"), after=("first",)),
        SitePattern(blocks="blocks", child="mlp", kind="mlp", after=("first",), optional=True),
    )


def test_cuts_in_words() -> None:
    assert argument_cuts("blocks.0", "x", "y", dim=2) == (
        Cut(module="blocks.0", of="x", dim=2),
        Cut(module="blocks.0", of="y", dim=2),
    )
    assert [cut.of for cut in rotary_cuts("rope", dim=0)] == [0, 1]


def test_a_card_needs_sites_each_once() -> None:
    with pytest.raises(ValueError, match="the card of Mine needs at least one site"):
        ModelCard(transformer="Mine", sites=())
    with pytest.raises(ValueError, match=r"the card of Mine names the site blocks\.\*\.attn twice"):
        ModelCard(transformer="Mine", sites=(*SITES, *SITES))


def test_further_calls_need_a_rule_and_a_single_one_has_none() -> None:
    with pytest.raises(ValueError, match="guidance that is sequential needs `when`"):
        Guidance(order="sequential")
    with pytest.raises(ValueError, match="guidance that is batched has one call"):
        Guidance(when=ByProperties(names=("guides",)))


def test_a_token_split_says_what_is_cut() -> None:
    for arguments in ({}, {"from_diffusers": True, "cuts": argument_cuts("blocks.0", "x")}):
        with pytest.raises(ValueError, match="a token split needs cuts of its own, or from_diffusers=True"):
            TokenSplit(**arguments)


def test_what_speaks_against_a_split_is_said_with_its_reason() -> None:
    split = TokenSplit(
        from_diffusers=True,
        unless=(
            WhenConfig("attention_type", "nabla", "it looks around"),
            WhenPipeline("Forcing", "frames differ"),
            WhenArgument("mask", "no masks"),
        ),
    )
    assert split.objections({}) == ()
    assert split.objections({"attention_type": "full"}, "Plain", {"mask": None}) == ()
    assert split.objections({}, arguments={"mask": False}) == ()
    assert split.objections({"attention_type": "nabla"}, "ForcingPipeline", {"mask": 0}) == (
        "with attention_type = 'nabla': it looks around",
        "called by Forcing…: frames differ",
        "with mask: no masks",
    )
    assert split.depends_on_arguments
    assert split.depends_on_pipeline
    assert not TokenSplit(from_diffusers=True).depends_on_arguments
    assert not TokenSplit(from_diffusers=True).depends_on_pipeline


def test_a_card_has_one_split() -> None:
    tokens, frames = TokenSplit(from_diffusers=True), FrameSplit(axes=("frames",))
    cards = [ModelCard(transformer="Mine", sites=SITES, split=split) for split in (tokens, frames, None)]
    assert [(card.token_split, card.axes) for card in cards] == [(tokens, ()), (None, ("frames",)), (None, ())]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: Guidance(order="seq", when=ByCount(attribute="n")),
            "guidance is batched, .*, not 'seq'",
        ),
        (lambda: Guidance(conditional="First"), "the conditional branch is first or last, not 'First'"),
        (lambda: sites_in("blocks", attn1="ful"), "not 'ful'"),
    ],
)
def test_words_that_a_card_does_not_know_are_refused(make, said) -> None:
    """They were taken for another one, in silence: the wrong half of a call was broadcast."""
    with pytest.raises(ValueError, match=said):
        make()
