package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strconv"
	"time"

	"engramfs/web"
)

// adminSalvageCmd fetches a damaged file as it is stored.
type adminSalvageCmd struct {
	Inode  uint64 `arg:"" help:"The number of the file, as admin damaged shows it."`
	Output string `short:"o" env:"-" required:"" placeholder:"FILE" help:"Where to write it; the file must not exist."`
	Reason string `env:"-" placeholder:"TEXT" help:"Why, for the audit log."`
}

// salvaged is what became of a salvage.
type salvaged struct {
	File  string `json:"file"`
	Bytes int64  `json:"bytes"`
	Bad   string `json:"bad_ranges"` // in the form of a Range header, or none
}

// Run writes the file, and says which of its bytes are wrong.
func (c *adminSalvageCmd) Run(p *process, a *adminCmd) error {
	s, err := a.open(p)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(c.Output, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	q := post("damaged", strconv.FormatUint(c.Inode, 10), "salvage")
	q.body = web.SalvageRequest{Reason: c.Reason}
	answer, err := s.download(q)
	if err != nil {
		return errors.Join(c.refused(s, err), f.Close(), os.Remove(c.Output))
	}
	defer answer.Body.Close()
	n, err := c.save(s, f, answer)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return c.cutOff(n, err)
	}
	v := salvaged{c.Output, n, answer.Header.Get("Engramfs-Bad-Ranges")}
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return s.print(append(body, '\n'), func(out *page) {
		out.fact("File", v.File)
		out.fact("Bytes", strconv.FormatInt(v.Bytes, 10))
		out.fact("Wrong", v.Bad)
	})
}

// cutOff says whose fault it is that only n bytes are there. What package os cannot do
// with a file of this machine is a *fs.PathError; an answer that ends early is none.
func (c *adminSalvageCmd) cutOff(n int64, err error) error {
	local := (*fs.PathError)(nil)
	text := "the server's log has the reason; the disk may not be able to read more"
	if errors.As(err, &local) {
		text = "the server is not the cause: make room for the file, or write it elsewhere"
	}
	return hint(fmt.Errorf("inode %d: cut off after %d bytes, which are kept in %s: %w", c.Inode, n, c.Output, err), text)
}

func (c *adminSalvageCmd) refused(s *adminAPI, err error) error {
	r := (*refusal)(nil)
	err = fmt.Errorf("inode %d: %w", c.Inode, s.failed(err))
	switch {
	case !errors.As(err, &r):
	case r.Code == "damaged":
		return hint(err, "nothing of its content is there: restore the file from a backup")
	case r.Code == "not_found":
		return hint(err, "engramfs admin damaged lists the files that are damaged")
	}
	return err
}

// save copies the answer's body and shows how far it is.
func (c *adminSalvageCmd) save(s *adminAPI, f *os.File, answer *http.Response) (n int64, err error) {
	shown := newProgress(s, "salvage")
	defer shown.end()
	last := shown.begun
	buf := make([]byte, 1<<20)
	for {
		m, rerr := answer.Body.Read(buf)
		if _, err := f.Write(buf[:m]); err != nil {
			return n, err
		}
		n += int64(m)
		if rerr == io.EOF {
			return n, nil
		}
		if rerr != nil {
			return n, rerr
		}
		if time.Since(last) < jobLook {
			continue
		}
		last = time.Now()
		rate := float64(n) / time.Since(shown.begun).Seconds()
		if err := shown.update(&web.Run{Unit: "bytes", Done: &n, Total: &answer.ContentLength, Rate: &rate}); err != nil {
			return n, err
		}
	}
}
