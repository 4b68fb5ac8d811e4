"""Bad input in pixels: how values are written, and what does not decode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless

from dicom_node.ledger.states import State
from tests.dicom_node.bad_input.bad_node import GOOD, BadNode
from tests.dicom_node.bad_input.case_table import Look, Table
from tests.dicom_node.dicom.builders import set_dirty

PIXELS: Final = Table("Values")
UNDECODABLE: Final = Table("Pixels that cannot be used")

_FAILED: Final = "have the series sent again under new UIDs: of a SOP Instance UID the first copy is used"


def _hu(index: int) -> np.ndarray:
    """Whole numbers as a CT has them, different in every slice."""
    return (np.arange(256).reshape(16, 16) * 11 + index) % 3000 - 1000


def _as_hu(node: BadNode, make: Callable[[int], Dataset], expected: Callable[[int], np.ndarray] = _hu) -> Look:
    node.send([make(index) for index in range(GOOD)])

    def look() -> None:
        hu = node.volume().hu
        assert len(hu) == GOOD
        for index, image in enumerate(hu):
            np.testing.assert_array_equal(image, expected(index))

    return look


def _slice(node: BadNode, index: int, pixels: np.ndarray, **changes: object) -> Dataset:
    return node.stack(1, start=index, pixels=pixels, **changes)[0]


@PIXELS.case("rescale slope and intercept missing", "takes the stored values for HU, with a warning in the record")
def _no_rescale(node: BadNode) -> Look:
    changes = {"RescaleSlope": None, "RescaleIntercept": None}
    return _as_hu(node, lambda index: _slice(node, index, _hu(index).astype(np.int16), **changes))


@PIXELS.case("signed pixels", "reads them by PixelRepresentation")
def _signed(node: BadNode) -> Look:
    return _as_hu(node, lambda index: _slice(node, index, _hu(index).astype(np.int16), intercept=0.0))


@PIXELS.case("unsigned pixels of 12 bits with an overlay in the bits above", "cuts the bits above away")
def _unsigned(node: BadNode) -> Look:
    def make(index: int) -> Dataset:
        pixels = (_hu(index) + 1024).astype(np.uint16) | np.uint16(0x8000)
        return _slice(node, index, pixels, BitsStored=12, HighBit=11)

    return _as_hu(node, make)


@PIXELS.case("a rescale of its own in every slice", "rescales each slice by its own")
def _own_rescale(node: BadNode) -> Look:
    def make(index: int) -> Dataset:
        pixels = (_hu(index) + 1024 + index).astype(np.uint16)
        return _slice(node, index, pixels, RescaleIntercept=str(-1024 - index))

    return _as_hu(node, make)


@PIXELS.case("padding values outside the field of view", "makes them air")
def _padding(node: BadNode) -> Look:
    def make(index: int) -> Dataset:
        pixels = _hu(index).astype(np.int16)
        pixels[:3] = -2000
        dataset = _slice(node, index, pixels, intercept=0.0)
        dataset.add_new("PixelPaddingValue", "SS", -2000)
        return dataset

    def expected(index: int) -> np.ndarray:
        hu = _hu(index)
        hu[:3] = -1024
        return hu

    return _as_hu(node, make, expected)


@PIXELS.case("MONOCHROME1", "reads the same HU: it only says how to display them")
def _monochrome1(node: BadNode) -> Look:
    return _as_hu(
        node,
        lambda index: _slice(
            node, index, (_hu(index) + 1024).astype(np.uint16), PhotometricInterpretation="MONOCHROME1"
        ),
    )


# --- what the worker finds -----------------------------------------------------------------------------------------


def _send_spoilt(node: BadNode, spoil: Callable[[Dataset], None], only: int | None = 5) -> Look:
    """Send a stack of which one slice, or every one, is spoilt; only the worker decodes them all."""
    stack = node.stack()
    for index, dataset in enumerate(stack):
        if only is None or index == only:
            spoil(dataset)
    node.send(stack)
    return lambda: _dead_letter(node)


def _dead_letter(node: BadNode) -> None:
    [job] = node.jobs()
    assert (job.state, job.code, job.attempts) == (State.FAILED, "pixel_data", 1)
    assert job.reason


def _codestream(dataset: Dataset, frame: bytes) -> None:
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True


for _words, _frame in (
    ("garbage", bytes((53 * k * k + 5) % 256 for k in range(400))),
    ("two zero bytes", bytes(2)),
):

    @UNDECODABLE.case(
        f"a compressed frame that does not decode: {_words}",
        "ends the job at once; it is a dead letter",
        advice=_FAILED,
        ends="FAILED pixel_data",
    )
    def _broken_frame(node: BadNode, frame: bytes = _frame) -> Look:
        return _send_spoilt(node, lambda dataset: _codestream(dataset, frame))


def _cut(dataset: Dataset) -> None:
    dataset.PixelData = dataset.PixelData[:100]


def _empty(dataset: Dataset) -> None:
    dataset.PixelData = b""


def _absent(dataset: Dataset) -> None:
    del dataset.PixelData


def _encapsulated(dataset: Dataset) -> None:
    dataset.PixelData = encapsulate([dataset.PixelData[:100]])


def _colour(dataset: Dataset) -> None:
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0


def _slope(dataset: Dataset) -> None:
    set_dirty(dataset, "RescaleSlope", "one")


def _bits(dataset: Dataset) -> None:
    dataset.BitsAllocated = 12


for _words, _spoil in (
    ("cut off", _cut),
    ("of length zero", _empty),
    ("missing", _absent),
    ("compressed under an uncompressed transfer syntax", _encapsulated),
):

    @UNDECODABLE.case(
        f"PixelData {_words}",
        "ends the job at once; it is a dead letter",
        advice=_FAILED,
        ends="FAILED pixel_data",
    )
    def _no_pixels(node: BadNode, spoil: Callable[[Dataset], None] = _spoil) -> Look:
        return _send_spoilt(node, spoil)


for _words, _spoil in (
    ("in colour", _colour),
    ("of 12 bits allocated", _bits),
    ("with a slope that is no number", _slope),
):

    @UNDECODABLE.case(
        f"a slice {_words}",
        "ends the job at once; it is a dead letter",
        advice=_FAILED,
        ends="FAILED pixel_data",
    )
    def _no_ct(node: BadNode, spoil: Callable[[Dataset], None] = _spoil) -> Look:
        return _send_spoilt(node, spoil)


for _words, _size in (("larger than", (32, 32)), ("smaller than", (8, 16)), ("60 000 for", (60_000, 60_000))):

    @UNDECODABLE.case(
        f"Rows and Columns {_words} the pixels in every slice",
        "ends the job at once; it is a dead letter",
        advice=_FAILED,
        ends="FAILED pixel_data",
    )
    def _wrong_size(node: BadNode, size: tuple[int, int] = _size) -> Look:
        def spoil(dataset: Dataset) -> None:
            dataset.Rows, dataset.Columns = size
            # Some size of a head, so that nothing but the pixels is wrong.
            dataset.PixelSpacing = [f"{200 / size[0]:.6f}", f"{200 / size[1]:.6f}"]

        return _send_spoilt(node, spoil, only=None)


@UNDECODABLE.case(
    "a stack of air, or of anything but a head",
    "refuses it after the brain mask, with the figures",
    ends="REFUSED no_brain",
)
def _air(node: BadNode) -> None:
    node.send(node.stack(pixels=np.zeros((64, 64), np.uint16), pixel_spacing=(3.5, 3.5)))


@UNDECODABLE.case(
    "PixelSpacing of a millionth of a millimetre",
    "refuses it after the brain mask, with the figures",
    advice="have the study corrected where it was made",
    ends="REFUSED no_brain",
)
def _tiny_spacing(node: BadNode) -> None:
    node.send(node.stack(pixel_spacing=(1e-6, 1e-6)))
