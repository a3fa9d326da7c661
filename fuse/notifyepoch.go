package fuse

import (
	"encoding/binary"
	"os"

	"golang.org/x/sys/unix"
)

// notifyIncEpoch is FUSE_NOTIFY_INC_EPOCH, which makes every name that the kernel
// has cached so far invalid (include/uapi/linux/fuse.h, protocol 7.44, Linux 6.16).
const notifyIncEpoch = 8

// incrementEpoch sends the notification, which go-fuse does not have: a
// fuse_out_header with no request to answer. EINVAL: the kernel does not know it.
func incrementEpoch(device int) error {
	var header [16]byte // len, error, unique
	binary.NativeEndian.PutUint32(header[0:], uint32(len(header)))
	binary.NativeEndian.PutUint32(header[4:], notifyIncEpoch)
	_, err := unix.Write(device, header[:])
	return os.NewSyscallError("write "+fuseDevice, err)
}
