"""k2 still finds what is recorded of it; SIGMEL_GOLDEN=1 records it anew."""

import json
import os

from sigmel.decoding.search.graph_decoder import GraphDecoder


def test_k2_finds_what_is_recorded(golden):
    found = golden.decode(lambda built, search: GraphDecoder(built, "k2", search))
    if os.environ.get("SIGMEL_GOLDEN"):
        golden.facts["found"] = found
        golden.path.write_text(json.dumps(golden.facts) + "\n")
    golden.check(found)
