"""Forms that values of a header must have before anything is named by them."""

from __future__ import annotations

import re

UID_FORM = re.compile(r"[0-9][0-9.]{0,63}")
"""What a UID may be made of (PS3.5 section 9.1); other characters could name a file somewhere."""
