"""What is known of an image before its file is opened, and the choice that an engine makes from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

AttributeValue = str | list[str] | None


@dataclass(frozen=True, kw_only=True)
class ImageHeader:
    """Attributes of an image, known before its file is opened.

    ``attributes`` maps keywords (PS3.6) to values as DICOM encodes them; numbers are strings.
    """

    sop_class_uid: str
    sop_instance_uid: str
    attributes: Mapping[str, AttributeValue] = field(repr=False)

    def values(self, keyword: str) -> tuple[str, ...]:
        """The non-empty values of an attribute, without surrounding spaces."""
        value = self.attributes.get(keyword)
        listed = [value] if isinstance(value, str) else value or []
        return tuple(item.strip() for item in listed if item.strip())

    def first(self, keyword: str) -> str:
        """The first value of an attribute, with its case kept; empty if there is none."""
        return next(iter(self.values(keyword)), "")

    def text(self, keyword: str) -> str:
        """The first value of an attribute, in upper case; empty if there is none."""
        return next(iter(self.values(keyword)), "").upper()

    def number(self, keyword: str) -> int | None:
        """The first value of an attribute as an integer; None if it is not one."""
        try:
            return int(self.text(keyword))
        except ValueError:
            return None


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The images of a series that an engine analyses, in order, and why it leaves out the others."""

    inputs: tuple[str, ...]
    """SOP Instance UIDs."""
    refused: dict[str, str]
    """Reason by SOP Instance UID, written for an administrator."""

    @property
    def reasons(self) -> str:
        """Why images are left out, each reason once; empty if none is left out."""
        return "; ".join(dict.fromkeys(self.refused.values()))

    @classmethod
    def by(cls, headers: Sequence[ImageHeader], refusal: Callable[[ImageHeader], str | None]) -> Selection:
        """Select the images for which ``refusal`` returns None, in their order."""
        refused = {h.sop_instance_uid: reason for h in headers if (reason := refusal(h)) is not None}
        inputs = tuple(h.sop_instance_uid for h in headers if h.sop_instance_uid not in refused)
        return cls(inputs=inputs, refused=refused)
