from __future__ import annotations

import errno
import os
import socket
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pd.errors import ConflictError, NotFoundError, StorageError, UsageError
from p2pd.share import paths, syscalls
from p2pd.share.paths import ShareRoot, canonical_name, is_canonical, is_hidden, storage_error


@pytest.mark.fault(21, 7, 31)
@pytest.mark.parametrize(
    "text",
    ["", "/x", "x/", "a//b", ".", "..", "./a", "a/.", "a/../b", "../a", "a/..", "a\0b", "a\ud800", "/", "//"],
)
def test_names_that_are_none(text: str) -> None:
    assert_none(text)


@pytest.mark.fault(31)
@pytest.mark.parametrize("text", ["x" * 256, "a/" + "é" * 128, "/".join(["x" * 250] * 17)])
def test_names_that_are_too_long(text: str) -> None:
    assert_none(text)


def assert_none(text: str) -> None:
    assert not is_canonical(text)
    with pytest.raises(UsageError):
        canonical_name(text)


@pytest.mark.fault(32, 30, 31)
@pytest.mark.parametrize(
    "text", ["a", "-rf", "NUL", "a:b", "dot.", "a\nb", "\x1b[31m", "x" * 255, "a/b c/d", "...", " ", "a/..b"]
)
def test_names_that_are_legal(text: str) -> None:
    assert canonical_name(text) == text
    assert is_canonical(text)


def test_a_person_may_type_a_decomposed_name_but_the_wire_may_not() -> None:
    assert canonical_name("e\u0301.bin") == "\u00e9.bin"
    assert not is_canonical("e\u0301.bin")


@pytest.mark.fault(21, 31)
@given(st.text(st.characters(codec=None), max_size=40))
def test_what_is_accepted_stays_inside(text: str) -> None:
    try:
        name = canonical_name(text)
    except UsageError:
        return
    assert is_canonical(name)
    assert unicodedata.is_normalized("NFC", name)
    assert os.path.normpath(f"/share/{name}") == f"/share/{name}"


@pytest.mark.parametrize(
    ("name", "hidden"), [(".a", True), ("a/.b/c", True), (".p2pd/x", True), ("a.b/c.", False), ("a", False)]
)
def test_hidden(name: str, hidden: bool) -> None:
    assert is_hidden(name) is hidden


def read(root: ShareRoot, rel: bytes) -> bytes:
    fd = root.open_file(rel)
    try:
        return os.read(fd, 100)
    finally:
        os.close(fd)


def test_a_file_in_a_folder_is_read(root: ShareRoot) -> None:
    folder = Path(root.path, "a", "b")
    folder.mkdir(parents=True)
    (folder / "c").write_bytes(b"here")
    assert read(root, b"a/b/c") == b"here"


@pytest.mark.fault(22, 25)
def test_nothing_but_files_reachable_without_links(root: ShareRoot, tmp_path: Path) -> None:
    share = Path(root.path)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (share / "inside").write_bytes(b"x")
    (share / "leaf").symlink_to(outside / "secret")
    (share / "near").symlink_to("inside")
    (share / "parent").symlink_to(outside)
    (share / "dangling").symlink_to("nowhere")
    (share / "loop").symlink_to("loop")
    os.mkfifo(share / "fifo")
    (share / "folder").mkdir()
    (share / "folder" / "up").symlink_to("..")
    names = ["leaf", "near", "parent/secret", "dangling", "loop", "fifo", "folder", "missing"]
    names += [
        "inside/below",
        "folder/up/inside",
        "../outside/secret",
        "folder/../inside",
        "/etc/passwd",
        "",
        ".",
    ]
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(share / "socket"))
        for name in [*names, "socket", "x" * 300, "a\0b"]:
            with pytest.raises(NotFoundError):
                root.open_file(name.encode())
    if os.geteuid() == 0:
        os.mknod(share / "device", 0o020666, os.makedev(1, 3))
        with pytest.raises(NotFoundError):
            root.open_file(b"device")


@pytest.mark.fault(24)
def test_the_root_is_held_when_another_folder_takes_its_place(root: ShareRoot, tmp_path: Path) -> None:
    Path(root.path, "a").write_bytes(b"mine")
    assert root.problem() is None
    Path(root.path).rename(tmp_path / "moved")
    assert "removed or moved" in str(root.problem())
    Path(root.path).mkdir()
    Path(root.path, "a").write_bytes(b"theirs")
    assert read(root, b"a") == b"mine"
    assert "replaced" in str(root.problem())


@pytest.mark.fault(59)
def test_running_out_of_descriptors_is_not_a_missing_file(
    root: ShareRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> int:
        raise OSError(errno.EMFILE, "too many")

    monkeypatch.setattr(syscalls, "openat2", fail)
    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(StorageError, match="too many open files"):
        root.open_file(b"a")


def rename(root: ShareRoot, name: str, replace: bool = False) -> bytes:
    source = Path(root.path, ".source")
    source.write_bytes(b"new")
    fd = root.open_folder(b"")
    try:
        return root.rename_into(fd, b".source", name, replace)
    finally:
        os.close(fd)


@pytest.fixture(params=["renameat2", "link"])
def any_rename(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "link":

        def refuse(*_: object) -> None:
            raise OSError(errno.EINVAL, "no such flag")

        monkeypatch.setattr(syscalls, "rename_noreplace", refuse)


@pytest.mark.usefixtures("any_rename")
class TestRename:
    def test_folders_are_made(self, root: ShareRoot) -> None:
        assert rename(root, "a/b/é") == "a/b/é".encode()
        assert Path(root.path, "a/b/é").read_bytes() == b"new"
        assert not Path(root.path, ".source").exists()

    @pytest.mark.fault(56)
    def test_nothing_is_clobbered(self, root: ShareRoot) -> None:
        Path(root.path, "a").write_bytes(b"old")
        with pytest.raises(ConflictError):
            rename(root, "a")
        assert Path(root.path, "a").read_bytes() == b"old"
        rename(root, "a", replace=True)
        assert Path(root.path, "a").read_bytes() == b"new"

    @pytest.mark.fault(57)
    @pytest.mark.parametrize("replace", [True, False])
    def test_a_folder_stays(self, root: ShareRoot, replace: bool) -> None:
        Path(root.path, "a").mkdir()
        with pytest.raises(ConflictError):
            rename(root, "a", replace)

    @pytest.mark.fault(57)
    def test_a_link_is_not_followed(self, root: ShareRoot, tmp_path: Path) -> None:
        secret = tmp_path / "secret"
        secret.write_bytes(b"secret")
        link = Path(root.path, "a")
        link.symlink_to(secret)
        with pytest.raises(ConflictError):
            rename(root, "a")
        rename(root, "a", replace=True)
        assert link.read_bytes() == b"new"
        assert not link.is_symlink()
        assert secret.read_bytes() == b"secret"

    @pytest.mark.fault(23, 57)
    @pytest.mark.parametrize("kind", ["link", "file"])
    def test_a_parent_that_is_no_folder(self, root: ShareRoot, tmp_path: Path, kind: str) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        if kind == "link":
            Path(root.path, "a").symlink_to(outside)
        else:
            Path(root.path, "a").write_bytes(b"")
        with pytest.raises(ConflictError):
            rename(root, "a/b")
        assert list(outside.iterdir()) == []

    @pytest.mark.fault(28)
    def test_a_name_that_is_here_in_another_normal_form(self, root: ShareRoot) -> None:
        folder = Path(root.path, "u\u0308ber")
        folder.mkdir()
        (folder / "e\u0301").write_bytes(b"old")
        with pytest.raises(ConflictError):
            rename(root, "\u00fcber/\u00e9")
        assert rename(root, "\u00fcber/\u00e8") == "u\u0308ber/\u00e8".encode()
        assert sorted(os.listdir(folder)) == ["e\u0301", "\u00e8"]


@pytest.mark.fault(58)
@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EBUSY, "busy"),
    ],
)
def test_sentences(number: int, sentence: str) -> None:
    error = storage_error(OSError(number, "x"), "cannot do it")
    assert str(error).startswith("cannot do it: ")
    assert sentence in str(error)


@pytest.mark.fault(58)
def test_errors_of_renaming_are_storage_errors(root: ShareRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EROFS, "read-only")

    monkeypatch.setattr(syscalls, "rename_noreplace", fail)
    with pytest.raises(StorageError, match="read-only"):
        rename(root, "a")


def test_a_share_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError):
        ShareRoot.open(str(tmp_path / "file"))
    with pytest.raises(StorageError):
        ShareRoot.open(str(tmp_path / "missing"), create=False)


def test_a_kernel_without_openat2_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSYS, "no such call")

    monkeypatch.setattr(syscalls, "openat2", refuse)
    root = ShareRoot.open(str(tmp_path))
    assert root.openat2 is False
    (tmp_path / "a").write_bytes(b"x")
    assert read(root, b"a") == b"x"


def test_no_descriptor_is_left(root: ShareRoot) -> None:
    Path(root.path, "a", "b").mkdir(parents=True)
    before = len(os.listdir("/proc/self/fd"))
    for name in (b"a/b/c", b"a/x/c", b"a/b", b"a/../b"):
        with pytest.raises(NotFoundError):
            root.open_file(name)
    rename(root, "n/e/w")
    with pytest.raises(ConflictError):
        rename(root, "n/e/w")
    assert len(os.listdir("/proc/self/fd")) == before


def test_who_writes_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x")
    fd = os.open(path, os.O_RDONLY)
    try:
        assert syscalls.has_writer(fd) is False
        with open(path, "ab"):
            assert syscalls.has_writer(fd) is True
        assert syscalls.has_writer(fd) is False
    finally:
        os.close(fd)


def test_limits_leave_room_for_the_share() -> None:
    assert paths.MAX_NAME < 4096
