"""docs/conformance.md: the objects the node writes, attribute by attribute, and what it sends and accepts.

``python -m dicom_node.derive.conformance_page`` prints the page; ``make docs`` writes it, and a test compares the two.
The tables are read off objects that the writer makes from a made-up CT header; modules and types come from highdicom's
tables of PS3.3. What is said of an attribute is its value where that never changes, else the rule of
`conformance_rules`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Final

import numpy as np
from highdicom._standard_utils import get_iod_module_map, get_module_attribute_map, get_sop_class_iod_map
from pydicom import dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from dicom_node.derive.conformance_net import accepted, sent, table, this_node
from dicom_node.derive.conformance_rules import HEAD, PRIVATE, RULES, TAIL
from dicom_node.derive.encoding import encode_elements, encode_file
from dicom_node.derive.image_common import ImagePlan, SeriesPlan
from dicom_node.derive.sources import SourceSeries, SourceSlice
from dicom_node.derive.writer import IMAGE_OBJECTS
from dicom_node.dicom.companion_labels import CLASSES, COMPANION_MARKS
from dicom_node.dicom.identity import ACQUISITION, IDENTITY, IMAGE_PLANE, TYPE_2_IDENTITY, tag_of
from dicom_node.dicom.labels import MARKS, OBJECT_CLASSES, BundleFacts
from dicom_node.dicom.output_rules import OutputSettings
from dicom_node.settings import Settings

__all__ = ["example", "main", "render"]

#: Attributes that are copied byte by byte where the CT has them.
_COPIED: Final = (*IDENTITY, *ACQUISITION, *IMAGE_PLANE)
_STRICTEST_FIRST: Final = ("1", "1C", "2", "2C", "3")


def render(settings: Settings | None = None) -> str:
    """Write the page.

    Parameters
    ----------
    settings : Settings, optional
        Those of a node, whose addresses, peers and limits are then told as well.
    """
    objects = {kind: example(kind) for kind in OBJECT_CLASSES}
    return "\n".join(
        [
            HEAD,
            "## Objects\n\n" + _objects(),
            "## Attributes of our own\n\n" + _own(objects),
            "## Attributes copied from the CT\n\n" + _copied(),
            f"## Private block\n\n{table(('tag', 'VR', 'content'), PRIVATE)}",
            "## Marks that are checked before an object may leave\n\n" + _marks(),
            "## What is sent\n\n" + sent(),
            "## What is accepted\n\n" + accepted(),
            "## Companions and notes\n\n" + _companions(),
            *([] if settings is None else ["## This node\n\n" + this_node(settings)]),
            TAIL,
        ]
    )


def main() -> None:
    """Print the page."""
    sys.stdout.write(render())


# --- an object to read the tables off ----------------------------------------------------------------------------


def example(kind: str) -> Dataset:
    """Make one object of a kind from a made-up CT header, by the classes of the writer, and read it back.

    Parameters
    ----------
    kind : str
        Key of `OBJECT_CLASSES`.
    """
    source = _source()
    plan = SeriesPlan(
        series_instance_uid="2.25.1",
        node_id="node",
        created=datetime(2000, 1, 1),
        bundle=BundleFacts("bundle", "0" * 64, "0" * 64, is_phantom=False, trained=True, size="size"),
        output=OutputSettings(),
        derivation="SYNTHETIC",
        record="{}",
    )
    image = ImagePlan(source, (), SourceSeries((source,), "0" * 64), np.zeros((2, 2), np.uint16), "2.25.2", 1)
    return dcmread(BytesIO(encode_file(IMAGE_OBJECTS[kind](plan, image))))


def _source() -> SourceSlice:
    ds = Dataset()
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    ds.Manufacturer = "scanner"
    header = dcmread(BytesIO(encode_elements(ds)), force=True)
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return SourceSlice(
        path=Path(),
        header=header,
        sop_instance_uid="2.25.3",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        series_instance_uid="2.25.4",
        study_instance_uid="2.25.5",
        series_number=1,
        instance_number=1,
        position_mm=np.zeros(3),
        orientation=np.eye(3)[:2],
        shape=(2, 2),
        digest="0" * 64,
    )


# --- tables ------------------------------------------------------------------------------------------------------


def _objects() -> str:
    rows = (
        (f'`object = "{kind}"`', UID(one.sop_class_uid).name, f"`{one.sop_class_uid}`", f"`{one.modality}`")
        for kind, one in OBJECT_CLASSES.items()
    )
    return table(("setting in `[output]`", "SOP class", "UID", "Modality"), rows)


def _own(objects: dict[str, Dataset]) -> str:
    """All attributes of the examples that do not come from the CT."""
    keywords = {
        element.keyword: element.tag
        for ds in objects.values()
        for element in ds
        if not element.tag.is_private and element.keyword not in _COPIED
    }
    # Depends on the CT or on the stack, so an example need not have it.
    keywords |= {keyword: tag_of(keyword) for keyword in RULES if keyword not in _COPIED}
    rows = (_own_row(keyword, objects) for keyword in sorted(keywords, key=lambda one: keywords[one]))
    return table(("attribute", "tag", "module and type, MR", "module and type, SC", "value or rule"), rows)


def _own_row(keyword: str, objects: dict[str, Dataset]) -> Sequence[str]:
    optional = all(keyword not in ds for ds in objects.values())
    places = [_place(keyword, kind) if optional or keyword in ds else "-" for kind, ds in objects.items()]
    return f"`{keyword}`", _tag(keyword), *places, RULES.get(keyword) or _fixed(keyword, objects)


def _fixed(keyword: str, objects: dict[str, Dataset]) -> str:
    """The value that every object has, for each kind where they differ."""
    shown = {kind: _shown(ds[keyword]) for kind, ds in objects.items() if keyword in ds}
    if len(set(shown.values())) == 1:
        return next(iter(shown.values()))
    return "; ".join(f"{kind}: {value}" for kind, value in shown.items())


def _shown(element: DataElement) -> str:
    if element.is_empty:
        return "empty"
    if element.VR == "SQ":
        return "; ".join(_item(item) for item in element.value)
    values = element.value if element.VM > 1 else [element.value]
    text = "\\".join(map(str, values))
    return f'"{text}"' if " " in text else f"`{text}`"


def _item(item: Dataset) -> str:
    if "CodeValue" in item:
        return f"(`{item.CodeValue}`, `{item.CodingSchemeDesignator}`, {item.CodeMeaning})"
    return ", ".join(f"{element.keyword} {_shown(element)}" for element in item)


def _copied() -> str:
    text = (
        "The bytes of the CT slice, whatever they are: never decoded, never repaired, never normalised. What the CT"
        " does not have stays absent, apart from the attributes of type 2, which are then present and empty.\n\n"
    )
    rows = (
        (
            f"`{keyword}`",
            _tag(keyword),
            *(_place(keyword, kind) for kind in OBJECT_CLASSES),
            RULES.get(keyword) or ("empty where missing" if keyword in TYPE_2_IDENTITY else "as in the CT"),
        )
        for keyword in sorted(_COPIED, key=tag_of)
    )
    header = ("attribute", "tag", "module and type, MR", "module and type, SC", "rule")
    return text + table(header, rows)


def _marks() -> str:
    rows = ((f"`{name}`", (rule.__doc__ or "").strip().splitlines()[0]) for name, rule in MARKS.items())
    return table(("mark", "what must be found in the encoded bytes"), rows)


def _companions() -> str:
    rows = (
        (f"`{kind}`", UID(CLASSES[kind][0]).name, f"`{CLASSES[kind][1]}`", ", ".join(f"`{one}`" for one in marks))
        for kind, marks in COMPANION_MARKS.items()
    )
    return (
        "Each is one object in a series of its own, none is sent unless `[output]` asks for it, and each is checked for"
        " its own marks. Patient and study are copied as in the images. `ko` withdraws a result that another replaced;"
        " `note-sr` and `note-sc` tell why a CT was not processed (`not_processed_note`).\n\n"
        + table(("kind", "SOP class", "Modality", "marks checked before it may leave"), rows)
    )


def _place(keyword: str, kind: str) -> str:
    """The module of the IOD that holds an attribute, and its type there; the strictest where there are several."""
    modules = get_iod_module_map()[get_sop_class_iod_map()[OBJECT_CLASSES[kind].sop_class_uid]]
    found = [
        (_STRICTEST_FIRST.index(one["type"]), module["key"])
        for module in modules
        for one in get_module_attribute_map()[module["key"]]
        if one["keyword"] == keyword and not one["path"]
    ]
    if not found:
        return "extension"
    kind_of_type, key = min(found)
    return f"{key.replace('-', ' ')}, {_STRICTEST_FIRST[kind_of_type]}"


def _tag(keyword: str) -> str:
    tag = tag_of(keyword)
    return f"({tag.group:04X},{tag.element:04X})"


if __name__ == "__main__":
    main()
