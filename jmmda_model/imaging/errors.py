"""The one exception of the imaging room; the node turns it into its own `Refused`."""

from __future__ import annotations

from collections.abc import Mapping


class ImagingError(ValueError):
    """Raise this when a volume breaks a rule of the preprocessing contract and must not reach the network.

    Parameters
    ----------
    code : str
        ``no_brain``, ``fov`` or ``thickness`` for a volume; ``contract`` for a contract that this version cannot
        honour; ``target`` for a diffusion target that cannot be normalised; ``geometry`` for arrays that disagree.
    reason : str
        One sentence for a person; never holds a header value that could name a patient.
    figures : Mapping[str, float], optional
        The numbers behind the reason, units in the keys.

    Examples
    --------
    >>> error = ImagingError("fov", "brain leaves the grid", {"off_grid_percent": 2.5})
    >>> error.code, error.figures["off_grid_percent"]
    ('fov', 2.5)
    """

    def __init__(self, code: str, reason: str, figures: Mapping[str, float] | None = None) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason
        self.figures: dict[str, float] = dict(figures or {})
