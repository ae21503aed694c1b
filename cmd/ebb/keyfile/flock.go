package keyfile

import (
	"os"
	"syscall"
)

// flock takes an exclusive lock on f, or fails at once. It ends when f is
// closed or the process dies.
func flock(f *os.File) error {
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
}
