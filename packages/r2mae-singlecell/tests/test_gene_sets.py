"""Gene sets: what is read, what is found in the data, and what is refused."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from r2mae_core import UserError
from r2mae_singlecell.gene_sets import find_gene_sets, read_gene_sets

VAR = pd.DataFrame({"feature_name": ["CD3E", "MS4A1", "LYZ", "CD3E"]}, index=["ENSG1", "ENSG2", "ENSG3", "ENSG4"])


def gmt(content):
    Path("sets.gmt").write_bytes(content if isinstance(content, bytes) else content.encode())
    return Path("sets.gmt")


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_file_is_read_gzipped_or_not(pack):
    text = "\ufeffT cells\thttp://x\tCD3E\tCD2\tCD3E\r\n\n B \t\tMS4A1\t\t\n"
    assert read_gene_sets(gmt(pack(text.encode()))) == {"T cells": ("CD3E", "CD2"), "B": ("MS4A1",)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\tx\tCD3E\nb CD3E MS4A1\n", r"sets.gmt, line 2 is not a gene set: a name, a description and genes must be"),
        ("a\tx\n", "sets.gmt, line 1 is not a gene set"),
        ("a\tx\t\t \n", "sets.gmt, line 1 is not a gene set"),
        ("\n \tx\tCD3E\n", "sets.gmt, line 2 is not a gene set"),
        ("a\tx\tCD3E\na\tx\tLYZ\n", r"sets.gmt, line 2: there is a set 'a' already; give each set a name"),
        ("\n\n", "sets.gmt holds no gene set"),
        (b"a\tx\t\xff\n", "sets.gmt cannot be read: it is damaged, or not gene sets in GMT form"),
        (gzip.compress(b"a\tx\tCD3E\n", mtime=0)[:-3], "sets.gmt cannot be read: it is damaged"),
    ],
)
def test_a_malformed_file_is_named_with_its_line(content, message):
    with pytest.raises(UserError, match=message):
        read_gene_sets(gmt(content))


def test_a_file_that_is_not_there_or_a_folder():
    with pytest.raises(UserError, match=r"none\.gmt is not there; gene sets in GMT form"):
        read_gene_sets(Path("none.gmt"))
    with pytest.raises(UserError, match="is a folder; name a file with gene sets"):
        read_gene_sets(Path.cwd())


def test_genes_are_found_by_their_index_and_by_their_symbols():
    sets = {"T": ["CD3E", "CD2"], "B": ["ENSG2", "CD19"], "none": ["cd3e", "CD19"], "M": ["LYZ", "ENSG3"]}
    found = find_gene_sets(sets, VAR)
    assert found.positions == {"T": (0, 3), "B": (1,), "M": (2,)}  # a symbol of two genes stands for both
    assert (found.left_out, found.n_unknown, found.n_genes, found.n_covered) == (("none",), 3, 4, 4)
    assert found.describe() == (
        "4 genes hidden together in 3 sets (left out: 1 set without any gene of the data: none; "
        "3 genes of the sets that the data lack)"
    )
    groups = found.groups()
    assert [groups.position[groups.unit == unit].tolist() for unit in range(3)] == [[0, 3], [1], [2]]


def test_genes_that_may_not_be_hidden_count_as_lacking():
    found = find_gene_sets({"T": ["CD3E"], "B": ["MS4A1"]}, VAR, np.array([0, 2]))
    assert (found.positions, found.left_out, found.n_unknown) == ({"T": (0,)}, ("B",), 1)


def test_many_sets_left_out_are_counted_and_the_first_named():
    found = find_gene_sets({"T": ["CD3E"], **{f"s{i}": ["x"] for i in range(8)}}, VAR)
    assert "8 sets without any gene of the data: s0, s1, s2, s3, s4 and 3 more; 1 gene of" in found.describe()


def test_what_acts_on_the_masks_has_a_name():
    one, same, other = ({"T": ["CD3E", "CD2"]}, {"T": ["CD2", "CD3E"]}, {"T": ["CD3E", "LYZ"]})
    digests = [find_gene_sets(sets, VAR).digest() for sets in (one, same, other)]
    assert digests[0] == digests[1] != digests[2]
    renamed = VAR.assign(feature_name=["x", "CD3E", "y", "z"])  # the same file finds other genes
    assert find_gene_sets(one, renamed).digest() != digests[0]


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ({}, "gene_sets must be a dict of set name → gene names with at least one set"),
        (["CD3E"], "gene_sets must be a dict"),
        ({"T": "CD3E"}, "the set 'T' must be a list of gene names, not empty"),
        ({"T": []}, "the set 'T' must be a list of gene names, not empty"),
        ({"T": [3]}, "the set 'T' must be a list of gene names"),
        ({"T": ["Cd3e"]}, "none of 1 set has a gene of .*; it names genes like 'Cd3e', the data like 'ENSG1', 'CD3E'"),
    ],
)  # fmt: skip
def test_what_is_no_set_of_the_data_is_refused(sets, message):
    with pytest.raises(UserError, match=message):
        find_gene_sets(sets, VAR)
