"""Nothing that comes out of a file runs code, and what is read back is what was written."""

import json
import os
import pickle
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from safetensors import safe_open

from r2mae_core import (
    Command,
    Fixed,
    PretrainOptions,
    Record,
    RunFolder,
    Uniform,
    UserError,
    check_checksums,
    check_contents,
    contents_of,
    load_tensors,
    name_of_scheme,
    read_json,
    read_metrics,
    read_records,
    read_yaml,
    reading,
    run,
    run_identity,
    sampler_from_config,
    sampler_to_config,
    save_tensors,
    say,
    short_name,
    write_checksums,
    write_json,
    write_records,
    write_yaml,
)

POPEN = {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "PWNED"]}}
EVIL = {"class_path": "evil_module.Sampler"}
SMUGGLED = [
    POPEN,
    EVIL,
    {"class_path": "r2mae_core.Uniform", "init_args": {"low": 0.1, "high": POPEN}},
    {"class_path": "Uniform", "init_args": {"low": EVIL, "high": 0.9}},
    {"class_path": "Curriculum", "init_args": {"ratio": {"scheme": "r2mae", "low": 0.1, "high": EVIL}}},
    {"class_path": "os.system", "init_args": {"command": "touch PWNED"}},
    {"class_path": "r2mae_core.lab.commands.run"},
    {"class_path": "r2mae_core.evil_module"},
    {"scheme": "r2mae", "low": EVIL, "high": 0.5},
]  # fmt: skip


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A module that leaves a mark when it is imported, and returns whether it was, or Popen called."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "evil_module.py").write_text(
        "from pathlib import Path\nfrom dataclasses import dataclass\nPath('PWNED').touch()\n"
        "from r2mae_core import Fixed\n@dataclass(frozen=True)\nclass Sampler(Fixed):\n    extra: float = 0.25\n"
    )
    yield lambda: (tmp_path / "PWNED").exists()
    sys.modules.pop("evil_module", None)


@pytest.mark.parametrize("config", SMUGGLED, ids=str)
def test_data_cannot_name_code(evil, config):
    with pytest.raises(UserError):
        sampler_from_config(config, "vision")
    assert not evil()


@dataclass(frozen=True, kw_only=True)
class Options(PretrainOptions):
    pass


def work(options):
    sampler_from_config(options.mask_ratio, "vision")


@pytest.fixture
def call(monkeypatch):
    monkeypatch.setitem(sys.modules, "r2mae_core.fake", sys.modules[__name__])
    return lambda *argv: run("prog", "D.", {"work": Command(Options, "r2mae_core.fake:work", "Do it.")}, argv)


@pytest.mark.parametrize("config", [*SMUGGLED, "evil_module.Sampler", "os.system"], ids=str)
def test_a_config_file_cannot_name_code(evil, call, capsys, tmp_path, config):
    (tmp_path / "c.yaml").write_text(json.dumps({"mask_ratio": config}))
    (tmp_path / "outer.yaml").write_text("config: c.yaml\n")
    for words in (("-c", "c.yaml"), ("--config=c.yaml",), ("-c", "outer.yaml")):
        assert call("work", *words) in (1, 2)
        assert len(capsys.readouterr().err.splitlines()) < 5
    assert not evil()


def test_a_users_own_sampler_is_trusted_by_name(evil, call, capsys, tmp_path):
    (tmp_path / "c.yaml").write_text(json.dumps({"mask_ratio": {**EVIL, "init_args": {"ratio": 0.5}}}))
    assert call("work", "-c", "c.yaml") == 2
    assert "--trust evil_module" in capsys.readouterr().err
    assert call("work", "-c", "c.yaml", "--trust", "evil_module") == 0
    assert evil()
    assert sampler_from_config({**EVIL, "init_args": {"ratio": 0.5}}).sample(0) == 0.5


def test_a_table_names_a_foreign_sampler_without_its_code(evil, tmp_path):
    config = {"class_path": "evil_module.Sampler", "init_args": {"ratio": 0.5, "extra": 0.25}}
    run_folder = RunFolder(tmp_path / "run", {"mask_ratio": config, "seed": 3})
    assert run_identity(run_folder.path, "vision") == ("Sampler(0.5, 0.25)", 3)
    assert not evil()
    import evil_module

    assert name_of_scheme(config) == short_name(evil_module.Sampler(0.5)) == "Sampler(0.5, 0.25)"
    assert name_of_scheme(sampler_to_config(Uniform(0.6, 0.9)), "vision") == "r2mae"
    assert name_of_scheme(sampler_to_config(Fixed(0.33)), "vision") == "fixed 0.33"


class Bomb:
    def __reduce__(self):
        return (os.system, ("touch PWNED",))


@pytest.mark.parametrize("protocol", [2, 4])
def test_weights_cannot_run_code(evil, tmp_path, protocol):
    torch.save({"a": Bomb()}, tmp_path / "zip.bin", pickle_protocol=protocol)
    (tmp_path / "bare.bin").write_bytes(pickle.dumps(Bomb(), protocol=protocol))
    np.save(tmp_path / "a.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    for name in ("zip.bin", "bare.bin"):
        with pytest.raises(UserError, match=rf"{name} is damaged, or holds more than tensors"):
            load_tensors(tmp_path / name)
    assert not evil()


def flips(content, n=40):
    for bit in np.linspace(0, len(content) * 8 - 1, n).astype(int):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << (bit % 8)
        yield bytes(changed)


def damaged(content):
    yield from (b"", content[: len(content) // 2], b"\xff\xfe\x00", b"[1, 2]\n", b"true\n", b"GIF89a\n", b"\n\n")
    yield from flips(content)


def test_what_was_written_is_what_is_read_or_an_error(tmp_path):
    write_json(tmp_path / "a.json", {"n": 3, "x": [0.1, None, "é"]})
    write_yaml(tmp_path / "b.yaml", {"seed": 1, "name": "é"})
    write_records(tmp_path / "results.json", [Record("t", "loss", 0.5, "r2mae", 0, 10)])
    for file, read in (("a.json", read_json), ("b.yaml", read_yaml), ("results.json", read_records)):
        path = tmp_path / file
        whole, content = read(path), path.read_bytes()
        wrong = 0
        for changed in damaged(content):
            path.write_bytes(changed)
            try:
                assert read(path) == whole, changed
            except UserError as error:
                wrong += 1
                assert file in str(error)  # noqa: PT017
                assert len(str(error).splitlines()) == 1  # noqa: PT017
        assert wrong > 30
        path.unlink()
        with pytest.raises(UserError, match=file):
            read(path)


def test_a_file_that_is_cut_off_anywhere_is_refused(tmp_path):
    """A run's options without the last ones are YAML too, and would name another scheme."""
    file = write_yaml(tmp_path / "b.yaml", {"mask_ratio": 0.3, "seed": 1, "mask_shape": "spans"}) or tmp_path / "b.yaml"
    content = file.read_bytes()
    for n in range(len(content)):
        file.write_bytes(content[:n])
        with pytest.raises(UserError, match=r"b\.yaml"):
            read_yaml(file)
    for own in ("# mine\nseed: 3\n", "#\nseed: 3\n", "seed: 3\n", "seed: 3"):
        file.write_text(own)
        assert read_yaml(file) == {"seed": 3}


class NoDataclass:
    """Has all four methods of a sampler."""

    def __init__(self, **arguments):
        raise AssertionError("data must not call this")

    sample = bounds = mean = describe = lambda self, *_: 0.5


def test_only_dataclasses_are_called(monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "an_object", object.__new__(NoDataclass), raising=False)
    for name in ("NoDataclass", "an_object"):
        with pytest.raises(UserError, match="is not a mask-ratio sampler: a dataclass with"):
            sampler_from_config({"class_path": f"{__name__}.{name}", "init_args": {"ratio": 0.5}})


def test_names_that_are_no_utf8_are_kept(tmp_path, capsys):
    name = os.fsdecode(b"\xff\xfe.tar")
    write_json(tmp_path / "a.json", {name: "é", "data": name})
    write_yaml(tmp_path / "b.yaml", {"data": name, "é": 1})
    assert read_json(tmp_path / "a.json") == {name: "é", "data": name}
    assert read_yaml(tmp_path / "b.yaml") == {"data": name, "é": 1}
    RunFolder(tmp_path / "run", {"data": name}, sources={name: "1 bytes, x"}).write_results([])
    RunFolder(tmp_path / "run", {"data": name}, sources={name: "1 bytes, x"})
    say(f"Done: {name}")
    assert capsys.readouterr().out == "Done: \\udcff\\udcfe.tar\n"


def test_json_and_yaml_of_a_users_own_are_not_checked(tmp_path):
    (tmp_path / "a.json").write_text('{"n": 3}')
    (tmp_path / "b.yaml").write_text("n: 3\n")
    assert read_json(tmp_path / "a.json") == read_yaml(tmp_path / "b.yaml") == {"n": 3}


@pytest.mark.parametrize("text", ["", "a,b\n", "step,metric,value\n1,loss\n", "step,metric,value\n1,loss,x\n",
                                  "step,metric,value\nx,loss,1\n", 'step,metric,value\n1,"loss,1\n'])  # fmt: skip
def test_a_damaged_log_is_named(tmp_path, text):
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(UserError, match=r"metrics\.csv is damaged"):
        read_metrics(tmp_path / "metrics.csv")
    (tmp_path / "metrics.csv").write_bytes(b"step,metric,value\n\xff\xff,1,2\n")
    with pytest.raises(UserError, match=r"metrics\.csv is damaged"):
        read_metrics(tmp_path / "metrics.csv")


def test_equal_tensors_and_metadata_give_equal_bytes(tmp_path):
    metadata = {"model": '{"a": [1, "ü\n"]}', "commit": "0", "z": "", "scheme": "r2mae"}
    written = set()
    for i in range(8):
        save_tensors({"b": torch.arange(5.0), "ä": torch.ones(2, 3)}, tmp_path / f"{i}.safetensors", metadata)
        written.add((tmp_path / f"{i}.safetensors").read_bytes())
    assert len(written) == 1
    with safe_open(tmp_path / "0.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", **metadata}
        assert torch.equal(file.get_tensor("b"), torch.arange(5.0))


def test_a_flipped_bit_of_a_model_is_noticed(tmp_path):
    (tmp_path / "model" / "tokens").mkdir(parents=True)
    file = tmp_path / "model" / "model.safetensors"
    save_tensors({"w": torch.arange(20.0)}, file)
    (tmp_path / "model" / "tokens" / "vocab.txt").write_text("a b c")
    write_checksums(tmp_path / "model")
    check_checksums(tmp_path / "model")
    assert torch.equal(load_tensors(file)["w"], torch.arange(20.0))
    whole = file.read_bytes()
    for changed in [*flips(whole), whole[:-3], b""]:
        file.write_bytes(changed)
        with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
            check_checksums(tmp_path / "model")
    file.write_bytes(whole)
    (tmp_path / "model" / "tokens" / "vocab.txt").unlink()
    with pytest.raises(UserError, match=r"vocab\.txt is missing"):
        check_checksums(tmp_path / "model")
    sums = tmp_path / "model" / "SHA256SUMS"
    content = sums.read_bytes()
    for changed in (b"", content[:100], *content.splitlines(keepends=True), *flips(content)):
        sums.write_bytes(changed)
        with pytest.raises(UserError, match=r"SHA256SUMS|is missing|is not UTF-8"):
            check_checksums(tmp_path / "model")
    check_checksums(tmp_path)  # a folder without checksums is somebody's own


def test_the_files_of_a_prepared_set_are_those_that_were_written(tmp_path, monkeypatch):
    (tmp_path / "train").mkdir()
    for name in ("train/a.bin", "b.bin"):
        (tmp_path / name).write_bytes(bytes(range(200)))
    contents = contents_of(tmp_path)
    assert list(contents) == ["b.bin", "train/a.bin"]
    check_contents(tmp_path, contents, "make it again")
    (tmp_path / "b.bin").write_bytes(bytes(199) + b"x")
    with pytest.raises(UserError, match=r"b\.bin is damaged: its checksum .*; make it again"):
        check_contents(tmp_path, contents, "make it again")
    check_contents(tmp_path, contents, "make it again", within="train/")
    monkeypatch.setattr("r2mae_core.lab.contents.VERIFIED", 300)  # a large set: sizes alone
    check_contents(tmp_path, contents, "make it again")
    (tmp_path / "b.bin").write_bytes(b"x")
    with pytest.raises(UserError, match=r"b\.bin is damaged: 1 bytes, but 200 were written"):
        check_contents(tmp_path, contents, "make it again")
    for wrong in (None, [], {"b.bin": 3}, {"../b.bin": contents["b.bin"]}, {"b.bin": {"bytes": "1", "sha256": "x"}}):
        with pytest.raises(UserError, match="its index does not state its files"):
            check_contents(tmp_path, wrong, "make it again")


def test_a_flipped_bit_of_a_torch_file_is_noticed(tmp_path):
    file, tensors = tmp_path / "a.ckpt", {"w": torch.arange(50.0), "b": torch.ones(3)}
    torch.save(tensors, file)
    whole, wrong = file.read_bytes(), 0
    for changed in flips(whole, 150):
        file.write_bytes(changed)
        try:
            read = load_tensors(file)
            assert all(torch.equal(read[name], value) for name, value in tensors.items())
        except UserError as error:
            wrong += 1
            assert "a.ckpt" in str(error)  # noqa: PT017
    assert wrong > 50


def test_any_error_of_a_reader_becomes_one_line(tmp_path):
    for error in (KeyError("x"), struct_error(), RecursionError("deep\nand deeper"), MemoryError(), OSError(5, "I/O")):
        with pytest.raises(UserError, match=r"cells\.h5ad") as caught, reading(tmp_path / "cells.h5ad", "a store"):
            raise error
        assert len(str(caught.value).splitlines()) == 1


def struct_error():
    import struct

    return struct.error("unpack requires 8 bytes")
