"""Training and evaluation on a machine that has torch, NumPy and SciPy alone, as a borrowed GPU machine may.

Run in a process of its own, where every other package is made absent. Left out: bundles, which need safetensors.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

PROGRAM = """
import sys
for name in ("SimpleITK", "pydicom", "highdicom", "pynetdicom", "skimage", "pandas", "matplotlib", "PIL", "cv2", "cc3d",
             "rich", "typer", "pydantic", "sqlalchemy", "lightning_fabric", "tensorboard", "torchmetrics", "jinja2",
             "pytorch_wavelets", "pywt", "safetensors"):
    sys.modules[name] = None
if __name__ == "__main__":
    from pathlib import Path
    from train.evaluate import evaluate_subject
    from train.fit import fit_recipe
    from train.recipe import parse_recipe
    import train.export, train.references
    recipe = parse_recipe({
        "name": "lean", "description": "lean",
        "data": {"train": {"A": 1}, "validation": {"A": 1}, "test": {"A": 1}, "matrix": 64, "n_slices": 14,
                 "slice_mm": 8.0, "workers": 1},
        "input": {"neighbours": 1, "mirror": True, "asymmetry_mm": [8]},
        "generator": {"size": "tiny"}, "discriminator": {"ndf": 4, "n_layers": 1, "num_scales": 1},
        "stages": [{"name": "pixel", "grid_px": 64, "steps": 2, "batch": 2},
                   {"name": "gan", "grid_px": 64, "steps": 2, "batch": 2, "adversarial": True}],
    }, "lean")
    run = Path(sys.argv[1])
    print(fit_recipe(recipe, run).steps, len(evaluate_subject(str(run)).methods))
"""


def test_fit_and_evaluate_need_no_more_than_torch_numpy_and_scipy(tmp_path: Path) -> None:
    program = tmp_path / "lean.py"
    program.write_text(PROGRAM, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(program), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    steps, methods = done.stdout.split()
    assert steps == "4"
    assert int(methods) > 5
