"""Pictures of OHIF with CT and synthetic series out of an Orthanc, in headless Chromium.

    python -m benchmarks.viewer [--out docs/pictures] [--work .viewer] [--only phantom|head-ct] [--reuse]

Makes a phantom study (and takes the public head CT below JMMDA_TEST_DATA where that is set), runs the node's pipeline
on it, sends both series to an Orthanc by C-STORE, serves OHIF beside Orthanc's DICOMweb, lets Chromium open the study,
turn the wheel and take pictures. Fails when the two sides do not show the same slice or when the synthetic series does
not name itself. Whether the pictures look right is for people to say.

Needs: Debian's `chromium`, `orthanc`, `orthanc-dicomweb`, and Node.js with npm.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.common import REPOSITORY
from benchmarks.viewer.archive import DICOMWEB_PLUGIN, Archive, orthanc_program, running_archive
from benchmarks.viewer.packages import HERE, ensure
from benchmarks.viewer.serving import ViewerSite, serving

#: First word of every synthetic series, so that it survives a list that cuts descriptions short.
FIRST_WORD: Final = "SYNTHETIC"
#: A picture in the documentation is not to weigh more.
PICTURE_LIMIT_BYTES: Final = 250 * 1024
_TIMEOUT_S: Final = 240
_BROWSERS: Final = ("chromium", "chromium-headless-shell", "chromium-browser")
_STUDY_PANEL: Final = '[data-cy="studyBrowser-panel"]'


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture.

    Attributes
    ----------
    out : str
        File to write.
    study : str
        StudyInstanceUID.
    protocol : str
        Hanging protocol, one of `app-config.js` or OHIF's own.
    panes : int
        Viewports that must show an image.
    wheel : int
        Notches of the wheel over the first viewport; the others have to follow.
    width, height : int
        Size of the window in pixels.
    element : str
        CSS selector of what to take; empty is the whole window.
    volume : bool
        Whether the viewports are reformatted, so that their slices have no common number.
    as_list : bool
        Show the series as a list instead of thumbnails.
    """

    out: str
    study: str
    protocol: str
    panes: int
    wheel: int = 0
    width: int = 1360
    height: int = 760
    element: str = ""
    volume: bool = False
    as_list: bool = False


def missing_programs() -> list[str]:
    """What is not installed, in words."""
    missing = []
    if browser() is None:
        missing.append("chromium")
    if orthanc_program() is None:
        missing.append("orthanc")
    if not DICOMWEB_PLUGIN.exists():
        missing.append("orthanc-dicomweb")
    missing += [name for name in ("node", "npm") if shutil.which(name) is None]
    return missing


def browser() -> str | None:
    """Path of Debian's Chromium, or None."""
    return next((found for name in _BROWSERS if (found := shutil.which(name))), None)


def _synthesize(source: Path, out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "dicom_node.cli", "synthesize", str(source), str(out)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})


def _phantom(folder: Path) -> Path:
    from train.data.phantom import generate_case
    from train.data.phantom_dicom import write_study

    shutil.rmtree(folder, ignore_errors=True)
    case = generate_case(2025, "A", matrix=512, n_slices=28, lesion="mca_division", side="left")
    write_study(case, folder)
    return folder


def _sources(work: Path, only: str | None) -> dict[str, Path]:
    """CT studies to show, by the name that goes into the file names."""
    found = {}
    if only in (None, "phantom"):
        found["phantom"] = _phantom(work / "phantom-ct")
    public = Path(os.environ.get("JMMDA_TEST_DATA", "/nonexistent")) / "ge_head_ct"
    if only in (None, "head-ct"):
        if public.is_dir():
            found["head-ct"] = public
        else:
            print("no pictures of the public head CT: JMMDA_TEST_DATA does not name its folder", file=sys.stderr)
    return found


def _study_of(path: Path) -> str:
    from pydicom import dcmread

    return str(dcmread(path, stop_before_pixels=True, specific_tags=["StudyInstanceUID"]).StudyInstanceUID)


def shots_of(name: str, study: str, out: Path) -> list[Shot]:
    """Pictures of one study."""
    if name != "phantom":
        return [Shot(str(out / f"ohif-{name}-beside.png"), study, "ctBesideSynthetic", 2, wheel=2)]
    return [
        Shot(str(out / f"ohif-{name}-beside.png"), study, "ctBesideSynthetic", 2, wheel=-2),
        Shot(str(out / f"ohif-{name}-series.png"), study, "ctBesideSynthetic", 2, element=_STUDY_PANEL, as_list=True),
        # Nearly square, so that the image fills the viewport and its corners lie below the viewer's own texts.
        Shot(str(out / f"ohif-{name}-alone.png"), study, "syntheticAlone", 1, width=1060, height=800),
        Shot(str(out / f"ohif-{name}-mpr.png"), study, "syntheticMpr", 3, volume=True),
    ]


def _thumbnail(archive: Archive, study: str, path: Path) -> None:
    """Let the archive render the middle synthetic slice in 256 x 256 pixels (WADO-RS, PS3.18 section 8.3.5)."""
    series = archive.get(f"/dicom-web/studies/{study}/series?Modality=MR")[0]["0020000E"]["Value"][0]
    within = f"/dicom-web/studies/{study}/series/{series}/instances"
    found = archive.get(f"{within}?includefield=00200013")
    found.sort(key=lambda one: one["00200013"]["Value"][0])
    instance = found[len(found) // 2]["00080018"]["Value"][0]
    path.write_bytes(archive.read(f"{within}/{instance}/rendered?viewport=256,256", "image/png"))


def _fill(archive: Archive, sources: dict[str, Path], work: Path, out: Path, *, reuse: bool) -> list[Shot]:
    shots = []
    for name, source in sources.items():
        result = work / f"{name}-result"
        if not (reuse and (result / "job.json").exists()):
            _synthesize(source, result)
        files = sorted(source.rglob("*.dcm"))
        archive.store(files)
        archive.store(sorted(result.rglob("*.dcm")))
        study = _study_of(files[0])
        shots += shots_of(name, study, out)
        if name == "phantom":
            _thumbnail(archive, study, out / f"thumbnail-{name}.png")
    return shots


def _browse(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Run the browser over a job and return what it read on the screen, one entry per picture."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "job.json"
        path.write_text(json.dumps({**job, "profile": str(Path(name) / "profile")}))
        command = ["node", str(HERE / "browse.mjs"), str(path)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit("the browser did not take every picture; its message stands above")
    return [json.loads(line) for line in done.stdout.splitlines()]


def shrink(path: Path) -> int:
    """Bring a picture below the limit by fewer colours, then by fewer pixels; return its size in bytes."""
    from PIL import Image

    while path.stat().st_size > PICTURE_LIMIT_BYTES:
        with Image.open(path) as opened:
            picture = opened.convert("RGB") if opened.mode == "P" else opened.copy()
            reduced = opened.mode == "P"
        if reduced:
            picture = picture.resize((picture.width * 9 // 10, picture.height * 9 // 10), Image.Resampling.LANCZOS)
        picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    return path.stat().st_size


def faults(seen: Sequence[dict[str, Any]]) -> list[str]:
    """What is wrong with what the browser read: the synthetic series must name itself, on the image and in the list."""
    found = []
    for picture in seen:
        name = Path(picture["out"]).name
        if not any(FIRST_WORD in text for text in picture["panes"]):
            found.append(f"{name}: no viewport shows a description with {FIRST_WORD}")
        if not any(text.startswith(FIRST_WORD) for text in picture["series"]):
            found.append(f"{name}: no series of the panel begins with {FIRST_WORD}")
    return found


def main(words: Sequence[str] | None = None) -> None:
    """Make the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs" / "pictures")
    parser.add_argument("--work", type=Path, default=REPOSITORY / ".viewer", help="viewer, driver, data; kept")
    parser.add_argument("--only", choices=["phantom", "head-ct"])
    parser.add_argument(
        "--reuse", action="store_true", help="show the results of the last run instead of making new ones"
    )
    arguments = parser.parse_args(words)
    missing = missing_programs()
    if missing:
        raise SystemExit(
            f"not installed: {', '.join(missing)} (Debian: apt-get install chromium orthanc-dicomweb nodejs)"
        )
    work, out = arguments.work.resolve(), arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    dist = ensure(work / "packages")
    warnings.filterwarnings("ignore", category=UserWarning)  # pydicom on the headers of the public CT
    with tempfile.TemporaryDirectory() as name, running_archive(Path(name)) as archive:
        shots = _fill(archive, _sources(work, arguments.only), work, out, reuse=arguments.reuse)
        with serving(ViewerSite(dist, HERE / "app-config.js", archive.http_port)) as base:
            seen = _browse(
                {
                    "base": base,
                    "chromium": browser(),
                    "packages": str(work / "packages"),
                    "timeoutS": _TIMEOUT_S,
                    "shots": [asdict(shot) for shot in shots],
                }
            )
    for picture in seen:
        size = shrink(Path(picture["out"]))
        print(f"{picture['out']} ({size / 1024:.0f} KiB)\n  " + "\n  ".join(picture["panes"]))
    if found := faults(seen):
        raise SystemExit("\n".join(found))
