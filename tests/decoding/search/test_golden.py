"""What real k2 found, recorded by `make test-k2`, is what the backend that is always there finds."""

from sigmel.decoding import GraphDecoder


def test_kaldi_finds_what_k2_found(golden):
    golden.check(golden.decode(lambda built, search: GraphDecoder(built, "kaldi", search)))
