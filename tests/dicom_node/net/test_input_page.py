"""`docs/input.md` names every transfer syntax and every character set that the code knows.

Left out: its sentences, which the tests of `dicom_node.dicom` hold true.
"""

from __future__ import annotations

from pathlib import Path

from dicom_node.dicom.charsets import character_sets
from dicom_node.net.contexts import DECODABLE_SYNTAXES

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "input.md").read_text("utf-8")


def _cells() -> set[str]:
    first = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| 1.2")]
    return {f"1.2.840.10008.{uid.strip()}" for cell in first for uid in cell.split(",")}


def test_every_accepted_transfer_syntax_is_on_the_page_and_no_other() -> None:
    retired = {"1.2.840.10008.1.2.4.53", "1.2.840.10008.1.2.4.55"}
    assert _cells() - retired == set(DECODABLE_SYNTAXES)


def test_every_character_set_on_the_page_is_known() -> None:
    paragraph = PAGE[PAGE.index("Known without extensions") : PAGE.index("| warning")].replace("\n", " ")
    plain, extended = paragraph.split("With extensions:")
    terms = [term.strip(" .") for term in plain.partition("default repertoire,")[2].split(",")]
    numbers = [number.strip(" .") for number in extended.replace("ISO 2022 IR", "").split(",")]
    assert len(terms) == 15
    assert len(numbers) == 17
    for term in terms:
        assert character_sets(term).issue is None, term
    for number in numbers:
        assert character_sets(f"ISO 2022 IR 6\\ISO 2022 IR {number}").issue is None, number
