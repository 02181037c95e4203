"""Forms that header values must have before files are named after them."""

from __future__ import annotations

import re

UID_FORM = re.compile(r"[0-9][0-9.]{0,63}")
"""Characters of a UID (PS3.5 section 9.1). Others, such as a slash, could lead out of a folder."""
