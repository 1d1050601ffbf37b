"""Which folders are another machine's: what their file system is, as the kernel tells it."""

import os
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
# On disks or in the memory of this machine. What else there is comes over a network, from a host or from a process, and
# is slow to map, shared by others, or both; new ones of that kind are more than of this one.
LOCAL = (
    "autofs aufs bcachefs btrfs erofs exfat ext2 ext3 ext4 f2fs fuse.fuse-overlayfs fuseblk hfsplus iso9660 jfs msdos "
    "nilfs2 ntfs ntfs3 overlay ramfs reiserfs rootfs squashfs tmpfs udf ufs vfat xfs zfs"
)


def remote_type(path: Path) -> str | None:
    """Return the type of the file system (`nfs4`, `cifs`, `lustre`, `fuse.sshfs` …) of a path on another machine.

    None: it is on this machine, or the kernel doesn't tell. Of what is not there yet its parent counts.
    """
    there = path.absolute()
    while not os.path.exists(there) and there != there.parent:
        there = there.parent
    try:
        device = os.stat(there).st_dev
        mounts = MOUNTS.read_text(errors="replace")
    except OSError:  # it went meanwhile; or no Linux
        return None
    for line in mounts.splitlines():
        mount, _, source = line.partition(" - ")
        if mount.split()[2:3] == [f"{os.major(device)}:{os.minor(device)}"]:
            found = source.split()[0]
            return None if found in LOCAL.split() else found
    return None
