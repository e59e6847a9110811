"""What is checked of a search before it generates anything."""

import warnings
from collections.abc import Sequence

from diffusers import DiffusionPipeline

from pabtune.engines.engine import Engine
from pabtune.planning.costs.measured import Measured
from pabtune.planning.layouts import can_share
from pabtune.planning.presets import PRESETS
from pabtune.records.errors import PabtuneWarning, ProfileError, StudyError
from pabtune.records.profiles import Profile
from pabtune.records.splits import Split, normal_text
from pabtune.runtime.compatibility import check_fits
from pabtune.runtime.targets import Target
from pabtune.runtime.weights import weights_digest
from pabtune.tuning.request import SearchConfig
from pabtune.tuning.space import ATTENTION
from pabtune.tuning.study import check_storage


def check_search(
    pipeline: DiffusionPipeline,
    profile: Profile,
    prompts: Split,
    config: SearchConfig,
) -> None:
    """Refuses a search that cannot succeed, before anything is generated.

    Args:
        pipeline: the model that was profiled.
        profile: of it.
        prompts: in three parts.
        config: of the search.

    Raises:
        ProfileError: the profile is of another model, or this one cannot be split so, or not be run by the engine.
        StudyError: the storage cannot be used, trials < 1, a part of the prompts is empty or shares one, or the engine has no
            such thing as is asked for.
        PolicyError: the floor's preset does not fit the model.
    """
    check_storage(config.storage)
    if config.trials < 1:
        raise StudyError(f"a search needs at least 1 trial, but got {config.trials}")
    _check_layout(profile, config)
    if config.engine is not None:
        _check_engine(profile, config, config.engine)
    target = Target.of(pipeline, config.catalog)
    if target.fingerprint() != profile.made_for.fingerprint:
        raise ProfileError(
            f"profile {profile.name!r} is of another model than the one given (its configuration or sites differ); "
            "profile this one first"
        )
    if config.floor is not None and config.floor.preset is not None:
        check_fits(PRESETS[config.floor.preset], target, None)
    weights = profile.provenance.get("weights")
    if weights is not None and weights != weights_digest(pipeline):
        warnings.warn(
            f"profile {profile.name!r} was measured with other weights (another checkpoint, or a LoRA); profile this model to "
            "search with its own measurements",
            PabtuneWarning,
            stacklevel=2,
        )
    parts = {"tune": prompts.tune, "validate": prompts.validate, "test": prompts.test}
    empty = [name for name, part in parts.items() if not part]
    if empty:
        raise StudyError(
            f"a search needs prompts to tune on, to validate and to test with, but none of these falls to {empty[0]}; add "
            "prompts (`pabtune prompts split` shows the parts)"
        )
    seen: set[str] = set()
    for part in parts.values():
        shared = seen & {normal_text(prompt.prompt) for prompt in part}
        if shared:
            raise StudyError(f"the prompt {shared.pop()!r} is in two parts of the split")
        seen |= {normal_text(prompt.prompt) for prompt in part}


def check_contents(prompts: Split, contents: Sequence[str]) -> None:
    """Refuses content classes that lack prompts, before anything is searched for others.

    Args:
        prompts: in three parts.
        contents: content classes that each get a search of their own.

    Raises:
        StudyError: names the first class and the part.
    """
    for content in contents:
        for part, own in prompts.of_content(content).parts().items():
            if not own:
                raise StudyError(
                    f"no prompt of the class {content!r} falls to {part}; add prompts with that `content` (`pabtune prompts "
                    "split` shows the parts), or leave --per-content out"
                )


def _check_layout(profile: Profile, config: SearchConfig) -> None:
    measured = Measured.of(profile, config.layout.gpus, config.catalog)
    if config.layout.axis not in (None, *measured.axes):
        raise ProfileError(
            f"{profile.made_for.model} can be split along {', '.join(measured.axes)}, not along {config.layout.axis}"
        )
    if not can_share(config.layout, measured.axes, measured.frames):
        raise ProfileError(
            f"{measured.frames} frames over {config.layout.sequence} GPUs leave one to each, which this model does not "
            "take"
        )
    if config.layout.branches > measured.branches:
        raise ProfileError(f"profile {profile.name!r} has no guidance branches that GPUs could share")


def _check_engine(profile: Profile, config: SearchConfig, engine: Engine) -> None:
    """Refuses what an engine does not have."""
    asked = {
        "--gpus": config.layout.gpus > 1,
        "--store": config.store not in (None, "exact"),
        "--per-content": config.content is not None,
    }
    for option, is_asked in asked.items():
        if is_asked:
            raise StudyError(f"--for {engine.name}: it has nothing like {option}; leave that out")
    transformers = dict.fromkeys(site.transformer for site in profile.sites)
    if engine.held == "attention":
        if not any(site.kind in ATTENTION for site in profile.sites):
            raise ProfileError(
                f"{engine.name} broadcasts attention, but {profile.made_for.model} has none that is known"
            )
    elif len(transformers) > 1 and not engine.has_masks_by_transformer:
        raise StudyError(
            f"{engine.name} has one mask for {' and '.join(transformers)}, which take turns; search --for cache-dit or "
            "diffusers, which have one for each"
        )
    if engine.is_run and profile.made_for.model not in engine.models:
        warnings.warn(
            f"{profile.made_for.model} was not run in {engine.name} by pabtune's tests; what is measured here may not be what "
            "runs there: compare a video",
            PabtuneWarning,
            stacklevel=2,
        )
