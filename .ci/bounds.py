"""Prints the requirements of pyproject.toml, one a line: python3 .ci/bounds.py [--oldest] [EXTRA ...]

Without an extra, those of the package. With --oldest, the lower bounds themselves: `numpy>=1.26` as `numpy==1.26`.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
oldest = "--oldest" in sys.argv
extras = [argument for argument in sys.argv[1:] if argument != "--oldest"]
groups = [project["optional-dependencies"][extra] for extra in extras] or [project["dependencies"]]
for requirement in sorted(requirement for group in groups for requirement in group):
    print(re.sub(r">=\s*([\w.]+).*", r"==\1", requirement) if oldest else requirement)
