"""b value, direction and CSA header, as every maker writes them.

Covers each source of a b value in a file that was written and read again (so that pydicom's own typing of private
elements is part of the test), the private creators, dirty values, both kinds of CSA header and damaged ones, and the
real series of three makers. Leaves out which series such images make (`test_diffusion_find`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from diffusion_cases import csa_bytes, enhanced_dataset, item, mr_dataset, private
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian

from dicom_node.dicom.reading import open_dataset
from tests.dicom_node.dicom.builders import write
from train.data.diffusion import b_value_of
from train.data.diffusion.csa import csa_image_header, csa_numbers, parse_csa
from train.data.diffusion.weighting import manufacturer_of, weighting_of, weighting_of_frame

Maker = Callable[[Dataset], Dataset]


def _ge(value: int) -> Maker:
    return lambda ds: private(ds, 0x0043, "GEMS_PARM_01", 0x39, "IS", [value, 8, 0, 0])


SOURCES: dict[str, tuple[Maker, float | None]] = {
    "standard": (lambda ds: _set(ds, DiffusionBValue=1500.0), 1500.0),
    "standard before private": (lambda ds: _ge(50)(_set(ds, DiffusionBValue=700.0)), 700.0),
    "ge": (_ge(1000), 1000.0),
    "ge with offset": (_ge(1_000_000_800), 800.0),
    "ge with offset, b = 0": (_ge(1_000_000_000), 0.0),
    "siemens": (lambda ds: private(ds, 0x0019, "SIEMENS MR HEADER", 0x0C, "IS", "1000"), 1000.0),
    "siemens csa": (
        lambda ds: private(ds, 0x0029, "SIEMENS CSA HEADER", 0x10, "OB", csa_bytes({"B_value": ["800"]})),
        800.0,
    ),
    "siemens sequence name": (lambda ds: _set(ds, Manufacturer="SIEMENS", SequenceName="*ep_b1000#4"), 1000.0),
    "siemens trace name": (lambda ds: _set(ds, Manufacturer="SIEMENS", SequenceName="ep_b1000t"), 1000.0),
    "siemens b0 name": (lambda ds: _set(ds, Manufacturer="SIEMENS", SequenceName="*ep_b0"), 0.0),
    "sequence name of another maker": (lambda ds: _set(ds, SequenceName="*ep_b1000#4"), None),
    "philips": (lambda ds: private(ds, 0x2001, "Philips Imaging DD 001", 0x03, "FL", 1000.0), 1000.0),
    "united imaging": (lambda ds: private(ds, 0x0065, "Image Private Header", 0x09, "FD", 900.0), 900.0),
    "toshiba comment": (lambda ds: _set(ds, Manufacturer="TOSHIBA_MEC", ImageComments="b=1500(0.445,0,0.895)"), 1500.0),
    "comment of another maker": (lambda ds: _set(ds, ImageComments="b=1500"), None),
    "no source": (lambda ds: ds, None),
    "ge tag of another creator": (lambda ds: private(ds, 0x0043, "SOMEBODY ELSE", 0x39, "IS", [1000, 8]), None),
    "philips tag of another creator": (lambda ds: private(ds, 0x2001, "SPI", 0x03, "FL", 1000.0), None),
    "negative": (lambda ds: private(ds, 0x2001, "Philips Imaging DD 001", 0x03, "FL", -1.0), None),
    "not a number": (lambda ds: _set(ds, DiffusionBValue=math.nan), None),
}


def _set(ds: Dataset, **attributes: object) -> Dataset:
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


@pytest.mark.parametrize("implicit", [False, True], ids=["explicit", "implicit"])
@pytest.mark.parametrize("source", SOURCES)
def test_b_value_is_read_from_every_source(source: str, implicit: bool, tmp_path: Path) -> None:
    change, expected = SOURCES[source]
    ds = change(mr_dataset(0, z_mm=0.0))
    if implicit:
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    assert b_value_of(open_dataset(write(ds, tmp_path / "one"))) == expected


def test_private_block_may_stand_anywhere_in_its_group() -> None:
    ds = mr_dataset(0, z_mm=0.0)
    private(ds, 0x0019, "ANOTHER MAKER", 0x0C, "IS", "1")
    private(ds, 0x0019, "SIEMENS MR HEADER", 0x0C, "IS", "1000")
    assert (0x0019, 0x110C) in ds
    assert b_value_of(ds) == 1000.0


def test_enhanced_object_has_a_b_value_only_where_its_frames_agree() -> None:
    x, y = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)
    same = enhanced_dataset([(0, 1000, "DIRECTIONAL", x, 1), (4, 1000, "DIRECTIONAL", y, 1)])
    mixed = enhanced_dataset([(0, 0, "NONE", None, 1), (4, 1000, "ISOTROPIC", None, 1)])
    assert b_value_of(same) == 1000.0
    assert b_value_of(mixed) is None
    weighting = [weighting_of_frame(Dataset(), group) for group in mixed.PerFrameFunctionalGroupsSequence]
    assert [(w.b_value, w.isotropic) for w in weighting] == [(0.0, False), (1000.0, True)]


def test_shared_diffusion_group_counts_for_every_frame() -> None:
    shared = item(MRDiffusionSequence=[item(DiffusionBValue=600.0, DiffusionDirectionality="DIRECTIONAL")])
    assert weighting_of_frame(shared, Dataset()).b_value == 600.0


def test_philips_direction_i_and_a_zero_vector_are_averages() -> None:
    ds = private(mr_dataset(0, z_mm=0.0), 0x2001, "Philips Imaging DD 001", 0x03, "FL", 1000.0)
    assert not weighting_of(ds).isotropic
    assert weighting_of(private(ds, 0x2001, "Philips Imaging DD 001", 0x04, "CS", "I")).isotropic
    other = private(mr_dataset(0, z_mm=0.0), 0x2001, "Philips Imaging DD 001", 0x03, "FL", 1000.0)
    for element in (0xB0, 0xB1, 0xB2):
        private(other, 0x2005, "Philips MR Imaging DD 001", element, "FL", 0.0)
    other.Manufacturer = "Philips Medical Systems"
    assert weighting_of(other).isotropic
    # b = 0 has no direction either, and is no average of directions.
    other[0x2001, 0x1003].value = 0.0
    assert not weighting_of(other).isotropic


def test_manufacturer_is_one_of_a_fixed_set() -> None:
    makers = {"GE MEDICAL SYSTEMS": "ge", "SIEMENS": "siemens", "TOSHIBA": "canon", "UIH": "united imaging"}
    for text, expected in makers.items():
        assert manufacturer_of(item(Manufacturer=text)) == expected
    assert manufacturer_of(item(Manufacturer="Dr. Invented's own scanner")) == "other"
    assert manufacturer_of(Dataset()) == "other"


@pytest.mark.parametrize("second", [True, False], ids=["csa2", "csa1"])
def test_csa_header_of_either_kind(second: bool) -> None:
    entries = {"B_value": ["1000"], "SliceNormalVector": ["0.0", "0.10105630", "0.99488071"], "Empty": []}
    found = parse_csa(csa_bytes(entries, second=second))
    assert found == {"B_value": ("1000",), "SliceNormalVector": ("0.0", "0.10105630", "0.99488071")}
    assert csa_numbers(found, "SliceNormalVector") == (0.0, 0.1010563, 0.99488071)
    assert csa_numbers(found, "Empty") == ()


@given(st.binary(max_size=400), st.integers(0, 400))
def test_damaged_csa_header_never_raises(noise: bytes, cut: int) -> None:
    whole = csa_bytes({"B_value": ["1000"], "NumberOfImagesInMosaic": ["25"]})
    for data in (noise, whole[:cut], whole[:cut] + noise, b"SV10\4\3\2\1" + noise):
        for values in parse_csa(data).values():
            assert all(isinstance(value, str) for value in values)


def test_real_headers_of_three_makers(shared_data: Path) -> None:
    siemens = [open_dataset(path) for path in sorted((shared_data / "siemens_mosaic").iterdir())]
    assert [b_value_of(ds) for ds in siemens] == [0.0, 1000.0, 1000.0, 1000.0, 1000.0]
    # The CSA header, an element of its own, says the same as (0019,xx0C).
    assert [csa_numbers(csa_image_header(ds), "B_value") for ds in siemens] == [(b_value_of(ds),) for ds in siemens]
    for ds in siemens[1:]:
        assert weighting_of(ds).direction == tuple(
            round(value, 3) for value in csa_numbers(csa_image_header(ds), "DiffusionGradientDirection")
        )
    ge = sorted((shared_data / "ge_dwi").iterdir(), key=lambda path: int(path.name.rsplit(".", 1)[1]))
    weightings = [weighting_of(open_dataset(path)) for path in ge]
    assert [w.b_value for w in weightings] == [0.0] * 2 + [1000.0] * 12
    assert len({w.direction for w in weightings[2:]}) == 6
    without_standard = open_dataset(ge[-1])
    del without_standard.DiffusionBValue
    assert b_value_of(without_standard) == 1000.0
    assert b_value_of(open_dataset(shared_data / "toshiba_dwi" / "0001.dcm")) is None
