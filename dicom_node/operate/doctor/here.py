"""Checks of the data folder: there, ours, private, writable, local, and not full."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dicom_node.operate.doctor.findings import US, Finding, failed, passed, warned
from dicom_node.settings import Settings

#: Every instance and every result takes an inode. With fewer than these a single study may not fit; with fewer than
#: ten times as many it is time to look.
_FEWEST_INODES: Final = 5_000
#: File systems on which locks and the shared memory of SQLite's WAL do not hold between machines.
_REMOTE: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "ceph", "glusterfs"})


def data_folder(settings: Settings) -> list[Finding]:
    """Examine `node.data_dir`."""
    folder = settings.node.data_dir
    try:
        about = folder.stat()
    except FileNotFoundError:
        return [_missing(folder)]
    except OSError as error:
        return [_unreadable(folder, error)]
    if not stat.S_ISDIR(about.st_mode):
        seen = f"{folder} is no folder"
        return [failed("data.folder", seen, US, "remove it, or name another data_dir in [node]")]
    found = [passed("data.folder", str(folder)), _owner(folder, about), _mode(folder, about)]
    return [*found, *_written(folder), _file_system(folder), *_room(folder, settings)]


def accessible(folder: Path) -> bool:
    """Whether this process may read and write the data folder, as the node does."""
    try:
        return folder.is_dir() and os.access(folder, os.R_OK | os.W_OK | os.X_OK, effective_ids=True)
    except PermissionError:  # of a folder above
        return False


def _missing(folder: Path) -> Finding:
    parent = next(one for one in folder.parents if one.exists())
    if os.access(parent, os.W_OK | os.X_OK, effective_ids=True):
        return warned("data.folder", f"{folder} does not exist", US, "nothing: the first start of the node makes it")
    remedy = f"make it for the user of the node: install -d -m 0700 -o USER {folder}"
    return failed("data.folder", f"{folder} does not exist, and {parent} is not writable for this user", US, remedy)


def _unreadable(folder: Path, error: OSError) -> Finding:
    return failed("data.folder", f"{folder}: {error.strerror}", US, "run the doctor as the user of the node")


def _owner(folder: Path, about: os.stat_result) -> Finding:
    owner, ours = _user(about.st_uid), _user(os.geteuid())
    if about.st_uid == os.geteuid():
        return passed("data.owner", f"{owner}, as this process")
    if os.geteuid() == 0:
        return passed("data.owner", f"{owner}; the node has to run as this user")
    remedy = f"run node and doctor as {owner}, or: chown -R {ours} {folder}"
    return failed("data.owner", f"{folder} belongs to {owner}, but this process runs as {ours}", US, remedy)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _mode(folder: Path, about: os.stat_result) -> Finding:
    mode = stat.S_IMODE(about.st_mode)
    if mode & 0o077:
        return failed("data.mode", f"{mode:04o}: others may look into it", US, f"chmod 0700 {folder}")
    return passed("data.mode", f"{mode:04o}")


def _written(folder: Path) -> Iterator[Finding]:
    """Write a probe as the receiver writes an instance, link it, and remove both."""
    probe = folder / f".doctor-{secrets.token_hex(6)}"
    link = probe.with_suffix(".link")
    try:
        with probe.open("xb") as stream:
            stream.write(b"doctor")
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        with contextlib.suppress(OSError):
            probe.unlink()
        remedy = "make it writable for the user of the node; see rights, mount options (ro) and free space"
        yield failed("data.writable", f"a file cannot be written: {error.strerror}", US, remedy)
        return
    yield passed("data.writable", "a file was written, synchronised and removed")
    try:
        os.link(probe, link)
        yield passed("data.hard_links", "a file was linked")
    except OSError as error:
        remedy = "put data_dir on a file system with hard links (ext4, xfs, btrfs, zfs)"
        yield failed("data.hard_links", f"a file cannot be linked: {error.strerror}", US, remedy)
    finally:
        link.unlink(missing_ok=True)
        probe.unlink(missing_ok=True)


def _file_system(folder: Path) -> Finding:
    kind, point = _mount_of(folder)
    if kind in _REMOTE:
        remedy = "put data_dir on a disk of this machine"
        return warned("data.file_system", f"{point} is a network file system ({kind})", US, remedy)
    return passed("data.file_system", f"{kind or 'unknown'} at {point}")


def _mount_of(folder: Path) -> tuple[str, str]:
    """Kind and place of the mount that holds a folder, from the kernel's table; the longest matching place wins."""
    resolved = folder.resolve()
    best = ("", "/")
    for line in Path("/proc/self/mounts").read_text(errors="replace").splitlines():
        _, point, kind, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        if resolved.is_relative_to(point) and len(point) >= len(best[1]):
            best = (kind, point)
    return best


def _room(folder: Path, settings: Settings) -> Iterator[Finding]:
    disk = os.statvfs(folder)
    free_mib, wanted_mib = disk.f_bavail * disk.f_frsize // 1024**2, settings.intake.min_free_mib
    seen = f"{free_mib} MiB free, intake.min_free_mib is {wanted_mib}"
    if free_mib < wanted_mib:
        remedy = "free some space: until then every image is answered with 0xA700 (send again later)"
        yield failed("data.space", seen, US, remedy)
    elif free_mib < 2 * wanted_mib:
        yield warned("data.space", seen, US, "free some space soon")
    else:
        yield passed("data.space", seen)
    if disk.f_files == 0:  # btrfs and others make inodes as they need them
        yield passed("data.inodes", "the file system makes them as needed")
    elif disk.f_favail < _FEWEST_INODES:
        remedy = "remove files, or use a file system with more inodes"
        yield failed("data.inodes", f"{disk.f_favail} free, a study may need {_FEWEST_INODES}", US, remedy)
    elif disk.f_favail < 10 * _FEWEST_INODES:
        yield warned("data.inodes", f"{disk.f_favail} free", US, "remove files soon")
    else:
        yield passed("data.inodes", f"{disk.f_favail} free")
