"""Find CT and diffusion series in folders of DICOM and read them, whatever the maker.

========== ====================================================================================================
module     what it answers
========== ====================================================================================================
elements   numbers and private elements, read so that a dirty value is "not there"
csa        Siemens' CSA header
weighting  b value, direction, average or not, for every maker
mosaic     where the tiles of a Siemens mosaic lie in the patient
roles      weighted image, trace, ADC, other map, localizer
frames     `Frame`: one slice image, wherever it lies
pixels     signal of a frame
facts      `SeriesFacts` and the kind of a series
duplicates repeated files, and two series under one UID
scan       `find_series`, `scan_folder`
grouping   frames to volumes, volumes to a grid
volumes    `read_diffusion`
ct         `read_ct`, as the node reads
choice     `choose_pair`, `judge_pair`
========== ====================================================================================================

No patient data is kept: texts of a header are matched and dropped, the patient is known by a salted digest that means
nothing outside the process.
"""

from train.data.diffusion.choice import LeftOut, PairChoice, choose_pair, judge_pair
from train.data.diffusion.ct import read_ct
from train.data.diffusion.errors import DiffusionError
from train.data.diffusion.facts import SeriesFacts, SeriesKind
from train.data.diffusion.scan import FolderScan, find_series, scan_folder
from train.data.diffusion.volumes import DiffusionVolumes, read_diffusion
from train.data.diffusion.weighting import b_value_of

__all__ = [
    "DiffusionError",
    "DiffusionVolumes",
    "FolderScan",
    "LeftOut",
    "PairChoice",
    "SeriesFacts",
    "SeriesKind",
    "b_value_of",
    "choose_pair",
    "find_series",
    "judge_pair",
    "read_ct",
    "read_diffusion",
    "scan_folder",
]
