"""Policies as verbs take them: presets, files of pabtune's own, and configurations of other engines, told by their content."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pabtune.cli.output import say
from pabtune.engines.reading.configuration import Configuration
from pabtune.engines.reading.files import read_configuration
from pabtune.planning.presets import PRESETS, find_policy
from pabtune.records.policies import Policy

HELP = (
    "Preset, policy file, or what another engine runs today: a cache-dit YAML, SGLang's settings, a cache of diffusers."
)


def find_choice(name: str, model: str | None = None, steps: int | None = None) -> Policy | Configuration:
    """What a name stands for: a policy, or the configuration of another engine.

    Args:
        name: as `find_policy` takes it, or a file of another engine.
        model: name of the model that will run it.
        steps: denoising steps of the run; None = unknown.

    Raises:
        PolicyError: neither, and which forms of files there are; or a configuration for another number of steps.
    """
    if name not in PRESETS and os.path.isfile(name):
        configuration = read_configuration(Path(name))
        if configuration is not None:
            if steps is not None:
                configuration.check_steps(steps)
            return configuration
    return find_policy(name, model)


def check_content_of(choice: Policy | Configuration, content: str | None) -> None:
    """Refuses a content class that a policy does not know; another engine's file knows none.

    Raises:
        PolicyError: says what there is.
    """
    (choice if isinstance(choice, Policy) else Policy(name=choice.name)).choices(content)


def policies_only(choices: Iterable[Policy | Configuration]) -> list[Policy]:
    """Those that are pabtune's own."""
    return [each for each in choices if isinstance(each, Policy)]


def made_for_pipeline(choices: Iterable[Policy | Configuration], pipeline: Any, steps: int) -> list[Any]:
    """Policies for a pipeline, in the order of the choices; says what an engine would do otherwise.

    Args:
        choices: of `find_choice`.
        pipeline: the model.
        steps: denoising steps of the run.

    Raises:
        PolicyError: a configuration is for another number of steps, or does not fit the model.
    """
    from pabtune.methods.engine_files import engine_policy
    from pabtune.runtime.targets import Target

    policies: list[Any] = []
    for choice in choices:
        if isinstance(choice, Policy):
            policies.append(choice)
            continue
        judged = engine_policy(choice, Target.of(pipeline), steps)
        for remark in judged.remarks:
            say(f"{choice.name}: {remark}")
        policies.append(judged.policy)
    return policies


def read_document(choice: Policy | Configuration) -> Mapping[str, Any]:
    """What was read of another engine's file, for `--json`."""
    return {"read": choice.to_document()} if isinstance(choice, Configuration) else {}
