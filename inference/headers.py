"""What is known of images before their files are opened, and which of them an engine chooses by that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

AttributeValue = str | list[str] | None


@dataclass(frozen=True, kw_only=True)
class ImageHeader:
    """What is known of an image before its file is opened.

    ``attributes`` maps keywords of PS3.6 to values as DICOM wrote them; numbers are strings.
    """

    sop_class_uid: str
    sop_instance_uid: str
    attributes: Mapping[str, AttributeValue] = field(repr=False)

    def values(self, keyword: str) -> tuple[str, ...]:
        """The values of an attribute that are not empty, without surrounding spaces."""
        value = self.attributes.get(keyword)
        listed = [value] if isinstance(value, str) else value or []
        return tuple(item.strip() for item in listed if item.strip())

    def first(self, keyword: str) -> str:
        """The first value of an attribute as it is; empty when there is none."""
        return next(iter(self.values(keyword)), "")

    def text(self, keyword: str) -> str:
        """The first value of an attribute, in upper case; empty when there is none."""
        return next(iter(self.values(keyword)), "").upper()

    def number(self, keyword: str) -> int | None:
        """The first value of an attribute as an integer, None where it is none."""
        try:
            return int(self.text(keyword))
        except ValueError:
            return None


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which images of a series an engine analyses, in order, and why it leaves the others."""

    inputs: tuple[str, ...]
    """SOP Instance UIDs."""
    refused: dict[str, str]
    """Reason by SOP Instance UID, as a sentence for an administrator."""

    @property
    def reasons(self) -> str:
        """Why images are left, each reason once; empty where none is."""
        return "; ".join(dict.fromkeys(self.refused.values()))

    @classmethod
    def by(cls, headers: Sequence[ImageHeader], refusal: Callable[[ImageHeader], str | None]) -> Selection:
        """The images without a reason against them, in their order."""
        refused = {h.sop_instance_uid: reason for h in headers if (reason := refusal(h)) is not None}
        inputs = tuple(h.sop_instance_uid for h in headers if h.sop_instance_uid not in refused)
        return cls(inputs=inputs, refused=refused)
