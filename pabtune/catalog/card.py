"""Cards: everything that pabtune knows of a transformer class, as plain data.

A card describes the sites of the class, how its pipelines call it for guidance, and how a video is split over GPUs. It names
modules, arguments and properties, and needs neither torch nor diffusers. It is interpreted elsewhere: sites in
`models/sites.py`, guidance in `models/guidance.py`, the split in `parallel/`, and the cost of a split in `planning/costs/`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from pabtune.records.sites import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class SitePattern:
    """Pattern of a site in every block of a list: `<blocks>.<layer>.<child>`.

    A feeder is skipped with its site and then returns a single token. So it must be a norm-like module whose output has the
    shape of its input and is read by its site alone, and only arithmetic that broadcasts over tokens (shift, scale, gate) may
    lie between the two. That the modules exist is checked when the sites are found. The rest cannot be checked without a
    call: `pabtune.testing.check_card` compares a run with one in which no feeder is skipped. Norms that also return the gates
    of their block, such as AdaLayerNormZero, must run: name their inner norm as the feeder, or none.

    Attributes:
        blocks: path of the list of blocks.
        child: path of the site inside a block; empty if the list items are the sites.
        kind: what the site computes.
        feeders: paths, inside the block, of modules that only serve the site.
        after: lists of blocks that run before this one; layer numbers continue from theirs.
        optional: whether blocks may lack the site.
    """

    blocks: str
    child: str
    kind: Kind
    feeders: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    optional: bool = False

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"a site is one of {', '.join(get_args(Kind))}, not {self.kind!r}")


def sites_in(
    blocks: str, *, after: tuple[str, ...] = (), optional: tuple[str, ...] = (), **children: tuple[str, ...] | str
) -> tuple[SitePattern, ...]:
    """Site patterns of one list of blocks, in the order in which a block calls the sites.

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
    """One call per step, and a further one for each property of the pipeline that exceeds a threshold.

    Attributes:
        names: names of the properties; one that the pipeline lacks adds no call.
        above: the threshold; True counts as 1.
        batched: property that, if true, puts both usual branches into the first call, so that each further call has half as
            many samples; empty if all calls have equally many.
    """

    names: tuple[str, ...]
    above: float = 0
    batched: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ByCount:
    """Number of calls per step, read from an attribute of the pipeline.

    Attributes:
        attribute: dotted path of the attribute from the pipeline, for example `guider.num_conditions`.
    """

    attribute: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ByArguments:
    """A second call per step if an argument of the pipeline's call exceeds a threshold and certain others are present.

    Attributes:
        name: name of the argument.
        above: the threshold.
        given: groups of arguments; in at least one group, no argument may be None.
    """

    name: str
    above: float
    given: tuple[tuple[str, ...], ...]


Order = Literal["batched", "sequential", "interleaved"]
"""Order of the calls for guidance branches. `batched`: all branches in one call. `sequential`: one call per branch, and the
pipeline reads the results after the last one, so that two GPUs can make one call each (sequential CFG). `interleaved`: several
calls, and the pipeline reads or copies each result before the next one."""

Place = Literal["first", "last"]
"""Where the conditional branch is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guidance:
    """How the pipelines of a class call it for guidance branches.

    Attributes:
        order: order of the calls.
        when: rule for the number of calls per step, from public properties of the pipeline and the arguments of its call;
            None = one call per step.
        conditional: which branch is the conditional one where the pipeline does not name its calls: which half of a batched
            call, or which of two calls; None = the class has no branches, or all of its pipelines name their calls.
    """

    order: Order = "batched"
    when: ByProperties | ByCount | ByArguments | None = None
    conditional: Place | None = None

    def __post_init__(self) -> None:
        if self.order not in get_args(Order):
            raise ValueError(f"guidance is {', '.join(get_args(Order))}, not {self.order!r}")
        if self.conditional not in (*get_args(Place), None):
            raise ValueError(f"the conditional branch is {' or '.join(get_args(Place))}, not {self.conditional!r}")
        if (self.order == "batched") != (self.when is None):
            raise ValueError(
                f"guidance that is {self.order} {'has one call' if self.when else 'needs `when`: what adds a call'}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A tensor with one entry per token of the video, of which each process takes its part.

    Attributes:
        module: path of the module that takes or returns the tensor; `*` for every item of a list, empty for the transformer.
        of: name of the argument, or index among the outputs; in a tuple, every tensor is cut.
        dim: dimension of the tokens.
        ndim: cut the tensor only if it has this many dimensions, and more than one entry along `dim`; None = always.
        item: index of the only item of a tuple that is cut; None = all.
    """

    module: str
    of: str | int
    dim: int
    ndim: int | None = None
    item: int | None = None


def argument_cuts(module: str, *names: str, dim: int = 1) -> tuple[Cut, ...]:
    """Cuts of several arguments of a module along the same dimension."""
    return tuple(Cut(module=module, of=name, dim=dim) for name in names)


def rotary_cuts(module: str, dim: int) -> tuple[Cut, ...]:
    """Cuts of the two outputs of a rotary embedding, cosine and sine."""
    return tuple(Cut(module=module, of=index, dim=dim) for index in (0, 1))


class Condition(Protocol):
    """Condition under which a split is not valid. Its text (`str`) names it and gives the reason."""

    def holds(self, config: Mapping[str, Any], pipeline: str, arguments: Mapping[str, Any]) -> bool:
        """Whether the condition is met.

        Args:
            config: configuration of the transformer.
            pipeline: class name of the pipeline; empty if unknown.
            arguments: arguments of the transformer's call; empty before it is called.
        """


@dataclass(frozen=True, slots=True)
class WhenConfig:
    """Condition on the configuration of the transformer.

    Attributes:
        key: configuration key.
        value: value that meets the condition.
        why: reason why the split is not valid then.
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
    """Condition on the pipeline that calls the transformer.

    Attributes:
        prefix: prefix of the class names of the pipelines that meet the condition.
        why: reason why the split is not valid then.
    """

    prefix: str
    why: str

    def holds(self, config: Mapping[str, Any], pipeline: str, arguments: Mapping[str, Any]) -> bool:
        """Whether the pipeline's class name has the prefix."""
        return pipeline.startswith(self.prefix)

    def __str__(self) -> str:
        return f"called by {self.prefix}…: {self.why}"


@dataclass(frozen=True, slots=True)
class WhenArgument:
    """Condition on an argument of the transformer's call, known only at the call.

    Attributes:
        name: name of the argument; None and False count as absent.
        why: reason why the split is not valid then.
    """

    name: str
    why: str

    def holds(self, config: Mapping[str, Any], pipeline: str, arguments: Mapping[str, Any]) -> bool:
        """Whether the argument is present."""
        value = arguments.get(self.name)
        return value is not None and value is not False

    def __str__(self) -> str:
        return f"with {self.name}: {self.why}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSplit:
    """Split of the sequence of all video tokens, for full attention; attention itself is split by heads (Ulysses).

    Attributes:
        cuts: tensors that are cut on their way into the network.
        end: path of the module whose first output is gathered; `-1` for the last item of a list.
        dim: dimension of the tokens in that output.
        text_first: whether text comes first in a joint sequence of text and video.
        has_local_mask: whether attention builds its own mask, over this process' tokens of the video, which are all masked
            alike; it is widened to the tokens of all processes.
        from_diffusers: whether cuts, end and dimension come from the class's `_cp_plan`; for classes whose plan cuts the
            tokens of the video alone.
        unless: conditions under which the split is not valid, each with its reason.
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
        """Reasons why the split is not valid; empty if it is.

        Args:
            config: configuration of the transformer.
            pipeline: class name of the pipeline that calls it; empty if unknown.
            arguments: arguments of the transformer's call; None before the call.
        """
        return tuple(str(each) for each in self.unless if each.holds(config, pipeline, arguments or {}))

    @property
    def depends_on_pipeline(self) -> bool:
        """Whether the validity of the split depends on the pipeline."""
        return any(isinstance(each, WhenPipeline) for each in self.unless)

    @property
    def depends_on_arguments(self) -> bool:
        """Whether the validity of the split depends on the arguments of each call."""
        return any(isinstance(each, WhenArgument) for each in self.unless)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameSplit:
    """Split of frames, or of the tokens of each frame, for alternating spatial and temporal attention (DSP).

    How such a network is split is code (`parallel/spatial_temporal.py`, for STDiT3 and Latte); a card only lists the axes.

    Attributes:
        axes: axes that can be split.
    """

    axes: tuple[Literal["frames", "tokens"], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """Everything that pabtune knows of one transformer class.

    Attributes:
        transformer: name of the class.
        sites: patterns of its sites, in the order in which a block calls them.
        guidance: how its pipelines call it for guidance branches.
        split: how a video is split over GPUs; None = the work inside each site is split (`docs/parallel.md`).
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
        """Axes of a spatial-temporal model that can be split; empty for other models."""
        return self.split.axes if isinstance(self.split, FrameSplit) else ()

    @property
    def token_split(self) -> TokenSplit | None:
        """Token split of a full-attention model; None for other models."""
        return self.split if isinstance(self.split, TokenSplit) else None
