"""Processes that do not make the same calls."""


def test_processes_that_draw_other_noise_or_prompts_are_told(together) -> None:
    """Each computed its part of a video of its own."""
    for (row,) in together(2, "other_noise"):
        same, seeds, prompts, alone, shared = row["said"]
        assert (same, shared) == ("", "")
        assert "rank 1 has another generator than rank 0" in seeds
        assert "rank 1 has another prompt than rank 0: \"'a cat 1'\"" in prompts
        assert "rank 1 has another random state (pass every process a generator with the same seed)" in alone
