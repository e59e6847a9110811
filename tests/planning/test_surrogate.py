"""The surrogate against runs of a small system whose errors can be computed."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from pabtune.planning.surrogate import Surrogate, best_schedule, consensus, solve

STEPS, SIZE, PROMPTS = 8, 40, 3


class System:
    """A linear network y = A[i] x + b[i]: what the surrogate assumes of errors holds for its scalar part exactly."""

    def __init__(self, response: float) -> None:
        rng = np.random.default_rng(0)
        self.rates, self.response = np.full(STEPS, -0.1), response
        drift = np.cumsum(rng.normal(size=(STEPS, PROMPTS, SIZE)), axis=0)
        self.forced = drift + 0.3 * rng.normal(size=drift.shape)
        self.start = rng.normal(size=(PROMPTS, SIZE))
        self.latents, self.outputs = self.run(range(STEPS), None)

    def run(self, computed, factors):
        latents, outputs, history = [self.start], [], []
        for step in range(STEPS):
            if step in set(computed):
                history.append(self.response * latents[-1] + self.forced[step])
                served = history[-1]
            else:
                served = history[-1].copy()
                for back, factor in enumerate(factors[step], start=1):
                    served = served + factor * (history[-back] - history[-back - 1])
            outputs.append(served)
            latents.append(latents[-1] + self.rates[step] * served)
        return latents, np.array(outputs)

    def surrogate(self) -> Surrogate:
        flat = self.outputs.transpose(1, 0, 2)
        move = 1 + self.rates * self.response
        gains = np.array([np.prod(move[step + 1 :]) for step in range(STEPS)])
        return Surrogate(
            products=flat @ flat.transpose(0, 2, 1) / SIZE,
            keeps=np.ones(STEPS),
            rates=self.rates,
            gains=np.tile(gains, (PROMPTS, 1)),
        )


@pytest.mark.parametrize("response", [0.0, -2.0, 1.5])
def test_errors_are_those_of_the_run(response) -> None:
    system = System(response)
    surrogate = system.surrogate()
    for computed in ((0, 1, 3, 6), (0, 2, 5), (0, 1, 2, 7)):
        factors = surrogate.factors(computed)
        assert [len(each) for each in factors] == [
            0 if step in computed else min(2, sum(each < step for each in computed) - 1) for step in range(STEPS)
        ]
        latents, _ = system.run(computed, factors)
        expected = np.square(latents[-1] - system.latents[-1]).mean(axis=1)
        assert surrogate.errors(computed, factors) == pytest.approx(expected, rel=1e-6)


def test_factors_lessen_the_error() -> None:
    system = System(0.0)
    surrogate, computed = system.surrogate(), (0, 1, 3, 6)
    held = tuple((0.0,) * len(each) for each in surrogate.factors(computed))
    fitted = surrogate.errors(computed, surrogate.factors(computed))
    assert fitted.mean() < 0.7 * surrogate.errors(computed, held).mean()


def test_annealing_finds_the_best_of_all_schedules() -> None:
    surrogate = System(-2.0).surrogate()
    every = [(0, 1, *middle, STEPS - 1) for middle in combinations(range(2, STEPS - 1), 2)]
    best = min(every, key=surrogate.objective)
    assert best_schedule(surrogate, 5, first=2, iterations=400) == best
    assert best_schedule(surrogate, 5, first=2, iterations=400, seed=1) == best
    assert best_schedule(surrogate, STEPS, first=2) == tuple(range(STEPS))
    assert best_schedule(surrogate, 3, first=2) == (0, 1, STEPS - 1)


def test_equations_without_a_change_have_no_factor() -> None:
    assert solve(np.zeros((0, 0)), np.zeros(0)) == ()
    assert solve(np.zeros((2, 2)), np.zeros(2)) == (0.0, 0.0)


def test_a_step_that_adds_nothing_of_its_output_tells_nothing_of_it() -> None:
    surrogate = System(-0.5).surrogate()
    surrogate.rates[[3, STEPS - 1]] = 0.0
    assert np.isfinite(surrogate.errors((0, 1, 3, 7), surrogate.factors((0, 1, 3, 7)))).all()
    surrogate.rates[:] = 0.0
    assert np.isfinite(surrogate.objective((0, 1, 3, 7)))


def test_nothing_is_made_from_outputs_of_a_transformer_whose_turn_is_over() -> None:
    surrogate = replace(System(-0.5).surrogate(), takeovers=frozenset({4}))
    assert 4 in best_schedule(surrogate, 5, 2, iterations=200)
    factors = surrogate.factors((0, 1, 4, 6))
    assert [len(each) for each in factors] == [0, 0, 1, 1, 0, 0, 0, 1]
    # What the first transformer put out changes nothing behind the takeover but through the error of the latents.
    others = replace(surrogate, gains=np.where(np.arange(STEPS) < 4, 1.0, surrogate.gains))
    assert others.factors((0, 1, 2, 3, 4, 6))[5:] == surrogate.factors((0, 1, 2, 3, 4, 6))[5:]


def test_schedules_agree_on_the_mean_of_their_steps() -> None:
    assert consensus([(0, 1, 2, 6, 9, 14, 29), (0, 1, 2, 3, 8, 13, 29)]) == (0, 1, 2, 5, 9, 14, 29)
    assert consensus([(0, 1, 4), (0, 2, 5)]) == (0, 2, 5)  # halves never meet
    rng = np.random.default_rng(0)
    for _ in range(50):
        drawn = [sorted(rng.choice(20, 7, replace=False).tolist()) for _ in range(2)]
        found = consensus(drawn)
        assert len(found) == len(set(found)) == 7
        assert list(found) == sorted(found)


def test_where_another_transformer_takes_over_schedules_agree_too() -> None:
    found = consensus([(0, 1, 6, 7, 9, 11), (0, 1, 2, 3, 6, 11)], frozenset({6}))
    assert found == (0, 1, 4, 6, 8, 11)  # for 5, the nearest
