from click.testing import CliRunner

from examples.own_transformer import command


def test_sites_are_guessed_the_card_holds_and_a_policy_runs() -> None:
    done = CliRunner().invoke(command)
    assert done.exit_code == 0, done.output
    told = done.stdout.splitlines()
    sites = ", ".join(f"blocks.{layer}.{name}" for name in ("mixer (full)", "ff (mlp)") for layer in range(4))
    assert told[:3] == [f"guessed: {sites}", f"by the card: {sites}", "the card holds"]
    assert told[3:5] == ["full  ##--#--#--##", "mlp   ##-#-#-#-#-#"]
    assert 0 < float(told[5].removeprefix("relative error ")) < 0.5
