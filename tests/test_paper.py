import pandas as pd
import pytest

from ctlib import paper

TABLES = {name: paper.table(name) for name in paper.TABLES}


def test_every_table_is_there_with_rows_of_its_own():
    counts = {name: len(table) for name, table in TABLES.items()}
    assert counts == {
        "1": 4, "2a": 4, "2b": 4, "2c": 3, "2d": 4, "2e": 6, "2f": 5, "2g": 5, "2h": 3,
        "3": 24, "4": 22, "5": 7, "6": 16, "7": 4, "8": 4,
    }  # fmt: skip
    for name, table in TABLES.items():
        assert table.index.is_unique, name


@pytest.mark.parametrize("name", paper.TABLES)
def test_accuracies_are_percentages_and_top5_is_above_top1(name):
    table = TABLES[name]
    for column in table.columns[table.columns.str.startswith("top1")]:
        pairs = table[[column, column.replace("top1", "top5")]].dropna()
        assert (pairs.iloc[:, 0] < pairs.iloc[:, 1]).all() and pairs.max(axis=None) <= 100


def test_what_the_paper_repeats_agrees():
    full = {"gflops": 37.3, "top1": 50.1, "top5": 78.8}
    for name, row in (("2g", -1), ("2h", -1)):
        last = TABLES[name].iloc[row]
        assert {key: last[key] for key in full} == full
    default = {(36.3, 47.3, 76.2)}
    for name in ("2a", "2b", "2d", "2e", "2f", "2g"):
        rows = TABLES[name][["gflops", "top1", "top5"]].itertuples(index=False, name=None)
        assert default <= set(rows), name


def test_totals_are_views_times_one_view():
    table = TABLES["4"].dropna(subset=["gflops_total", "views"])
    products = table.gflops_view * table.views
    assert ((products - table.gflops_total).abs() <= 0.005 * table.gflops_total + 0.5).all()


def test_an_unknown_table_names_those_there_are():
    with pytest.raises(ValueError, match="unknown table '2i'.*2a"):
        paper.table("2i")
    assert isinstance(paper.table("6"), pd.DataFrame)
