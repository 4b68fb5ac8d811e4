"""Figures of tables 2 to 7 of JEIT250643, printed beside ours. Its data are private: only ranks and effects compare.

The printed MSE is three times the mean squared error per pixel on [0, 1] that goes with the printed PSNR (our deduction
from all 34 rows, see docs/results.md). The p-values are Wilcoxon signed-rank tests against JMMDA-GAN, as printed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PaperRow:
    """One row: mean and standard deviation over images, and the printed p-values where there are some."""

    mse: float
    mse_sd: float
    psnr_db: float
    psnr_sd: float
    ssim: float
    ssim_sd: float
    p_mse: str | None = None
    p_psnr: str | None = None
    p_ssim: str | None = None


_PRINTED: Mapping[str, Mapping[str, PaperRow]] = {
    "table2": {
        "HisGAN": PaperRow(0.0186, 0.0124, 22.84, 2.52, 0.54, 0.112, "2e-163", "7e-205", "9e-255"),
        "ARGAN": PaperRow(0.0151, 0.0113, 24.02, 3.2, 0.752, 0.074, "4e-145", "6e-179", "3e-5"),
        "MedGAN": PaperRow(0.0187, 0.0133, 23.14, 3.41, 0.713, 0.081, "1e-193", "1e-228", "4e-125"),
        "MultiCycleGAN": PaperRow(0.024, 0.0165, 21.74, 2.5, 0.636, 0.098, "9e-217", "9e-240", "3e-247"),
        "ResCycleGAN": PaperRow(0.0344, 0.027, 20.44, 2.88, 0.596, 0.106, "5e-232", "6e-245", "4e-254"),
        "JMMDA-GAN": PaperRow(0.0097, 0.0114, 26.75, 4.32, 0.753, 0.101),
    },
    "table3": {
        "HisGAN": PaperRow(0.0119, 0.0076, 24.69, 2.34, 0.642, 0.116, "7e-223", "6e-246", "1e-268"),
        "ARGAN": PaperRow(0.0091, 0.0065, 26.06, 2.79, 0.825, 0.063, "4e-166", "2e-190", "7e-159"),
        "MedGAN": PaperRow(0.0112, 0.0075, 25.12, 2.81, 0.796, 0.065, "6e-217", "2e-240", "1e-225"),
        "MultiCycleGAN": PaperRow(0.0131, 0.0072, 24.12, 2.1, 0.744, 0.077, "1e-243", "6e-260", "1e-263"),
        "ResCycleGAN": PaperRow(0.0283, 0.0199, 21.09, 2.6, 0.66, 0.087, "1e-260", "1e-265", "1e-268"),
        "JMMDA-GAN": PaperRow(0.0059, 0.0053, 28.12, 2.85, 0.844, 0.072),
    },
    "table4": {
        "HisGAN": PaperRow(0.0337, 0.0209, 20.24, 2.57, 0.601, 0.112, "3e-137", "3e-174", "3e-106"),
        "ARGAN": PaperRow(0.0296, 0.017, 20.66, 2.25, 0.611, 0.089, "1e-181", "7e-220", "2e-218"),
        "MedGAN": PaperRow(0.0313, 0.0206, 20.54, 2.45, 0.625, 0.074, "4e-146", "5e-190", "4e-158"),
        "MultiCycleGAN": PaperRow(0.0462, 0.0273, 18.82, 2.44, 0.556, 0.085, "7e-256", "3e-263", "9e-263"),
        "ResCycleGAN": PaperRow(0.0345, 0.024, 20.19, 2.56, 0.618, 0.079, "1e-160", "1e-193", "5e-154"),
        "JMMDA-GAN": PaperRow(0.0155, 0.0154, 24.17, 3.12, 0.678, 0.073),
    },
    "table5": {
        "HisGAN": PaperRow(0.0313, 0.0211, 20.55, 2.43, 0.48, 0.115, "1e-174", "1e-205", "4e-251"),
        "ARGAN": PaperRow(0.0313, 0.0224, 20.66, 2.59, 0.615, 0.09, "3e-184", "1e-215", "2e-236"),
        "MedGAN": PaperRow(0.0294, 0.0211, 20.88, 2.49, 0.62, 0.084, "1e-170", "2e-205", "6e-225"),
        "MultiCycleGAN": PaperRow(0.0356, 0.0242, 20.02, 2.46, 0.578, 0.092, "2e-224", "7e-240", "5e-253"),
        "ResCycleGAN": PaperRow(0.0394, 0.03, 19.82, 2.88, 0.585, 0.1, "7e-210", "1e-224", "1e-238"),
        "JMMDA-GAN": PaperRow(0.0161, 0.0153, 23.96, 3.1, 0.681, 0.084),
    },
    "table6": {
        "HisGAN": PaperRow(0.0156, 0.0116, 23.68, 2.59, 0.592, 0.125, "<0.001", "<0.001", "<0.001"),
        "ARGAN": PaperRow(0.0121, 0.0095, 24.95, 2.97, 0.786, 0.075, "1e-302", "<0.001", "3e-77"),
        "MedGAN": PaperRow(0.0153, 0.0111, 23.91, 3.09, 0.748, 0.079, "<0.001", "<0.001", "<0.001"),
        "MultiCycleGAN": PaperRow(0.0255, 0.0187, 21.5, 2.49, 0.66, 0.103, "<0.001", "<0.001", "<0.001"),
        "ResCycleGAN": PaperRow(0.0321, 0.024, 20.63, 2.74, 0.623, 0.105, "<0.001", "<0.001", "<0.001"),
        "JMMDA-GAN": PaperRow(0.0077, 0.008, 27.22, 3.34, 0.794, 0.098),
    },
    "table7": {
        "Pix2PixHD": PaperRow(0.00969, 0.0066, 25.78, 3.0, 0.813, 0.084, "8e-191", "1e-206", "9e-239"),
        "Pix2PixHD+MGFF": PaperRow(0.00681, 0.006, 27.41, 2.78, 0.83, 0.069, "2e-55", "6e-69", "2e-168"),
        "Pix2PixHD+MFAB": PaperRow(0.00809, 0.0058, 26.62, 3.02, 0.831, 0.077, "2e-137", "1e-153", "1e-143"),
        "JMMDA-GAN": PaperRow(0.00585, 0.0053, 28.12, 2.85, 0.844, 0.072),
    },
}

#: Key of a table -> printed name of a method -> its row, in the order of the table. ``table4_drop`` and ``table5_drop``
#: set JMMDA-GAN trained on the tested data set against JMMDA-GAN trained on the other one.
TABLES: Mapping[str, Mapping[str, PaperRow]] = {
    **_PRINTED,
    "table4_drop": {"in-centre": _PRINTED["table3"]["JMMDA-GAN"], "cross-centre": _PRINTED["table4"]["JMMDA-GAN"]},
    "table5_drop": {"in-centre": _PRINTED["table2"]["JMMDA-GAN"], "cross-centre": _PRINTED["table5"]["JMMDA-GAN"]},
}
