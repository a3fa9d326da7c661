package local

import (
	"fmt"
	"testing"

	"engramfs/store/blob"
)

// BenchmarkCreateSync is a durable create of a 64 KiB blob.
func BenchmarkCreateSync(b *testing.B) {
	for _, workers := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("writers=%d", workers), func(b *testing.B) {
			backend := mustOpen(b, b.TempDir(), Options{Create: true})
			data := make([]byte, 64<<10)
			b.SetBytes(int64(len(data)))
			b.SetParallelism(max(1, workers/2)) // times GOMAXPROCS
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := createSync(backend, data); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

func createSync(backend *Backend, data []byte) error {
	f, err := backend.Create(blob.NewID())
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt(data, 0); err != nil {
		return err
	}
	return f.Sync()
}
