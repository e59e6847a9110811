from pabtune.records.policies import MadeFor
from pabtune.records.rules import Rule
from pabtune.records.schedules import Schedule, load_schedules, save_schedules

SCHEDULE = Schedule(computed=(0, 1, 3), factors=((), (), (0.5, -0.25), ()), psnr_db=40.5, worst_psnr_db=31.0)


def test_schedules_are_saved_and_loaded_and_a_broken_file_is_none(tmp_path) -> None:
    path = tmp_path / "schedules.json"
    assert load_schedules(path) is None
    save_schedules(path, [SCHEDULE])
    assert load_schedules(path) == [SCHEDULE]
    path.write_text("[{")
    assert load_schedules(path) is None


def test_a_schedule_is_a_rule_for_whole_calls() -> None:
    rule = Rule(kind="transformer", compute=(0, 1, 3), payload="scaled", factors=SCHEDULE.factors)
    assert SCHEDULE.policy("p", MadeFor(steps=4)).rules == (rule,)
