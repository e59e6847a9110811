import click
import pytest
from click.testing import CliRunner

from pabtune.cli import options
from pabtune.cli.options import RunOptions, load_model, read_prompts, run_options
from pabtune.records.errors import ModelError, PromptError


def test_run_options_arrive_as_one_argument() -> None:
    seen = []

    @click.command()
    @run_options
    def command(run: RunOptions) -> None:
        """Does nothing."""
        seen.append(run)

    words = ["--steps", "7", "--size", "81x480x832", "--pipeline-arg", "a=[1, 2]", "--pipeline-arg", "b=plain words"]
    assert CliRunner().invoke(command, words).exit_code == 0
    assert seen[0] == RunOptions(
        steps=7, seed=0, size=(81, 480, 832), guidance_scale=None, negative_prompt=None, image=None,
        pipeline_arg=(("a", [1, 2]), ("b", "plain words")), device="cpu", dtype="float32", attention="auto",
    )  # fmt: skip
    for wrong in (["--size", "480x832"], ["--pipeline-arg", "plain"], ["--image", "nowhere.png"]):
        assert CliRunner().invoke(command, wrong).exit_code == 2


def test_prompts_come_from_a_file_or_from_the_embedded_model(tmp_path) -> None:
    (tmp_path / "p.txt").write_text("one\ntwo\n")
    assert [prompt.prompt for prompt in read_prompts("wan", tmp_path / "p.txt", 9, 0)] == ["one", "two"]
    assert [prompt.seed for prompt in read_prompts("shapes", None, 3, 0, seed=5)] == [5, 6, 7]
    with pytest.raises(PromptError, match="--prompts FILE"):
        read_prompts("wan", None, 3, 0)


def test_devices_that_are_not_there_are_refused() -> None:
    """Fault 23: on the meta device nothing is computed."""
    with pytest.raises(ModelError, match="unknown device 'warp'"):
        load_model("shapes", "warp", "float32")


@pytest.mark.parametrize("verb", ["profile", "search"])
def test_a_result_takes_no_place_that_would_be_lost(pabtune, tmp_path, verb) -> None:
    """`wan2.1` and `wan2.2` shared their arrays, and a policy was written over its profile."""
    read = tmp_path / "read.json"
    read.write_text("{}")
    words = {"profile": ("profile", "shapes"), "search": ("search", str(read), "--budget", "shapes>=-1")}[verb]
    line = pabtune(*words, "--out", str(tmp_path / "wan2.1")).refusal()
    assert line.endswith("wan2.1: the name of the file must end in .json")
    line = pabtune(*words, "--prompts", str(read), "--out", str(tmp_path / "." / "read.json")).refusal()
    assert "is read too, and would be lost" in line
    assert read.read_text() == "{}"


def test_the_profile_of_a_search_is_not_lost_either(pabtune, tmp_path) -> None:
    read = tmp_path / "read.json"
    read.write_text("{}")
    assert "is read too" in pabtune("search", str(read), "--budget", "shapes>=-1", "--out", str(read)).refusal()


def test_networks_of_a_score_run_on_the_device_of_their_worker(monkeypatch) -> None:
    """All workers of a machine had VBench's networks on its first GPU."""
    found = []

    class Nothing:
        def open(self, prompts):
            pass

    monkeypatch.setattr(
        options.scores, "find_score", lambda name, environment, device: found.append(device) or Nothing()
    )
    monkeypatch.setenv("LOCAL_RANK", "3")
    options.find_score("vbench-quality", None, "cuda", [])
    options.find_score("vbench-quality", None, "cpu", [])
    assert found == ["cuda:3", "cpu"]
