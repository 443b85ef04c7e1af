"""A user's table that cannot be read in one way only is refused: one line with the file, and where in it."""

import io
import zipfile
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2mae_theory import DataError, read_table
from r2mae_theory.csv_table import read_csv

X = np.random.default_rng(0).standard_normal((20, 3)).cumsum(axis=1)
ROWS = "\n".join(",".join(map(repr, row)) for row in X.tolist())


def npy(array, **options):
    out = io.BytesIO()
    np.save(out, array, **options)
    return out.getvalue()


def npz(**arrays):
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"", "it is empty"),
        ("a.csv", b"\n\n\n", "no lines"),
        ("a.csv", b"a,b\n1,2\n3,\xe9\n", r"line 3 is not UTF-8 text \(byte 0xe9\)"),
        ("a.csv", npy(X), "line 1 is not UTF-8"),
        ("a.csv", b"a,b\n\n1,2\n1,2,3\n", "line 4 has 3 cells, the first has 2"),
        ("a.csv", b'a,b\n1,"2\n3,4\n', "line 3: unexpected end of data"),
        ("a.csv", b"a,b\n1,2\n1,two\n3,4\n", "line 3, column b: 'two' is no number"),
        ("a.csv", b"a,b\n1,2\n1_000,2\n3,4\n", "line 3, column a: '1_000' is no number"),
        ("a.csv", b"country,2019,2020\nDE,1,2\nFR,2,3\n", "line 1 could be names or data"),
        ("a.csv", b",0,1,2\n0,5,6,7\n1,6,7,8\n", "line 1 holds the numbers of the columns"),
        ("a.csv", b"a;b\n1;2\n", "separated by commas"),
        ("a.csv", b"1,5;2,5\n", "separated by commas"),
        ("a.csv", b"a\tb\n1\t2\n", "separated by commas"),
        ("a.csv", b"a,b\nx,y\n", "no numeric column"),
        ("a.csv", b"a,b\n1,2\n", "only 1 complete samples"),
        ("a.npy", b"", "it is empty"),
        ("a.npy", npy(X)[:-9], "cannot read"),
        ("a.npy", npy(X)[:20], "cannot read"),
        ("a.npy", b"\x80\x04K\x01.", "cannot read"),
        ("a.npy", npz(X=X), "name it .npz"),
        ("a.npy", npy(np.array([{}] * 20, dtype=object), allow_pickle=True), "Object arrays cannot be loaded"),
        ("a.npy", npy(X * 1j), "not numeric: its type is complex128"),
        ("a.npy", npy(X.astype(str)), "not numeric: its type is <U32"),
        ("a.npy", npy(X.astype("M8[s]")), "not numeric: its type is datetime64"),
        ("a.npy", npy(X.astype([("a", float)])), "not numeric: its type is"),
        ("a.npy", npy(X[0]), r"shape \(3,\)"),
        ("a.npy", npy(X * np.nan), "only 0 complete|only 0 usable|dropped"),
        ("a.npy", npy(X * 1e200), "use other units"),
        ("a.npy", npy(X[:0]), "only 0 complete samples"),
        ("a.npz", npy(X), "name it .npy"),
        ("a.npz", npz(X=X)[:-30], "cannot read"),
        ("a.npz", npz(a=X, b=X), "its matrices are: a, b"),
        ("a.npz", npz(a=X[0]), "its matrices are: none"),
        ("a.parquet", npy(X), "cannot read"),
        ("a.h5ad", npy(X), "cannot read"),
        ("a.txt", b"1", "known suffixes"),
    ],
)
def test_a_bad_table_is_one_line_with_its_name(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said) as stop:
        read_table(tmp_path / name)
    message = str(stop.value)
    assert name in message
    assert "\n" not in message
    assert len(message.replace(str(tmp_path), "")) < 500


def test_folders_and_missing_files_are_named(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    for name, said in (("folder.csv", "a folder"), ("none.npy", "no such file"), ("x" * 300 + ".npy", "too long")):
        with pytest.raises(DataError, match=said):
            read_table(tmp_path / name)


def test_a_target_is_a_column_of_the_file_also_behind_a_column_of_text(tmp_path):
    lines = [f"row{k},{line}" for k, line in enumerate(ROWS.splitlines())]
    (tmp_path / "a.csv").write_text("id,x,y,z\n" + "\n".join(lines), encoding="utf-8")
    table = read_table(tmp_path / "a.csv")
    assert table.columns.tolist() == [1, 2, 3]
    assert (table.names, table.width) == (("x", "y", "z"), 4)
    assert np.array_equal(table.X, X)
    pd = pytest.importorskip("pandas")
    pd.DataFrame({"id": ["r"] * 20, "x": X[:, 0], "when": pd.Timedelta(1), "y": X[:, 1]}).to_parquet(
        tmp_path / "a.parquet"
    )
    assert read_table(tmp_path / "a.parquet").columns.tolist() == [1, 3]


def test_an_h5ad_whose_indices_point_outside_is_refused(tmp_path):
    """SciPy would write to memory that is not the matrix's."""
    anndata = pytest.importorskip("anndata")
    h5py = pytest.importorskip("h5py")
    sparse = pytest.importorskip("scipy.sparse")
    anndata.AnnData(sparse.csr_matrix(np.abs(X))).write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        file["X/indices"][0] = 10_000_000
    with pytest.raises(DataError, match=r"cannot read .*a\.h5ad: .*(indices|index)"):
        read_table(tmp_path / "a.h5ad")


def test_an_archive_is_asked_for_its_matrix_only(tmp_path):
    """Another member may be of a kind that is not read, or not fit into memory."""
    (tmp_path / "a.npz").write_bytes(npz(X=X))
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("names.npy", npy(np.array([{}], dtype=object), allow_pickle=True))
    assert np.array_equal(read_table(tmp_path / "a.npz").X, X)


@settings(max_examples=150, derandomize=True, deadline=None, database=None)
@given(position=st.integers(0, 2000), what=st.sampled_from(["cut", "flip", "insert"]), byte=st.integers(0, 255))
def check_damage(folder, name, content, position, what, byte):
    position %= len(content)
    tail = content[position + (what == "flip") :]
    damaged = content[:position] + (b"" if what == "cut" else bytes([byte]) + tail)
    (folder / name).write_bytes(damaged)
    with suppress(DataError):
        assert np.isfinite(read_table(folder / name).X).all()


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.csv"])
def test_a_damaged_table_is_refused_or_still_a_table(tmp_path, name):
    content = {"a.npy": npy(X), "a.npz": npz(X=X), "a.csv": f"a,b,c\n{ROWS}\n".encode()}[name]
    check_damage(tmp_path, name, content)


def test_what_csv_may_hold():
    table = read_csv(("\ufeff a ,b,note\r\n1, NA ,x\r\n\r\n2e3,inf,\r\n" + "-1,4,y\r\n").encode())
    assert table.names == [" a ", "b"]
    assert np.array_equal(table.X, [[1, np.nan], [2000, np.inf], [-1, 4]], equal_nan=True)
    assert table.notes == ["dropped 1 columns that are not numeric: note"]
