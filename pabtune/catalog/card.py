"""A card: everything that pabtune knows of one transformer class, as plain data.

Where its sites are, how its pipelines ask for guidance branches, and how a video is split over GPUs. Whoever reads a card
interprets it: `models/sites.py` the sites, `models/guidance.py` the guidance, `parallel/` the split, `planning/costs/` what
a split costs. A card names modules, arguments and properties; it needs neither torch nor diffusers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from pabtune.records.sites import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class SitePattern:
    """A site in every block of a list: `<blocks>.<layer>.<child>`.

    A feeder is skipped with its site, and one token stands in for all that it would return. So it must be a norm-like module
    whose output has the shape of its input and is read by its site alone, and only arithmetic that broadcasts over tokens
    (shift, scale, gate) may lie between the two. That the modules exist is checked when the sites are found; the rest cannot
    be told without a call: `pabtune.testing.check_card` compares a run with one in which no feeder is skipped. Norms that
    also return the gates of their block, such as AdaLayerNormZero, must run: name their inner norm, or none.

    Attributes:
        blocks: path of the list of blocks.
        child: path of the site inside a block; empty if the item of the list is the site.
        kind: what the site computes.
        feeders: paths, inside the block, of modules that only serve the site.
        after: lists of blocks that run before this one; its layers are counted on from theirs.
        optional: blocks may lack it.
    """

    blocks: str
    child: str
    kind: Kind
    feeders: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    optional: bool = False


def sites_in(
    blocks: str, *, after: tuple[str, ...] = (), optional: tuple[str, ...] = (), **children: tuple[str, ...] | str
) -> tuple[SitePattern, ...]:
    """The patterns of one list of blocks, in the order in which a block calls them.

        sites_in("transformer_blocks", attn1=("full", "norm1"), attn2="cross", ff=("mlp", "norm2"))

    Args:
        blocks: path of the list.
        after: lists of blocks that run before this one.
        optional: children that blocks may lack.
        children: `child=kind`, or `child=(kind, feeder, …)`.
    """
    patterns = []
    for child, description in children.items():
        kind, *feeders = (description,) if isinstance(description, str) else description
        patterns.append(
            SitePattern(
                blocks=blocks,
                child=child,
                kind=kind,  # type: ignore[arg-type]
                feeders=tuple(feeders),
                after=after,
                optional=child in optional,
            )
        )
    return tuple(patterns)


@dataclass(frozen=True, slots=True, kw_only=True)
class ByProperties:
    """One call, and a further one for each property of the pipeline that exceeds a value.

    Attributes:
        names: of the properties; one that the pipeline lacks adds nothing.
        above: the value; True counts as 1.
        batched: property under which the first call holds the samples of both usual branches, and each further call half as
            many; empty where all calls are alike.
    """

    names: tuple[str, ...]
    above: float = 0
    batched: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ByCount:
    """As many calls as the pipeline says.

    Attributes:
        attribute: dotted path of the number, from the pipeline, for example `guider.num_conditions`.
    """

    attribute: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ByArguments:
    """A second call where an argument of the pipeline's call exceeds a value and others are given.

    Attributes:
        name: of the argument.
        above: the value.
        given: groups of arguments; of one of them, all must be other than None.
    """

    name: str
    above: float
    given: tuple[tuple[str, ...], ...]


Order = Literal["batched", "sequential", "interleaved"]
"""How guidance branches are asked for. `batched`: all in one call. `sequential`: one call for each, and the pipeline reads
the first result after the last call, so that two GPUs can make one call each (sequential CFG). `interleaved`: the pipeline
makes further calls, and reads or copies a result before the next one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guidance:
    """How the pipelines of a class ask for guidance branches.

    Attributes:
        order: of the calls.
        when: under which further calls are made, from what a pipeline says publicly: its properties, and the arguments of
            its call; None = one call in a step.
    """

    order: Order = "batched"
    when: ByProperties | ByCount | ByArguments | None = None

    def __post_init__(self) -> None:
        if (self.order == "batched") != (self.when is None):
            raise ValueError(
                f"guidance that is {self.order} {'has one call' if self.when else 'needs `when`: what adds a call'}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A tensor with one place for each token of the video, of which each process takes its own.

    Attributes:
        module: path of the module that takes or returns it; `*` for every item of a list, empty for the transformer.
        of: name of the argument, or index among the outputs; of a tuple, every tensor is cut.
        dim: dimension with the tokens.
        ndim: it is cut only if it has this many dimensions, and a place for more than one token; None = always.
        item: of a tuple, the only one that is cut.
    """

    module: str
    of: str | int
    dim: int
    ndim: int | None = None
    item: int | None = None


def argument_cuts(module: str, *names: str, dim: int = 1) -> tuple[Cut, ...]:
    """Cuts of some arguments of a module."""
    return tuple(Cut(module=module, of=name, dim=dim) for name in names)


def rotary_cuts(module: str, dim: int) -> tuple[Cut, ...]:
    """Cuts of the two outputs of a rotary embedding: cosine and sine."""
    return tuple(Cut(module=module, of=index, dim=dim) for index in (0, 1))


class Condition(Protocol):
    """Something under which a split does not hold. Its text names it and says why."""

    def holds(self, config: Mapping[str, Any], pipeline: str, arguments: Mapping[str, Any]) -> bool:
        """Whether it is the case.

        Args:
            config: of the transformer.
            pipeline: class name of the pipeline; empty if unknown.
            arguments: of the transformer's call; empty before it is called.
        """


@dataclass(frozen=True, slots=True)
class WhenConfig:
    """A configuration of the transformer.

    Attributes:
        key: of the configuration.
        value: that it has.
        why: the split does not hold then.
    """

    key: str
    value: Any
    why: str

    def holds(self, config: Mapping[str, Any], pipeline: str, arguments: Mapping[str, Any]) -> bool:
        """Whether the configuration has the value."""
        return bool(config.get(self.key) == self.value)

    def __str__(self) -> str:
        return f"with {self.key} = {self.value!r}: {self.why}"


@dataclass(frozen=True, slots=True)
class WhenPipeline:
    """Pipelines that call the transformer in another way.

    Attributes:
        prefix: with which their class names begin.
        why: the split does not hold then.
    """

    prefix: str
    why: str

    def holds(self, config: Mapping[str, Any], pipeline: str, arguments: Mapping[str, Any]) -> bool:
        """Whether the pipeline is one of them."""
        return pipeline.startswith(self.prefix)

    def __str__(self) -> str:
        return f"called by {self.prefix}…: {self.why}"


@dataclass(frozen=True, slots=True)
class WhenArgument:
    """An argument of the transformer's call, known only when it is called.

    Attributes:
        name: of the argument; None and False count as not given.
        why: the split does not hold then.
    """

    name: str
    why: str

    def holds(self, config: Mapping[str, Any], pipeline: str, arguments: Mapping[str, Any]) -> bool:
        """Whether the argument is given."""
        value = arguments.get(self.name)
        return value is not None and value is not False

    def __str__(self) -> str:
        return f"with {self.name}: {self.why}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSplit:
    """Full attention: the tokens of the whole video are split, and attention is shared by heads.

    Attributes:
        cuts: the tensors that are cut on their way into the network.
        end: path of the module whose output, or the first of its outputs, is gathered; `-1` for the last item of a list.
        dim: dimension of that output with the tokens.
        text_first: in a sequence of text and video, text comes first.
        has_local_mask: attention builds its own mask, over this process' tokens of the video, which are all masked alike; it
            is widened to the tokens of all processes.
        from_diffusers: cuts, end and dimension are those of the class's own plan, `_cp_plan`; for classes whose plan cuts
            the tokens of the video alone.
        unless: conditions under which none of this holds, each with its reason.
    """

    cuts: tuple[Cut, ...] = ()
    end: str = "proj_out"
    dim: int = 1
    text_first: bool = False
    has_local_mask: bool = False
    from_diffusers: bool = False
    unless: tuple[Condition, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.cuts) == self.from_diffusers:
            raise ValueError("a token split needs cuts of its own, or from_diffusers=True, and not both")

    def objections(
        self, config: Mapping[str, Any], pipeline: str = "", arguments: Mapping[str, Any] | None = None
    ) -> tuple[str, ...]:
        """Why the split does not hold; empty if nothing speaks against it.

        Args:
            config: of the transformer.
            pipeline: class name of the pipeline that calls it; empty if unknown.
            arguments: of the transformer's call, if it is made already.
        """
        return tuple(str(each) for each in self.unless if each.holds(config, pipeline, arguments or {}))

    @property
    def depends_on_pipeline(self) -> bool:
        """Whether one must know the pipeline to say that the split holds."""
        return any(isinstance(each, WhenPipeline) for each in self.unless)

    @property
    def depends_on_arguments(self) -> bool:
        """Whether each call of the transformer must be looked at."""
        return any(isinstance(each, WhenArgument) for each in self.unless)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameSplit:
    """Spatial and temporal attention in turns: frames, or the tokens of each frame, are split.

    How such a network is split is code (`parallel/spatial_temporal.py`), for STDiT3 and Latte; a card can only say along
    which axes.

    Attributes:
        axes: that can be split.
    """

    axes: tuple[Literal["frames", "tokens"], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """Everything that pabtune knows of one transformer class.

    Attributes:
        transformer: name of the class.
        sites: patterns of its sites, in the order in which a block calls them.
        guidance: how its pipelines ask for guidance branches.
        split: how a video is split over GPUs; None = the work inside each site is shared (`docs/parallel.md`).
    """

    transformer: str
    sites: tuple[SitePattern, ...]
    guidance: Guidance = Guidance()
    split: TokenSplit | FrameSplit | None = None

    def __post_init__(self) -> None:
        if not self.sites:
            raise ValueError(f"the card of {self.transformer} needs at least one site; see pabtune.SitePattern")
        paths = [(pattern.blocks, pattern.child) for pattern in self.sites]
        twice = [".*.".join(path) for path in dict.fromkeys(paths) if paths.count(path) > 1]
        if twice:
            raise ValueError(f"the card of {self.transformer} names the site {twice[0]} twice")

    @property
    def axes(self) -> tuple[Literal["frames", "tokens"], ...]:
        """Axes of a spatial-temporal model that can be split; none for other models."""
        return self.split.axes if isinstance(self.split, FrameSplit) else ()

    @property
    def token_split(self) -> TokenSplit | None:
        """The split of the tokens of a full-attention model; None for other models."""
        return self.split if isinstance(self.split, TokenSplit) else None
