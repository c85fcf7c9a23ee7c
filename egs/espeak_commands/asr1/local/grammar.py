#!/usr/bin/env python3
"""Write the grammar of the commands (sigmel.recipes.corpora.commands) in JSGF."""

import argparse
import re
from pathlib import Path

from sigmel.files.atomic import atomic_path
from sigmel.recipes.corpora.commands import RULES

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--output", type=Path, required=True, help="the grammar to write (.jsgf)")
output = parser.parse_args().output
rules = []
for name, phrases in RULES.items():
    spelled = " | ".join(dict.fromkeys(re.sub(r"\{(\w+)\}", r"<\1>", phrase) for phrase in phrases))
    rules.append(f"{'public ' * (name == 'command')}<{name}> = {spelled};\n")
with atomic_path(output) as temporary:
    temporary.write_text("#JSGF V1.0;\ngrammar commands;\n" + "".join(rules), encoding="utf-8")
