package fsload

import (
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"engramfs/internal/bench/pattern"
)

// seqBlock is the size of one sequential read or write.
const seqBlock = 1 << 20

// seqRead reads the whole file; an operation is a block.
func seqRead(s *Spec, _ int) (func() (int64, error), error) {
	return func() (int64, error) {
		fd, err := unix.Open(s.File, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return 0, err
		}
		defer unix.Close(fd)
		buf := make([]byte, seqBlock)
		var ops, size int64
		for {
			n, err := unix.Read(fd, buf)
			if err != nil {
				return ops, err
			}
			if n == 0 {
				break
			}
			ops, size = ops+1, size+int64(n)
		}
		if size != s.Bytes {
			return ops, fmt.Errorf("%s: %d bytes, want %d", s.File, size, s.Bytes)
		}
		return ops, nil
	}, nil
}

// seqWrite makes the file, which must not exist, and syncs it.
func seqWrite(s *Spec, _ int) (func() (int64, error), error) {
	return func() (int64, error) {
		f, err := os.OpenFile(s.File, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err != nil {
			return 0, err
		}
		defer f.Close()
		if _, err := (pattern.Source{Size: s.Bytes}).WriteTo(f); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
		return (s.Bytes + seqBlock - 1) / seqBlock, f.Close()
	}, nil
}

// randRead reads random blocks of 4 KiB through the page cache.
func randRead(s *Spec, worker int) (func() (int64, error), error) {
	return randomly(s, worker, unix.O_RDONLY, func(fd int, buf []byte, off int64) error {
		n, err := unix.Pread(fd, buf, off)
		return wholeBlock(n, err)
	})
}

// randWrite overwrites random blocks of 4 KiB with what they hold already,
// through the page cache and without a sync.
func randWrite(s *Spec, worker int) (func() (int64, error), error) {
	return randomly(s, worker, unix.O_RDWR, func(fd int, buf []byte, off int64) error {
		pattern.Fill(buf, off)
		n, err := unix.Pwrite(fd, buf, off)
		return wholeBlock(n, err)
	})
}

func wholeBlock(n int, err error) error {
	if err == nil && n != pattern.Block {
		return fmt.Errorf("%d bytes, want %d", n, pattern.Block)
	}
	return err
}

// randomly calls one at random blocks of the file for the load's length. The
// file is open before the clock starts.
func randomly(s *Spec, worker, flags int, one func(fd int, buf []byte, off int64) error) (func() (int64, error), error) {
	blocks := s.Bytes / pattern.Block
	if blocks < 1 {
		return nil, fmt.Errorf("%s: %d bytes are less than a block", s.File, s.Bytes)
	}
	fd, err := unix.Open(s.File, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	random := rand.New(rand.NewPCG(rand.Uint64(), uint64(worker)))
	return func() (int64, error) {
		defer unix.Close(fd)
		buf := make([]byte, pattern.Block)
		var ops int64
		for end := time.Now().Add(s.For); ; ops++ {
			// Looking at the clock costs a tenth of a cached read.
			if ops%16 == 0 && time.Now().After(end) {
				return ops, nil
			}
			if err := one(fd, buf, random.Int64N(blocks)*pattern.Block); err != nil {
				return ops, err
			}
		}
	}, nil
}
