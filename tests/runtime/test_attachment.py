from itertools import permutations

import pytest
import torch
from diffusers.hooks import HookRegistry, ModelHook
from torch import nn

from pabtune.libraries.diffusers_internals import hook_names
from pabtune.runtime.attachment import DIRECT_HOOK, DirectHook, attach, set_aside


class Adding(DirectHook):
    """Adds a number to the output."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = number

    def new_forward(self, module, *args, **kwargs):
        return self.compute(module, args, kwargs) + self.number


X = torch.ones(1, 2)


@pytest.mark.parametrize("order", permutations(range(3)))
@pytest.mark.parametrize("had_registry", [True, False])
def test_hooks_come_off_in_any_order_and_leave_no_trace(order, had_registry) -> None:
    module = nn.Identity()
    if had_registry:  # as a run of diffusers leaves one
        HookRegistry.check_if_exists_or_initialize(module)
    before = set(vars(module))
    detach = [attach(module, Adding(10**place), f"pabtune_{place}") for place in range(3)]
    expected = 1 + 111
    assert (module(X) == expected).all()
    for place in order:
        detach[place]()
        expected -= 10**place
        assert (module(X) == expected).all()
    assert set(vars(module)) == before


def test_a_hook_alone_is_called_without_anything_between() -> None:
    module = nn.Identity()
    detach = attach(module, Adding(1), "pabtune_alone")
    assert module.forward.__func__.__name__ == "call_directly"
    assert DIRECT_HOOK in vars(module)
    detach()
    other = nn.Identity()
    HookRegistry.check_if_exists_or_initialize(other).register_hook(ModelHook(), "somebody")
    detach = attach(other, Adding(1), "pabtune_second")
    assert DIRECT_HOOK not in vars(other)
    assert (other(X) == 2).all()
    detach()
    assert hook_names(other) == ("somebody",)


def test_hooks_are_set_aside_for_a_copy_and_are_back_afterwards() -> None:
    module = nn.Sequential(nn.Identity(), nn.Identity())
    attach(module[0], Adding(1), "pabtune_one")
    HookRegistry.check_if_exists_or_initialize(module[1]).register_hook(ModelHook(), "somebody")
    with set_aside(module, "pabtune"):
        assert (module(X) == 1).all()
        assert hook_names(module[0]) == ()
        assert hook_names(module[1]) == ("somebody",)
    assert (module(X) == 2).all()
