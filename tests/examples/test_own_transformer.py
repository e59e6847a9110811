from tests.examples.running import run_example


def test_sites_are_guessed_the_card_holds_and_a_policy_runs(tmp_path) -> None:
    told = run_example("own_transformer.py", folder=tmp_path).splitlines()
    sites = ", ".join(f"blocks.{layer}.{name}" for name in ("mixer (full)", "ff (mlp)") for layer in range(4))
    assert told[:3] == [f"guessed: {sites}", f"by the card: {sites}", "the card holds"]
    assert told[3:5] == ["full  ##--#--#--##", "mlp   ##-#-#-#-#-#"]
    assert 0 < float(told[5].removeprefix("relative error ")) < 0.5
