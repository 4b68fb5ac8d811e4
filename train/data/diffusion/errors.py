"""The one exception of this room."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["DiffusionError"]


class DiffusionError(ValueError):
    """Raised when a series, or the pair of a folder, cannot be used.

    Parameters
    ----------
    code : str
        ``no_ct``, ``no_dwi``, ``different_patients``, ``duplicate_uid``, ``no_b_value``, ``one_slice``, ``not_finite``,
        ``geometry``, ``ct_window`` or ``unreadable``.
    reason : str
        One sentence for a person, without patient data and without text of a header.
    figures : mapping of str to float, optional
        Numbers behind the reason, units in the keys.
    """

    def __init__(self, code: str, reason: str, figures: Mapping[str, float] | None = None) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason
        self.figures: dict[str, float] = dict(figures or {})
