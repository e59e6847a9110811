import pytest

from pabtune.planning.schedules import NoiseSchedule, carry_window
from pabtune.records.errors import PolicyError


def shifted(steps: int, shift: float = 3.0) -> tuple[float, ...]:
    levels = [1 - step / steps for step in range(steps)]
    return tuple(shift * level / (1 + (shift - 1) * level) for level in levels)


def test_carrying_to_the_same_schedule_changes_nothing() -> None:
    sigmas = shifted(30)
    for window in ((0, 30), (4, 26), (9, 10)):
        assert carry_window(window, sigmas, sigmas) == window


def test_carrying_follows_the_noise_level() -> None:
    start, stop = carry_window((6, 24), shifted(30), shifted(60))
    assert (start, stop) == (12, 48)
    start, stop = carry_window((6, 24), shifted(30), shifted(30, shift=1.0))
    sigmas = shifted(30, shift=1.0)
    assert shifted(30)[24] < sigmas[stop - 1] < sigmas[start] < shifted(30)[5]


def test_wrong_schedules_are_refused() -> None:
    with pytest.raises(PolicyError, match="at least 1 step"):
        NoiseSchedule(steps=0)
    with pytest.raises(PolicyError, match="as many noise levels"):
        NoiseSchedule(steps=3, sigmas=(1.0,))


def test_noise_levels_that_rise_are_not_carried() -> None:
    rising = tuple(step / 10 for step in range(1, 10))
    for levels in ((rising, rising[::-1]), (rising[::-1], rising)):
        with pytest.raises(PolicyError, match="rise from step to step"):
            carry_window((2, 4), *levels)
