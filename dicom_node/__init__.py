"""A DICOM node that turns a head CT into a labelled synthetic DWI series (research software, not for diagnosis).

The rooms of this package, in the order in which a study walks through them, are ``receive``, ``assemble``,
``synthesize``, ``derive`` and ``deliver``; the ground floor below them is ``ledger``, ``net``, ``dicom``,
``settings`` and ``errors``. Importing the package itself loads nothing of these.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["__version__"]

try:
    __version__: str = version("jmmda-node")
except PackageNotFoundError:
    # Run from a source tree that was never installed: a version that sorts below every release.
    __version__ = "0.0.0+source"
