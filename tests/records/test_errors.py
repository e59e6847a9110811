import pytest

import pabtune
from pabtune.records import errors

NOT_ERRORS = (errors.PabtuneError, errors.PabtuneWarning)
KINDS = [
    each
    for each in vars(errors).values()
    if isinstance(each, type) and issubclass(each, Exception) and each not in NOT_ERRORS
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_can_be_caught_as_one(kind) -> None:
    assert issubclass(kind, pabtune.PabtuneError)
    with pytest.raises(pabtune.PabtuneError, match="what went wrong"):
        raise kind("what went wrong")
