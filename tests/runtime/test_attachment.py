from itertools import permutations

import pytest
import torch
from diffusers.hooks import HookRegistry, ModelHook
from torch import nn

from pabtune.libraries.diffusers_internals import hook_names
from pabtune.runtime.attachment import DIRECT_HOOK, DirectHook, attach, copy_without_hooks


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


def test_a_copy_has_no_hooks_and_the_original_keeps_them_all_the_while() -> None:
    module = nn.Sequential(nn.Identity(), nn.Identity())
    attach(module[0], Adding(1), "pabtune_one")
    HookRegistry.check_if_exists_or_initialize(module[1]).register_hook(ModelHook(), "somebody")
    before = [dict(vars(each)) for each in module.modules()]
    copied = copy_without_hooks(module, "pabtune", {})
    assert [dict(vars(each)) for each in module.modules()] == before
    assert (module(X) == 2).all()
    assert (copied(X) == 1).all()
    assert hook_names(copied[0]) == ()
    assert hook_names(copied[1]) == ("somebody",)
    assert not {"forward", DIRECT_HOOK} & set(vars(copied[0]))
