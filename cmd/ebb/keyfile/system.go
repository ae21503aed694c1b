package keyfile

import (
	"fmt"
	"os"
	"syscall"
)

// flock takes an exclusive lock on f, or fails at once. It ends when f is
// closed or the process dies.
func flock(f *os.File) error {
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
}

// sameOwner gives the file at path the owner and group of the one at like.
func sameOwner(path, like string) error {
	want, err := owner(like)
	if err != nil {
		return err
	}
	if have, err := owner(path); err != nil || have == want {
		return err
	}
	return os.Chown(path, int(want[0]), int(want[1]))
}

// owner returns the owner and group of a file.
func owner(path string) (o [2]uint32, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return o, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return o, fmt.Errorf("owner of %s: not known on this system", path)
	}
	return [2]uint32{st.Uid, st.Gid}, nil
}
