"""Draw the brain mask of a CT series over its slices, and time the imaging stages.

    python benchmarks/mask_overlay.py FOLDER --pattern "*.dcm" --out overlay.png

FOLDER holds the files of one CT series. The picture shows patient images: keep it where they may lie.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from jmmda_model.imaging import (
    AIR_HU,
    BrainMask,
    CtVolume,
    PreprocessingContract,
    brain_mask,
    from_network_grid,
    to_network_grid,
)


def read_series(folder: Path, pattern: str) -> CtVolume:
    """Read one CT series, sorted along its normal, padding as air."""
    import pydicom

    datasets = [pydicom.dcmread(path) for path in folder.glob(pattern)]
    orientation = np.array(datasets[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
    normal = np.cross(orientation[0], orientation[1])
    datasets.sort(key=lambda ds: float(normal @ np.array(ds.ImagePositionPatient, dtype=float)))
    planes = []
    for ds in datasets:
        stored = ds.pixel_array.astype(np.float32)
        hu = stored * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
        planes.append(np.where(stored == float(ds.get("PixelPaddingValue", -32768)), AIR_HU, hu))
    return CtVolume(
        np.stack(planes),
        np.array([ds.ImagePositionPatient for ds in datasets], dtype=float),
        orientation,
        (float(datasets[0].PixelSpacing[0]), float(datasets[0].PixelSpacing[1])),
        np.array([float(ds.get("SliceThickness") or 0) for ds in datasets]),
    )


def draw(volume: CtVolume, mask: BrainMask, out: Path, columns: int) -> None:
    """Write the montage."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = -(-volume.hu.shape[0] // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3 * columns, 3 * rows), facecolor="black", squeeze=False)
    for index, axis in enumerate(axes.flat):
        axis.axis("off")
        if index >= volume.hu.shape[0]:
            continue
        axis.imshow(volume.hu[index], cmap="gray", vmin=-10, vmax=90)
        if mask.mask[index].any():
            axis.contour(mask.mask[index], [0.5], colors="yellow", linewidths=0.7)
        axis.set_title(f"slice {index}", color="white", fontsize=8, pad=2)
    figure.tight_layout(pad=0.2)
    figure.savefig(out, dpi=110, facecolor="black")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pattern", default="*.dcm")
    parser.add_argument("--out", type=Path, help="PNG to write; without it only the figures are printed")
    parser.add_argument("--columns", type=int, default=7)
    parser.add_argument("--backend", choices=["auto", "opencv", "scipy"], default="auto")
    arguments = parser.parse_args()
    volume, contract = read_series(arguments.folder, arguments.pattern), PreprocessingContract()
    brain_mask(volume, backend=arguments.backend)  # the first call also loads libraries
    seconds: dict[str, float] = {}

    start = time.process_time()
    mask = brain_mask(volume, backend=arguments.backend)
    seconds["mask"] = time.process_time() - start
    print(f"{volume.hu.shape}, flags {mask.flags or 'none'}")
    for name, figure in mask.figures.items():
        print(f"  {name:22} {figure:10.2f}")
    if mask.mask.any():
        start = time.process_time()
        net = to_network_grid(volume, mask, contract)
        seconds["to grid"] = time.process_time() - start
        start = time.process_time()
        from_network_grid(net.ct[:, 0], net, mask, contract)
        seconds["from grid"] = time.process_time() - start
    print("CPU seconds: " + ", ".join(f"{name} {value:.3f}" for name, value in seconds.items()))
    if arguments.out:
        draw(volume, mask, arguments.out, arguments.columns)


if __name__ == "__main__":
    main()
