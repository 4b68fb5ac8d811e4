"""Binary morphology per slice, in OpenCV where it is installed and in SciPy where it is not, with equal results.

Dilation and erosion by a disk are thresholds of an exact Euclidean distance, which both libraries compute alike; their
own disks differ from each other. Outside the frame counts as background for dilation and as foreground for erosion, so
that the frame itself erodes nothing.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from jmmda_model.imaging.volume import BoolArray, FloatArray

Backend = Literal["auto", "opencv", "scipy"]
"""Which library does the morphology; ``auto`` is OpenCV where it is installed."""

_ROUNDING_PX = 1e-3
"""Single-precision distances equal to a radius must count as inside it."""


class Morphology:
    """The morphology of the brain mask in SciPy; arrays are stacks (S, rows, columns), every slice on its own."""

    name = "scipy"

    def distance(self, plane: BoolArray) -> FloatArray:
        """Return the exact distance, in pixels, of each set pixel of a slice to the nearest unset one."""
        return np.asarray(ndimage.distance_transform_edt(plane), dtype=np.float32)

    def smooth(self, stack: npt.NDArray[Any], sigma_px: float) -> FloatArray:
        """Return every slice smoothed by a Gaussian cut at two sigma; the frame is continued by its border."""
        kernel = gaussian_kernel(sigma_px)
        rows = ndimage.correlate1d(np.asarray(stack, dtype=np.float32), kernel, axis=1, mode="nearest")
        return np.asarray(ndimage.correlate1d(rows, kernel, axis=2, mode="nearest"))

    def label(self, plane: BoolArray) -> tuple[npt.NDArray[np.int32], int]:
        """Label the 4-connected components of a slice: labels (0 is background) and their number."""
        labels, count = ndimage.label(plane)
        return labels, int(count)

    def components(self, mask: BoolArray) -> tuple[npt.NDArray[np.int32], int]:
        """Label the 6-connected components of a stack: labels (0 is background) and their number."""
        labels, count = ndimage.label(mask)
        return labels, int(count)

    def dilate(self, mask: BoolArray, radius_px: float) -> BoolArray:
        """Dilate every slice by a disk."""
        out = mask.copy()
        for index in np.flatnonzero(mask.any(axis=(1, 2)) & ~mask.all(axis=(1, 2))):
            out[index] = mask[index] | (self.distance(~mask[index]) <= radius_px + _ROUNDING_PX)
        return out

    def erode(self, mask: BoolArray, radius_px: float) -> BoolArray:
        """Erode every slice by a disk."""
        return ~self.dilate(~mask, radius_px)

    def opened(self, mask: BoolArray, radius_px: float) -> BoolArray:
        """Erode and dilate by a disk: removes what the disk does not fit into."""
        return self.dilate(self.erode(mask, radius_px), radius_px) & mask

    def closed(self, mask: BoolArray, radius_px: float) -> BoolArray:
        """Dilate and erode by a disk: bridges gaps that the disk does not fit into."""
        reach = int(np.ceil(radius_px)) + 1
        padded = np.pad(mask, ((0, 0), (reach, reach), (reach, reach)))
        return self.erode(self.dilate(padded, radius_px), radius_px)[:, reach:-reach, reach:-reach] | mask

    def fill_holes(self, mask: BoolArray) -> BoolArray:
        """Fill, in every slice, background that no 4-connected path joins to the frame."""
        out = mask.copy()
        for index in np.flatnonzero(mask.any(axis=(1, 2))):
            labels, count = self.label(np.pad(~mask[index], 1, constant_values=True))
            if count > 1:
                out[index] = labels[1:-1, 1:-1] != labels[0, 0]
        return out

    def without_specks(self, mask: BoolArray, smallest_px: float) -> BoolArray:
        """Drop, in every slice, 4-connected components of fewer than ``smallest_px`` pixels."""
        out = mask.copy()
        for index in np.flatnonzero(mask.any(axis=(1, 2))):
            labels, _ = self.label(mask[index])
            keep = np.bincount(labels.ravel()) >= smallest_px
            keep[0] = False
            out[index] = keep[labels]
        return out

    def largest(self, mask: BoolArray) -> BoolArray:
        """Return the largest 6-connected component of a stack; an empty mask stays empty."""
        labels, count = self.components(mask)
        if count == 0:
            return np.zeros(mask.shape, dtype=bool)
        sizes = np.bincount(labels.ravel(), minlength=count + 1)
        sizes[0] = 0
        flat = labels.ravel()
        # Of equal ones the one met first, whatever the library's numbering.
        best = flat[np.argmax(sizes[flat] == sizes.max())]
        return np.asarray(labels == best)


class OpenCvMorphology(Morphology):
    """The fast path: OpenCV for slices, connected-components-3d for stacks where it is installed."""

    name = "opencv"

    def __init__(self) -> None:
        import cv2

        self._cv2 = cv2
        self._cc3d: Any = None
        if importlib.util.find_spec("cc3d") is not None:
            import cc3d

            self._cc3d = cc3d

    def distance(self, plane: BoolArray) -> FloatArray:
        """Return the exact distance of each set pixel of a slice to the nearest unset one."""
        source = np.ascontiguousarray(plane).view(np.uint8)
        cv2 = self._cv2
        return np.asarray(cv2.distanceTransform(source, cv2.DIST_L2, cv2.DIST_MASK_PRECISE), dtype=np.float32)

    def smooth(self, stack: npt.NDArray[Any], sigma_px: float) -> FloatArray:
        """Return every slice smoothed by a Gaussian cut at two sigma."""
        kernel = gaussian_kernel(sigma_px)
        out = np.empty(stack.shape, dtype=np.float32)
        for index in range(stack.shape[0]):
            plane = np.ascontiguousarray(stack[index], dtype=np.float32)
            out[index] = self._cv2.sepFilter2D(
                plane, self._cv2.CV_32F, kernel, kernel, borderType=self._cv2.BORDER_REPLICATE
            )
        return out

    def label(self, plane: BoolArray) -> tuple[npt.NDArray[np.int32], int]:
        """Label the 4-connected components of a slice."""
        source = np.ascontiguousarray(plane).view(np.uint8)
        count, labels = self._cv2.connectedComponents(source, connectivity=4)
        return labels, int(count) - 1

    def components(self, mask: BoolArray) -> tuple[npt.NDArray[np.int32], int]:
        """Label the 6-connected components of a stack."""
        if self._cc3d is None:
            return super().components(mask)
        labels, count = self._cc3d.connected_components(mask, connectivity=6, return_N=True)
        return labels, int(count)


def gaussian_kernel(sigma_px: float) -> FloatArray:
    """Return a normalised Gaussian cut at two sigma, of at least three samples.

    Examples
    --------
    >>> gaussian_kernel(0.8).size, round(float(gaussian_kernel(0.8).sum()), 6)
    (5, 1.0)
    """
    reach = max(1, int(np.ceil(2 * sigma_px)))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma_px) ** 2)
    return np.asarray(kernel / kernel.sum(), dtype=np.float32)


@functools.cache
def morphology(backend: Backend = "auto") -> Morphology:
    """Return a backend: the one named, or for ``auto`` OpenCV where it is installed.

    Raises
    ------
    ModuleNotFoundError
        ``opencv`` is asked for and not installed.
    """
    if backend == "scipy" or (backend == "auto" and importlib.util.find_spec("cv2") is None):
        return Morphology()
    return OpenCvMorphology()


def edge_distance_px(inside: BoolArray, *, backend: Backend = "auto") -> FloatArray:
    """Return the signed in-plane distance to the edge of a mask, in pixels, positive inside.

    The edge runs half-way between a pixel inside and its neighbour outside.

    Parameters
    ----------
    inside : numpy.ndarray
        (S, rows, columns) bool.
    backend : {"auto", "opencv", "scipy"}
        Both are exact.

    Returns
    -------
    numpy.ndarray
        (S, rows, columns) float32; -inf in a slice without mask, +inf in one that it fills.

    Examples
    --------
    >>> edge_distance_px(np.array([[[False, True, True]]]))[0, 0].tolist()
    [-0.5, 0.5, 1.5]
    """
    tools = morphology(backend)
    out = np.empty(inside.shape, dtype=np.float32)
    for index, plane in enumerate(inside):
        if not plane.any() or plane.all():
            out[index] = np.inf if plane.any() else -np.inf
        else:
            out[index] = np.where(plane, tools.distance(plane) - 0.5, 0.5 - tools.distance(~plane))
    return out
