"""The error of this room."""

from __future__ import annotations


class ObjectiveError(ValueError):
    """Raised when a loss cannot be built or computed as the recipe asks.

    Attributes
    ----------
    code : str
        ``no_term``, ``disc_counted_twice``, ``no_network``, ``no_features``, ``no_log_scale``, ``vgg_file``,
        ``vgg_keys``, ``vgg_shape``, ``adaptive_start`` or ``image_too_small``.
    reason : str
        What is wrong, in words for whoever wrote the recipe.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason
