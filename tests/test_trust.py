"""What may be executed: what this user, or root, alone can write."""

import os

import pytest

from svd.trust import private_folder, read_trusted, why_not_trusted, write_trusted


def test_what_is_ours_is_read(tmp_path):
    folder = private_folder(tmp_path / "a/b")
    assert folder.stat().st_mode & 0o077 == 0
    write_trusted(folder / "file", b"content", 0o644)
    assert (folder / "file").stat().st_mode & 0o777 == 0o644 and (folder / "file").read_bytes()[:7] == b"content"
    assert read_trusted(folder / "file") == b"content"
    assert read_trusted(folder / "missing") is None


@pytest.mark.parametrize("damage", ["empty", "cut", "changed"])
def test_what_is_damaged_is_refused(tmp_path, damage):
    write_trusted(tmp_path / "file", b"content")
    whole = (tmp_path / "file").read_bytes()
    (tmp_path / "file").write_bytes({"empty": b"", "cut": whole[:-1], "changed": b"C" + whole[1:]}[damage])
    with pytest.raises(OSError, match="file is damaged"):
        read_trusted(tmp_path / "file")


@pytest.mark.parametrize("mode", [0o666, 0o620, 0o602])
def test_what_others_can_write_is_refused(tmp_path, mode):
    path = tmp_path / "file"
    path.touch()
    path.chmod(mode)
    with pytest.raises(OSError) as error:
        read_trusted(path)
    assert f"{path} is not used: others can write it (mode {mode:04o}; chmod go-w makes it" in str(error.value)
    tmp_path.chmod(mode | 0o700)
    with pytest.raises(OSError, match="is not used: others can write it"):
        private_folder(tmp_path)
    tmp_path.chmod(0o700)


def test_what_belongs_to_others_is_refused(tmp_path, monkeypatch):
    found = os.stat_result((0o100600, 0, 0, 1, 4321, 0, 0, 0, 0, 0))
    monkeypatch.setattr("svd.trust.os.geteuid", lambda: 1234)
    assert why_not_trusted(found) == "it belongs to another user (uid 4321)"
    assert why_not_trusted(os.stat_result((0o100600, 0, 0, 1, 0, 0, 0, 0, 0, 0))) is None, "root's"
    assert why_not_trusted(os.stat_result((0o100600, 0, 0, 1, 1234, 0, 0, 0, 0, 0))) is None


def test_links_and_pipes_are_refused(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("link", "pipe"):
        with pytest.raises(OSError):
            read_trusted(tmp_path / name)
