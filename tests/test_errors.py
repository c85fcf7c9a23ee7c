"""Errors of files that are read name the file."""

import pytest

from sigmel.errors import SigmelError, reading


class ParticularError(SigmelError):
    """An error with a class of its own."""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ParticularError("no token"), "no token"),
        (KeyError("tokens"), r"not a list of tokens \(KeyError: 'tokens'\)"),
    ],
)
def test_errors_name_the_file_that_is_read_once(tmp_path, error, message):
    path = tmp_path / "tokens.txt"
    path.touch()
    refused = pytest.raises(SigmelError, match=f"^{path}: {message}$")
    with refused as found, reading(path, "a model"), reading(path, "a list of tokens"):
        raise error
    assert isinstance(found.value, ParticularError) == isinstance(error, ParticularError)


def test_a_file_that_is_read_must_be_there(tmp_path):
    with pytest.raises(SigmelError, match=r"tokens\.txt: no such file"), reading(tmp_path / "tokens.txt", "tokens"):
        pass
