"""The report of experiments: pooled figures, p-values and grids against independent arithmetic, every file read back.

Scores are drawn, with real recipes behind them; lesion figures come from the evaluator itself. Training and scoring
have their own tests, and whether LaTeX sets the tables is not tried, only that they are well formed.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats
from training_cases import drawn_case, tiny_recipe

from train.evaluation.scoring import CaseTruth
from train.evaluation.summary import summarise
from train.experiments.figures import pictures_of, slices
from train.experiments.latex import escape, latex_table
from train.experiments.layout import Column, Grid
from train.experiments.pages import file_stem, markdown
from train.experiments.paper import TABLES
from train.experiments.pooling import RowScores, paired
from train.experiments.records import Experiment, Row, Scores, Table, TestSet, Training
from train.experiments.report import csv_text, write_report
from train.experiments.store import ScoreBook
from train.experiments.tables import gather, grids

B = TestSet(("B",))
MARK = "pipeline check: no ranking, no p values"
N_PATIENTS, N_SLICES, SIDE = 8, 3, 24
Book = dict[tuple[str, str], Scores]


def picture(error: float) -> np.ndarray:
    """CT, measured DWI, prediction and lesion of a slice; the prediction is off by ``error`` in the lesion."""
    rows, columns = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    brain, lesion = rows**2 + columns**2 < 100, (rows - 3) ** 2 + columns**2 < 12
    dwi = np.where(brain, 0.3 + 0.3 * lesion, 0.0)
    planes = np.stack([np.where(brain, 0.5, 0.0), dwi, dwi + error * lesion, lesion])
    return np.rint(planes * 255).astype(np.uint8)


def drawn(key: str, level: float, seed: int, *, test: TestSet = B, error: float = -0.2) -> Scores:
    """Scores of eight patients whose brain MSE lies around a level."""
    patients = tuple(f"B/p{number}" for number in range(N_PATIENTS) for _ in range(N_SLICES))
    rng = np.random.default_rng(seed)
    mse = level * rng.uniform(0.8, 1.25, len(patients))
    values = {"superpixel.r": np.tanh(rng.normal(1.0, 0.3, len(patients)))}
    for region, factor in (("brain", 1.0), ("frame", 0.25), ("lesion", 3.0)):
        values[f"{region}.mse"] = factor * mse
        values[f"{region}.psnr_db"] = -10.0 * np.log10(factor * mse)
        values[f"{region}.ssim"] = 1.0 - 10.0 * mse + rng.normal(0.0, 0.02, len(patients))
    points = np.stack([rng.uniform(0.2, 0.8, 40), rng.uniform(0.2, 0.8, 40)], axis=1)
    summary = {"brain_fraction": 0.27}
    numbers = np.tile(np.arange(N_SLICES), N_PATIENTS)
    return Scores(key, test, patients, numbers, values, summary, points, {"B/p0": picture(error)})


def row(
    label: str,
    book: Book,
    *,
    number: int,
    level: float = 0.01,
    seeds: int = 1,
    have: int | None = None,
    **changes: object,
) -> Row:
    """Row of networks; the first ``have`` seeds are scored."""
    test = changes.pop("test", B)
    trainings = tuple(Training(tiny_recipe(seed=10 * number + seed)) for seed in range(seeds))
    for seed, training in enumerate(trainings[:have]):
        book[training.key, test.key] = drawn(training.key, level, 10 * number + seed, test=test)
    return Row(label, trainings, test, centres=("B",), **changes)


def control(label: str, name: str, book: Book, level: float) -> Row:
    book[f"{name}@B", B.key] = drawn(name, level, 99)
    return Row(label, (), B, control=name, centres=("B",))


def comparison_table(book: Book, **changes: object) -> Table:
    """Ours, a worse method, one that failed, one with a seed too few, a control and the measured DWI."""
    rows = (
        row("ARGAN", book, number=1, level=0.02, seeds=2, paper="ARGAN"),
        row("MedGAN", book, number=2, seeds=2, have=0, paper="MedGAN"),
        row("HisGAN", book, number=3, level=0.03, seeds=2, have=1, paper="HisGAN"),
        control("mean image", "mean_image", book, 0.05),
        control("measured DWI", "measured_dwi", book, 0.001),
        row("JMMDA-GAN", book, number=4, seeds=2, paper="JMMDA-GAN"),
    )
    settings: dict[str, object] = {"paper": "table3", "note": "A note of the table."}
    return Table("table3", "Table 3: centre B", rows, "JMMDA-GAN", **(settings | changes))


def oracle_table(book: Book) -> Table:
    rows = (
        row("mask of the CT", book, number=5),
        row("lesion given", book, number=6, test=TestSet(("B",), mask="lesion")),
    )
    return Table("masks", "Source of the mask", rows, "mask of the CT", shows=("image", "lesion", "superpixel"))


def grids_of(table: Table, book: Mapping, *, mark: str = "", data: str = "Phantom") -> dict[str, Grid]:
    return {grid.key: grid for grid in grids(gather(table, book, data=data, mark=mark))}


def cell(grid: Grid, label: str, heading: str) -> str:
    (line,) = [line for line in grid.rows if line[0] == label]
    return line[[column.heading for column in grid.columns].index(heading)]


def plain_row(*seeds: Mapping[str, Sequence[float]], patients: Sequence[str] = ("a", "a", "a", "b")) -> RowScores:
    """A row of hand-written values, a seed each."""
    scores = tuple(
        Scores(f"k{n}", B, tuple(patients), np.arange(len(patients)), {k: np.array(v, float) for k, v in seed.items()})
        for n, seed in enumerate(seeds)
    )
    return RowScores(Row("row", (), B, control="x"), scores)


def test_means_and_deviations_over_slices_patients_and_seeds() -> None:
    figure = plain_row({"brain.mse": [1, 2, 3, 10]}, {"brain.mse": [2, 3, 4, 11]}).figure("brain.mse")
    assert figure.mean == pytest.approx(4.5)
    assert figure.sd == pytest.approx(np.sqrt(50 / 3))
    assert figure.patient_mean == pytest.approx(6.5)
    assert figure.patient_sd == pytest.approx(8 / np.sqrt(2))
    assert figure.seed_sd == pytest.approx(1 / np.sqrt(2))
    assert (figure.n, figure.n_patients) == (4, 2)


def test_unknown_slices_do_not_count_and_one_seed_has_no_deviation() -> None:
    figure = plain_row({"lesion.mse": [np.nan, 2, 4, np.nan]}).figure("lesion.mse")
    assert (figure.mean, figure.patient_mean, figure.n, figure.n_patients) == (3.0, 3.0, 2, 1)
    assert np.isnan([figure.patient_sd, figure.seed_sd]).all()
    assert plain_row().figure("lesion.mse").n == 0


def test_correlations_are_averaged_over_fisher_z_and_others_are_not() -> None:
    found = plain_row({"superpixel.r": [0.9, 0.1, 0.5, 0.2], "superpixel.ccc": [0.9, 0.1, 0.5, 0.2]})
    r, ccc = found.figure("superpixel.r"), found.figure("superpixel.ccc")
    assert r.mean == pytest.approx(np.tanh(np.arctanh([0.9, 0.1, 0.5, 0.2]).mean()))
    first = np.arctanh([0.9, 0.1, 0.5]).mean()
    assert r.patient_mean == pytest.approx(np.tanh((first + np.arctanh(0.2)) / 2))
    assert ccc.mean == pytest.approx(0.425)


def test_paper_convention_is_three_times_the_mse_of_the_frame() -> None:
    found = plain_row({"frame.mse": [0.001, 0.002, 0.003, 0.006]})
    assert "frame.mse_paper" in found.metrics
    assert found.figure("frame.mse_paper").mean == pytest.approx(0.009)
    assert found.figure("frame.mse_paper").sd == pytest.approx(3 * found.figure("frame.mse").sd)


def test_values_are_paired_by_patient_and_slice_not_by_position() -> None:
    ours = plain_row({"brain.mse": [1, 2, 3, 4]})
    scores = ours.scores[0]
    other = Scores("o", B, ("b", "a", "c"), np.array([3, 1, 0]), {"brain.mse": np.array([40.0, 20.0, 99.0])})
    values = paired(RowScores(ours.row, (other,)), ours, ["brain.mse"])
    np.testing.assert_array_equal(values.values["brain.mse"], [np.nan, 20.0, np.nan, 40.0])
    assert values.patients == scores.patients


def test_p_is_wilcoxons_on_means_of_patients_and_seeds_after_holm() -> None:
    book: Book = {}
    rows = (row("HisGAN", book, number=1, level=0.0105, seeds=2), row("JMMDA-GAN", book, number=2, seeds=2))
    table = Table("t", "T", rows, "JMMDA-GAN")
    raw = []
    for metric in ("brain.mse", "brain.psnr_db", "brain.ssim"):
        theirs, ours = (
            np.mean([book[t.key, B.key].values[metric] for t in one.trainings], axis=0).reshape(N_PATIENTS, -1).mean(1)
            for one in rows
        )
        raw.append(stats.wilcoxon(ours, theirs, method="asymptotic").pvalue)
    order = np.argsort(raw)
    expected = np.empty(3)
    expected[order] = np.minimum(1.0, np.maximum.accumulate(np.array(raw)[order] * [3, 2, 1]))
    grid = grids_of(table, book)["t-brain"]
    found = [float(cell(grid, "HisGAN", f"{heading} p")) for heading in ("MSE", "PSNR dB", "SSIM")]
    np.testing.assert_allclose(found, expected, atol=6e-4)
    assert 0.01 < min(raw) < 0.9, "a p that says nothing would pass any adjustment"


def test_best_of_a_column_is_neither_the_ceiling_nor_an_oracle() -> None:
    book: Book = {}
    table = comparison_table(book)
    grid = grids_of(table, book)["table3-brain"]
    assert {line for line, _ in grid.best} == {5}
    assert {grid.columns[column].heading for _, column in grid.best} >= {
        "MSE slices",
        "PSNR dB slices",
        "SSIM patients",
    }
    assert not grids_of(oracle_table(book), book)["masks-brain"].best


def test_the_measured_dwi_is_not_compared_and_a_failed_row_counts_in_its_family() -> None:
    book: Book = {}
    tests = grids_of(comparison_table(book), book)["table3-tests"]
    assert {line[0] for line in tests.rows} == {"ARGAN", "MedGAN", "HisGAN", "mean image"}
    assert "12 comparisons" in " ".join(tests.notes)
    assert all(line[4:6] == ("n/a", "n/a") for line in tests.rows if line[0] == "MedGAN")


def test_missing_rows_show_dashes_and_say_why() -> None:
    book = ScoreBook()
    table = comparison_table(book)
    medgan = table.rows[1].trainings[0]
    book.missing[medgan.key, B.key] = "the network was not trained to its end"
    grid = grids_of(table, book)["table3-brain"]
    assert set(next(line for line in grid.rows if line[0] == "MedGAN †")[1:]) == {"-"}
    notes = " ".join(grid.notes)
    assert "† Not trained or not scored: MedGAN (the network was not trained to its end)." in notes
    assert "‡ Fewer seeds than asked for: HisGAN, 1 of 2." in notes
    assert "A note of the table." in notes


def test_a_mark_leaves_out_every_p_and_rank_and_stands_in_every_caption() -> None:
    book: Book = {}
    table = comparison_table(book, shows=("image", "superpixel", "lesion"))
    marked, plain = (grids_of(table, book, mark=mark) for mark in (MARK, ""))
    assert "table3-tests" in plain
    assert "table3-tests" not in marked
    for grid in marked.values():
        assert MARK[1:] in grid.title
        assert not grid.best
        assert not [column.heading for column in grid.columns if re.search(r"\bp\b", column.heading)]
        assert not re.search("Wilcoxon|rank", " ".join(grid.notes))
    lines = list(csv.DictReader(io.StringIO(csv_text("table3", gather(table, book, data="Phantom", mark=MARK)))))
    figures = ("p", "p_holm", "effect", "difference")
    assert not any(line[f"{unit}_{name}"] for line in lines for unit in ("patients", "slices") for name in figures)
    assert not any(line["paper_p"] for line in lines)
    assert {line["mark"] for line in lines} == {MARK}


def test_the_paper_stands_beside_the_frame_in_its_own_digits() -> None:
    book: Book = {}
    grid = grids_of(comparison_table(book), book)["table3-paper"]
    scored = book[comparison_table({}).rows[2].trainings[0].key, B.key]
    assert cell(grid, "HisGAN ‡", "3 x MSE here").startswith(f"{3 * scored.values['frame.mse'].mean():.4f} ± ")
    assert cell(grid, "ARGAN", "3 x MSE paper") == "0.0091 ± 0.0065"
    assert cell(grid, "ARGAN", "PSNR dB paper") == "26.06 ± 2.79"
    assert cell(grid, "ARGAN", "SSIM p paper") == TABLES["table3"]["ARGAN"].p_ssim
    assert cell(grid, "mean image", "SSIM paper") == "-"
    finer = Table("t", "T", (row("A0", book, number=8, paper="Pix2PixHD"),), "A0", paper="table7")
    assert cell(grids_of(finer, book)["t-paper"], "A0", "3 x MSE paper") == "0.00969 ± 0.00660"


@pytest.mark.parametrize("data", ["Phantom", "Patients (an archive)"])
def test_every_caption_names_the_data_and_the_oracle(data: str) -> None:
    book: Book = {}
    scored = gather(oracle_table(book), book, data=data, mark="")
    captions = [grid.title for grid in grids(scored)] + [picture.caption for picture in pictures_of(scored)]
    assert len(captions) == 8
    assert all(caption.startswith(f"{data}. Source of the mask.") for caption in captions)
    assert all("(oracles): lesion given: true lesion." in caption for caption in captions)
    assert next(iter(grids(scored))).rows[1][0] == "lesion given (oracle)"


def test_lesion_figures_are_those_of_the_evaluator() -> None:
    cases = [drawn_case(number, centre="B", split="test") for number in range(3)]
    volumes = [CaseTruth(case, 7.2).score(0.9 * case.target_slices(), 0.5) for case in cases]
    summary = summarise(volumes, resamples=20)
    book: Book = {}
    one = row("JMMDA-GAN", book, number=7)
    (key,) = book
    book[key] = Scores(key[0], B, ("B/a",), np.array([0]), {"lesion.mse": np.array([0.01])}, summary)
    found = grids_of(Table("t", "T", (one,), "JMMDA-GAN", shows=("lesion",)), book)
    auc, size = summary["lesion_auc_pooled"], summary["detection"]["bright"]["rate"]["lesion > 10 ml"]
    expected = f"{auc['value']:.3f} ({auc['low']:.3f} to {auc['high']:.3f})"
    assert cell(found["t-lesion"], "JMMDA-GAN", "lesion AUC pooled") == expected
    rate = cell(found["t-bright"], "JMMDA-GAN", "detected, lesion > 10 ml")
    assert rate.startswith(f"{size['value']:.2f}")
    assert rate.endswith(f"n = {size['lesions']}")
    assert size["lesions"] == 3


def test_superpixels_that_were_left_out_say_why_and_other_numbers_have_their_own_grid() -> None:
    book: Book = {}
    table = Table("s", "S", (row("JMMDA-GAN", book, number=9),), "JMMDA-GAN", shows=("superpixel",))
    (key,) = book
    book[key].values["superpixel_50.r"] = np.full(N_PATIENTS * N_SLICES, 0.5)
    assert cell(grids_of(table, book)["s-segments"], "JMMDA-GAN", "r 50 superpixels") == "0.500 ± 0.000"
    nothing = {"superpixel.r": np.full(N_PATIENTS * N_SLICES, np.nan)}
    summary = {"superpixels": {"segments": None, "left_out": "superpixels need scikit-image"}}
    book[key] = Scores(key[0], B, book[key].patients, book[key].slices, nothing, summary)
    found = grids_of(table, book)
    assert list(found) == ["s-superpixel"]
    assert cell(found["s-superpixel"], "JMMDA-GAN", "r slices") == "-"
    assert "Left out: superpixels need scikit-image." in found["s-superpixel"].notes


def test_a_control_is_looked_up_with_the_centres_of_its_fit_first() -> None:
    book: Book = {}
    rows = (control("lookup", "hu_lookup", book, 0.02),)
    assert gather(Table("t", "T", rows, "lookup"), book, data="Phantom", mark="").scored
    alone = {("hu_lookup", B.key): book["hu_lookup@B", B.key], ("hu_lookup@A", B.key): drawn("a", 1.0, 0)}
    (found,) = gather(Table("t", "T", rows, "lookup"), alone, data="Phantom", mark="").rows
    assert found.scores == (alone["hu_lookup", B.key],)


def unescaped(text: str) -> str:
    return re.sub(r"\\[&%$#_{}]", "", text)


@pytest.mark.parametrize("text", ["a_b & 5 % {x} #1 ~ ^ \\ $ <1e-300 ± [3]", "-0.5 to -0.1, 2.0e-05, 7e-223 †‡"])
def test_latex_escapes_everything_that_would_be_a_command(text: str) -> None:
    bare = unescaped(escape(text))
    assert bare.count("{") == bare.count("}")
    assert not re.search(r"[&%$#±†‡~]|(?<!\d)\^(?!\{)", bare.replace("10^", ""))
    assert not re.search(r"(?<!\{)\[", bare)


def test_latex_writes_powers_and_minus_signs_as_mathematics() -> None:
    assert escape("7e-223") == r"\ensuremath{7\times10^{-223}}"
    assert escape("<1e-300") == r"\ensuremath{<}\ensuremath{1\times10^{-300}}"
    assert escape("-0.5, JMMDA-GAN, 1-10 ml") == r"\ensuremath{-}0.5, JMMDA-GAN, 1-10 ml"


def test_latex_rows_have_a_cell_a_column_and_environments_close() -> None:
    book: Book = {}
    for grid in grids_of(comparison_table(book, shows=("image", "lesion", "superpixel")), book).values():
        text = latex_table(grid)
        lines = [unescaped(line) for line in text.splitlines() if line.endswith(r"\\")]
        headings = [line for line in lines if "multicolumn" in line]
        for line in lines:
            spans = [int(count) for count in re.findall(r"\\multicolumn\{(\d+)\}", line)]
            assert line.count("&") + 1 + sum(spans) - len(spans) == len(grid.columns)
        assert len(lines) == len(grid.rows) + 1 + len(headings)
        opened = re.findall(r"\\begin\{(\w+)\}", text)
        assert opened[::-1] == re.findall(r"\\end\{(\w+)\}", text)
        assert unescaped(text).count("{") == unescaped(text).count("}")


def test_markdown_keeps_cells_apart_and_marks_the_best() -> None:
    grid = Grid(
        "k", "T.", (Column("method"), Column("slices", "MSE")), (("a|b", "1"), ("c", "2")), ("N.",), frozenset({(1, 1)})
    )
    assert markdown([grid]).splitlines() == [
        *("**T.**", "", "| method | MSE slices |", "| --- | --- |", r"| a\|b | 1 |", "| c | **2** |", "", "N."),
    ]


def test_the_error_map_is_blue_where_the_synthetic_dwi_is_too_dark() -> None:
    book: Book = {}
    one = row("JMMDA-GAN", book, number=1)
    (key,) = book
    counts = {}
    for error in (-0.25, 0.0, 0.25):
        book[key] = drawn(key[0], 0.01, 0, error=error)
        png = slices(gather(Table("t", "T", (one,), "JMMDA-GAN"), book, data="Phantom", mark=""), "B/p0")
        seen = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
        seen = seen[:, : seen.shape[1] * 3 // 4]  # without the scale
        counts[error] = [int((seen[..., one] - seen[..., other] > 90).sum()) for one, other in ((2, 0), (0, 2))]
    blue, red = zip(*counts.values(), strict=True)
    assert blue[0] > blue[1] + 100
    assert red[2] > red[1] + 100
    assert abs(blue[2] - blue[1]) < 20
    assert abs(red[0] - red[1]) < 20


class Page(HTMLParser):
    """What a page refers to, its ids, and the number of cells of each line of its tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.sources: list[str] = []
        self.ids: list[str] = []
        self.lines: list[int] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids += [found["id"]] if found.get("id") else []
        self.links += [found["href"]] if "href" in found else []
        self.sources += [value for name, value in attrs if name in ("src", "srcset", "data") and value]
        if tag == "tr":
            self.lines.append(0)
        if tag in ("td", "th"):
            self.lines[-1] += int(found.get("colspan") or 1)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path], Book]:
    book: Book = {}
    experiments = (
        Experiment("table3", "Table 3", (comparison_table(book),)),
        Experiment("masks", "Masks & <sources>", (oracle_table(book),)),
    )
    folder = tmp_path_factory.mktemp("report")
    paths = write_report(experiments, book, folder, mark="", source="phantom", facts={"budget": "full & <tested>"})
    return folder, paths, book


def test_report_writes_what_it_says_and_nothing_else(report: tuple[Path, list[Path], Book]) -> None:
    folder, paths, _ = report
    assert paths[0] == folder / "index.html"
    assert sorted(paths) == sorted(path for path in folder.rglob("*") if path.is_file())
    assert {path.name for path in (folder / "table3").iterdir()} == {
        *(f"table3.{ending}" for ending in ("md", "csv", "tex")),
        *("table3-boxes.png", "table3-slices-1.png"),
    }
    assert "masks-scatter.png" in {path.name for path in paths}


def test_page_needs_nothing_but_itself(report: tuple[Path, list[Path], Book]) -> None:
    folder, paths, _ = report
    text = paths[0].read_text(encoding="utf-8")
    page = Page(text)
    pictures = [path for path in paths if path.suffix == ".png" and folder / "pages" not in path.parents]
    assert len(page.sources) == len(pictures)
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not re.search(r"https?://|<script|@import|url\(", text)
    assert len(page.ids) == len(set(page.ids))
    for link in page.links:
        assert link[1:] in page.ids if link.startswith("#") else (folder / link).is_file()
    assert "Masks &amp; &lt;sources&gt;" in text
    assert "full &amp; &lt;tested&gt;" in text
    assert "Everything here was measured on the digital phantom" in text


def test_markdown_pages_are_complete_in_themselves(report: tuple[Path, list[Path], Book]) -> None:
    pages = report[0] / "pages"
    index = (pages / "README.md").read_text(encoding="utf-8")
    linked = {pages / link for link in re.findall(r"\]\(([^)]+)\)", index)}
    assert {path.name for path in linked} == {"table3.md", "masks.md"}
    assert "| budget | full & <tested> |" in index
    for path in (pages / "README.md", *linked):
        assert "Everything here was measured on the digital phantom" in path.read_text(encoding="utf-8")
    shown = {page.parent / link for page in linked for link in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page.read_text())}
    assert shown == set(pages.rglob("*.png"))
    assert {path.name for path in shown} >= {"table3-boxes.png", "table3-slices-1.png", "masks-scatter.png"}
    for table in (report[0] / "table3" / "table3.md", report[0] / "masks" / "masks.md"):
        assert table.read_text(encoding="utf-8").strip() in (pages / table.name).read_text(encoding="utf-8")


def test_lines_of_a_table_on_the_page_have_one_width(report: tuple[Path, list[Path], Book]) -> None:
    text = report[1][0].read_text(encoding="utf-8")
    tables = re.findall(r"<table id=.*?</table>", text, flags=re.DOTALL)
    assert len(tables) == 8
    for table in tables:
        assert len(set(Page(table).lines)) == 1


def test_figures_are_pictures_with_something_on_them(report: tuple[Path, list[Path], Book]) -> None:
    for path in report[1]:
        if path.suffix == ".png":
            seen = np.asarray(Image.open(path).convert("L"))
            assert min(seen.shape) > 150
            assert seen.std() > 10


def test_csv_has_every_figure_in_full(report: tuple[Path, list[Path], Book]) -> None:
    folder, _, book = report
    with (folder / "masks" / "masks.csv").open(encoding="utf-8", newline="") as stream:
        lines = list(csv.DictReader(stream))
    training = Training(tiny_recipe(seed=60))
    values = book[training.key, TestSet(("B",), mask="lesion").key].values
    found = {line["metric"]: line for line in lines if line["method"] == "lesion given"}
    assert set(values) < set(found)
    for name, expected in values.items():
        if name != "superpixel.r":
            assert float(found[name]["mean"]) == pytest.approx(expected.mean(), rel=1e-6)
    assert {(line["mask"], line["oracle"]) for line in found.values()} == {("lesion", "yes")}
    assert found["brain.mse"]["patients_n"] == str(N_PATIENTS)
    assert found["brain.mse"]["slices_n"] == str(N_PATIENTS * N_SLICES)
    difference = float(found["brain.mse"]["slices_difference"])
    ours = book[Training(tiny_recipe(seed=50)).key, B.key].values["brain.mse"]
    assert difference == pytest.approx((ours - values["brain.mse"]).mean(), rel=1e-5)


@pytest.mark.parametrize(("module", "words"), [("jinja2", "Jinja2"), ("matplotlib.figure", "Matplotlib")])
def test_without_a_package_the_tables_are_there_and_the_error_names_the_extra(
    module: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book: Book = {}
    table = Table("t", "T", (row("JMMDA-GAN", book, number=1),), "JMMDA-GAN")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"{words}.*pip install 'jmmda-node\[train\]'"):
        write_report([Experiment("e", "E", (table,))], book, tmp_path, mark=MARK, source="phantom", facts={})
    assert {path.suffix for path in (tmp_path / "e").iterdir()} >= {".md", ".csv", ".tex"}


def test_file_names_of_centres_with_any_name_stay_in_their_folder() -> None:
    assert file_stem("superpixel_../St. Mary/α") == "superpixel_.._St._Mary_α"
