"""Downloads without a network: a made pooch hands over what a made server has, and the checksums are real."""

import gzip
import hashlib
import io
import pathlib
import struct
import sys
import tarfile
import types

import numpy as np
import pytest

import nbnn
from nbnn import fetch, readers

SHARED = pathlib.Path(nbnn.__file__).resolve().parent.parent.parent / "shared" / "data"


class Server:
    """A module like pooch: `retrieve` knows some addresses, checks the checksum, and remembers what was asked for."""

    def __init__(self, **files):
        self.files, self.asked = files, []

    def retrieve(self, url, known_hash, fname, path, **options):
        self.asked.append(url)
        if url not in self.files:
            raise OSError(f"no route to {url}\n(offline)")
        content, wanted = self.files[url], known_hash.removeprefix("md5:")
        if hashlib.md5(content).hexdigest() != wanted:
            raise ValueError(f"MD5 hash of downloaded file ({fname}) does not match the known hash: expected {wanted}")
        target = pathlib.Path(path) / fname
        target.write_bytes(content)
        return str(target)


@pytest.fixture
def server(monkeypatch):
    server = Server()
    module = types.ModuleType("pooch")
    module.retrieve = server.retrieve
    monkeypatch.setitem(sys.modules, "pooch", module)
    return server


@pytest.fixture
def no_pooch(monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)


def archive(members):
    """A tar.gz of (name, content, kind)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content, *kind in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if kind:
                info.type, info.linkname, info.size = kind[0], "/etc/passwd", 0
            tar.addfile(info, io.BytesIO(content) if not kind else None)
    return out.getvalue()


def records(count, seed):
    rng = np.random.default_rng(seed)
    return np.column_stack([rng.integers(0, 10, count), rng.integers(0, 256, (count, 3072))]).astype("u1").tobytes()


NAMES = [*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"]
CONTENTS = {f"cifar-10-batches-bin/{name}": records(2, k) for k, name in enumerate(NAMES)}


def small_cifar10(monkeypatch, content):
    """cifar10 as a small archive with its own checksum."""
    source = fetch._SOURCES["cifar10"]._replace(
        files={"cifar-10-binary.tar.gz": hashlib.md5(content).hexdigest()},
        mirrors=("https://one/", "https://two/"),
        members={name: len(c) for name, c in CONTENTS.items()},
    )
    monkeypatch.setitem(fetch._SOURCES, "cifar10", source)


def whole():
    others = [("cifar-10-batches-bin/readme.html", b"<p>"), ("cifar-10-batches-bin", b"", tarfile.DIRTYPE)]
    return archive([*CONTENTS.items(), *others])


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_an_archive_is_unpacked_from_the_first_mirror_that_has_it(tmp_path, monkeypatch, server):
    content = whole()
    small_cifar10(monkeypatch, content)
    server.files["https://two/cifar-10-binary.tar.gz"] = content
    place = fetch.fetch("cifar10", tmp_path / "new" / "cifar10")
    assert place == tmp_path / "new" / "cifar10"
    assert server.asked == ["https://one/cifar-10-binary.tar.gz", "https://two/cifar-10-binary.tar.gz"]
    assert files(place) == sorted(CONTENTS)  # neither the archive nor its other members
    assert all((place / name).read_bytes() == c for name, c in CONTENTS.items())
    assert readers.cifar10(place, num_validation=1)["X_train"].shape == (9, 3, 32, 32)
    assert fetch.fetch("cifar10", place) == place and len(server.asked) == 2  # what is there is not asked for again


def test_a_mirror_with_a_wrong_file_is_passed_over(tmp_path, monkeypatch, server):
    content = whole()
    small_cifar10(monkeypatch, content)
    server.files |= {"https://one/cifar-10-binary.tar.gz": content[:-1], "https://two/cifar-10-binary.tar.gz": content}
    assert files(fetch.fetch("cifar10", tmp_path)) == sorted(CONTENTS)


def test_an_archive_put_there_by_hand_needs_no_pooch(tmp_path, monkeypatch, no_pooch):
    content = whole()
    small_cifar10(monkeypatch, content)
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(content)
    fetch.fetch("cifar10", tmp_path)
    assert files(tmp_path) == sorted([*CONTENTS, "cifar-10-binary.tar.gz"])


def test_offline_the_sentence_says_what_to_put_where(tmp_path, monkeypatch, server):
    small_cifar10(monkeypatch, whole())
    server.files["https://two/cifar-10-binary.tar.gz"] = b"something else"
    with pytest.raises(OSError) as error:
        fetch.fetch("cifar10", tmp_path)
    md5 = fetch._SOURCES["cifar10"].files["cifar-10-binary.tar.gz"]
    wrong = f"MD5 hash of downloaded file (cifar-10-binary.tar.gz) does not match the known hash: expected {md5}"
    assert str(error.value) == (
        "cifar10: cifar-10-binary.tar.gz could not be downloaded (https://one/: no route to "
        f"https://one/cifar-10-binary.tar.gz (offline); https://two/: {wrong[:117]}...). To do it by hand, put "
        f"cifar-10-binary.tar.gz from https://one/ into {tmp_path} and call again"
    )


def test_without_pooch_the_sentence_says_what_to_install(tmp_path, no_pooch):
    with pytest.raises(ImportError) as error:
        fetch.fetch("fashion_mnist", tmp_path)
    assert str(error.value) == (
        "fetch downloads through pooch, which is not installed: pip install 'nbnn[data]'. To do it by hand, put "
        "train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz and t10k-images-idx3-ubyte.gz and "
        "t10k-labels-idx1-ubyte.gz from https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/"
        f"fashion/ into {tmp_path} and call again"
    )


def test_an_unknown_set(tmp_path):
    with pytest.raises(ValueError) as error:
        fetch.fetch("cifar", tmp_path)
    assert str(error.value) == "there is no set 'cifar' to fetch; did you mean 'cifar10'?"


def test_idx_files_come_one_by_one(tmp_path, monkeypatch, server):
    def idx(array):
        return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()

    contents = {}
    for part, count in (("train", 4), ("t10k", 3)):
        contents[f"{part}-images-idx3-ubyte.gz"] = gzip.compress(idx(np.full((count, 28, 28), 7, np.uint8)))
        contents[f"{part}-labels-idx1-ubyte.gz"] = gzip.compress(idx(np.arange(count, dtype=np.uint8)))
    source = fetch._Source({n: hashlib.md5(c).hexdigest() for n, c in contents.items()}, ("https://one/",))
    monkeypatch.setitem(fetch._SOURCES, "mnist", source)
    first = "train-images-idx3-ubyte.gz"
    (tmp_path / first).write_bytes(contents[first])  # from a fetch that broke off
    server.files |= {f"https://one/{name}": content for name, content in contents.items()}
    fetch.fetch("mnist", tmp_path)
    assert len(server.asked) == 3 and files(tmp_path) == sorted(contents)
    assert readers.mnist(tmp_path, num_validation=1)["y_train"].tolist() == [0, 1, 2]


EVIL = {
    "a path outside": ("../outside.bin", b"x"),
    "an absolute path": ("/tmp/nbnn-outside.bin", b"x"),
    "a path outside, of a known name": ("cifar-10-batches-bin/../../data_batch_1.bin", records(2, 0)),
}


@pytest.mark.parametrize("name", EVIL)
def test_only_the_members_that_are_known_are_unpacked(tmp_path, monkeypatch, name):
    content = archive([EVIL[name], *CONTENTS.items()])
    small_cifar10(monkeypatch, content)
    place = tmp_path / "deep" / "cifar10"
    place.mkdir(parents=True)
    (place / "cifar-10-binary.tar.gz").write_bytes(content)
    fetch.fetch("cifar10", place)
    assert files(tmp_path) == sorted(f"deep/cifar10/{n}" for n in [*CONTENTS, "cifar-10-binary.tar.gz"])
    assert not pathlib.Path("/tmp/nbnn-outside.bin").exists()


FIRST = "cifar-10-batches-bin/data_batch_1.bin"
BROKEN = {
    "a link": ([(FIRST, b"", tarfile.SYMTYPE)], f"has a {FIRST} that is no file of 6146 bytes; fetch it anew"),
    "a hard link": ([(FIRST, b"", tarfile.LNKTYPE)], f"has a {FIRST} that is no file of 6146 bytes; fetch it anew"),
    "a longer file": ([(FIRST, bytes(6147))], f"has a {FIRST} that is no file of 6146 bytes; fetch it anew"),
    "nothing else": (
        [*CONTENTS.items()][:-2],
        "lacks cifar-10-batches-bin/data_batch_5.bin, cifar-10-batches-bin/test_batch.bin; remove it and fetch it anew",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_archive_is_refused(tmp_path, monkeypatch, name):
    members, sentence = BROKEN[name]
    content = archive(members)
    small_cifar10(monkeypatch, content)
    path = tmp_path / "cifar-10-binary.tar.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        fetch.fetch("cifar10", tmp_path)
    assert str(error.value) == f"{path} {sentence}"


@pytest.mark.parametrize("slip", [lambda c: c[:3000], lambda c: b"no archive"])
def test_a_damaged_archive_is_refused(tmp_path, monkeypatch, slip):
    content = slip(whole())
    small_cifar10(monkeypatch, content)
    path = tmp_path / "cifar-10-binary.tar.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="remove it and fetch it anew"):
        fetch.fetch("cifar10", tmp_path)
    assert not [name for name in files(tmp_path) if ".data_batch" in name]  # no half files


def test_an_archive_that_broke_off_is_fetched_anew(tmp_path, monkeypatch, server):
    content = whole()
    small_cifar10(monkeypatch, content)
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(content[:-1])
    server.files["https://one/cifar-10-binary.tar.gz"] = content
    assert files(fetch.fetch("cifar10", tmp_path)) == sorted(CONTENTS)


def test_the_default_folder(tmp_path, monkeypatch, server):
    monkeypatch.delenv("NBNN_DATA_DIR", raising=False)
    assert fetch.default_folder("mnist").parts[-2:] == ("nbnn", "mnist")
    monkeypatch.setenv("NBNN_DATA_DIR", str(tmp_path))
    assert fetch.default_folder("mnist") == tmp_path / "mnist"
    content = whole()
    small_cifar10(monkeypatch, content)
    server.files["https://one/cifar-10-binary.tar.gz"] = content
    assert fetch.fetch("cifar10") == tmp_path / "cifar10" and readers.is_complete("cifar10", tmp_path / "cifar10")


def test_what_is_downloaded_is_what_the_readers_look_for(tmp_path):
    for name, source in fetch._SOURCES.items():
        place = tmp_path / name
        for file in source.members or source.files:
            assert not readers.is_complete(name, place)
            (place / file).parent.mkdir(parents=True, exist_ok=True)
            (place / file).touch()
        assert readers.is_complete(name, place)
        assert all(len(md5) == 32 and int(md5, 16) for md5 in source.files.values())
        assert all(mirror.startswith("http") and mirror.endswith("/") for mirror in source.mirrors)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real pictures (../shared/data) are not here")
@pytest.mark.parametrize("file", ["train-labels-idx1-ubyte.gz", "t10k-labels-idx1-ubyte.gz"])
def test_the_checksums_are_those_of_real_files(file):
    """Those files of the real pictures that were not compressed anew."""
    content = (SHARED / "fashion-mnist" / file).read_bytes()
    assert hashlib.md5(content).hexdigest() == fetch._SOURCES["fashion_mnist"].files[file]


def test_pooch_is_imported_only_when_something_is_downloaded(tmp_path, no_pooch):
    for name in CONTENTS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert fetch.fetch("cifar10", tmp_path) == tmp_path
