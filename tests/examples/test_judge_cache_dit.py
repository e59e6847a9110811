import re

import pytest
from click.testing import CliRunner

from examples.judge_cache_dit import command


@pytest.mark.slow
def test_the_yaml_and_the_policy_stand_side_by_side() -> None:
    done = CliRunner().invoke(command, ["--count", "1"])
    assert done.exit_code == 0, done.output
    theirs, ours = (line.split() for line in done.stdout.splitlines()[1:])
    assert (theirs[0], ours[0]) == ("cache-dit.yaml", "shapes-30steps-15of30")
    assert ours[1] == "50.0%"
    assert 55 < float(theirs[1].rstrip("%")) < 70
    assert re.fullmatch(r"\d+\.\d\dx", theirs[2])
    assert float(ours[3]) > float(theirs[3]) > 30  # PSNR of one prompt, at less compute
