"""The report as Markdown pages with pictures, for a repository or a wiki: an index, and a page an experiment.

The folder is complete in itself. Of the slices of a table the first example is shown; the report has the others.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from train.experiments.figures import Picture
from train.experiments.layout import Grid
from train.report import markdown_table

_SHOWN_PICTURES = ("boxes", "scatter", "slices-1")


@dataclass(frozen=True, slots=True)
class Section:
    """A table of the report.

    Attributes
    ----------
    title : str
        Of the table.
    stem : str
        Its files below the folder of the report, without ending.
    grids : tuple of Grid
        What is printed of it.
    pictures : tuple of Picture
        Its figures.
    files : tuple of (str, str)
        What a file is, and its link.
    """

    title: str
    stem: str
    grids: tuple[Grid, ...]
    pictures: tuple[Picture, ...]
    files: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Chapter:
    """An experiment of the report."""

    name: str
    title: str
    sections: tuple[Section, ...]


def opening_of(data: str, mark: str) -> str:
    """What a reader has to know before the first figure."""
    if data == "Phantom":
        words = "Everything here was measured on the digital phantom. The figures say nothing about patients."
    else:
        words = f"{data}. Synthetic DWI is not a measurement and not for diagnosis."
    if not mark:
        return words
    meaning = "Networks of this size and training show that every step works, not which method is better."
    return f"{words} {mark[0].upper()}{mark[1:]}. {meaning}"


def file_stem(key: str) -> str:
    """Key of a table or experiment as a file name; centres of an archive may be called anything."""
    return re.sub(r"[^\w.+-]", "_", key)


def markdown(found: Sequence[Grid]) -> str:
    """Grids as Markdown tables, each under its caption and above its notes."""
    parts = []
    for grid in found:
        rows = []
        for index, row in enumerate(grid.rows):
            bold = {column for line, column in grid.best if line == index} | ({0} if index == grid.ours else set())
            cells = [cell.replace("|", r"\|") for cell in row]
            rows.append([f"**{cell}**" if number in bold else cell for number, cell in enumerate(cells)])
        parts += [f"**{grid.title}**", markdown_table([column.heading for column in grid.columns], rows), *grid.notes]
    return "\n\n".join(parts) + "\n"


def write_pages(chapters: Sequence[Chapter], folder: Path, *, opening: str, facts: Mapping[str, str]) -> list[Path]:
    """Write the index ``README.md``, a page an experiment, and the pictures that they show.

    Parameters
    ----------
    chapters : sequence of Chapter
        In the order of the index.
    folder : Path
        Is made anew: nothing of an earlier report stays in it.
    opening : str
        See `opening_of`.
    facts : Mapping[str, str]
        How the figures were made.

    Returns
    -------
    list of Path
        What was written, the index first.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    written = [folder / "README.md"]
    lines = [f"- [{one.title}]({file_stem(one.name)}.md)" for one in chapters]
    made = markdown_table(["", ""], [[name, words] for name, words in facts.items()])
    written[0].write_text(f"# Experiments\n\n**{opening}**\n\n" + "\n".join(lines) + f"\n\n{made}\n", "utf-8")
    for one in chapters:
        page = folder / f"{file_stem(one.name)}.md"
        page.write_text("\n\n".join((f"# {one.title}", f"**{opening}**", *_sections(one))) + "\n", "utf-8")
        written.append(page)
        for section in one.sections:
            for picture in _shown(section):
                path = folder / _file_of(section, picture)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(picture.png)
                written.append(path)
    return written


def _sections(chapter: Chapter) -> Iterator[str]:
    for section in chapter.sections:
        if section.title != chapter.title:
            yield f"## {section.title}"
        yield markdown(section.grids).rstrip("\n")
        for picture in _shown(section):
            yield f"![{picture.caption}]({_file_of(section, picture)})\n\n*{picture.caption}*"


def _shown(section: Section) -> Iterator[Picture]:
    return (picture for picture in section.pictures if picture.name in _SHOWN_PICTURES)


def _file_of(section: Section, picture: Picture) -> str:
    return f"{section.stem}-{picture.name}.png"
