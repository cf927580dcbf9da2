package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"offshoot/node/internal/image"
	"offshoot/node/internal/install"
)

// Exchange brings the stored image in pieces from the nodes and machines of the segment, and gives it to others, until Close.
type Exchange interface {
	// Fetch gathers the image onto disk, from its byte 0. resume says that an earlier try may have left pieces there. Each
	// piece has been checked, the whole has not. After an error nothing is written any more.
	Fetch(ctx context.Context, disk Spare, resume bool, progress func(done int64)) error
	// Missing calls do with each stretch that Fetch did not get, until it fails.
	Missing(do func(off, n int64) error) error
	// Moved is the bytes that came from others in pieces, and those given to others.
	Moved() (fetched, given int64)
	Close() error
}

// Spare is the part of a disk on which the stored image is gathered.
type Spare interface {
	io.ReaderAt
	io.WriterAt
}

// Meet tells the node that serves us where we exchange, and returns who does so too.
type Meet func(ctx context.Context, p install.Presence) (install.Neighbours, error)

// Join enters the exchange of a config's image.
type Join func(ctx context.Context, cfg install.Config, meet Meet) (Exchange, error)

// spare is the free end of the disk, behind all that the image will fill: there the stored image is gathered and stays until
// the root file system grows over it. So pieces can come in any order and be given to others, whatever the image's format, and
// the wire carries what is stored, not what it unpacks to.
func (d *heldDisk) spare(img install.Image) (at int64, ok bool) {
	if img.DiskSize <= 0 || img.InfoHash == "" {
		return 0, false
	}
	at = (d.size - headSize - img.Size) &^ (headSize - 1)
	return at, at >= max(img.DiskSize, headSize)
}

// part is a Spare; its size is the artifact's.
type part struct {
	device
	at int64
}

// ReadAt implements io.ReaderAt.
func (p part) ReadAt(b []byte, off int64) (int, error) { return p.device.ReadAt(b, p.at+off) }

// WriteAt implements io.WriterAt.
func (p part) WriteAt(b []byte, off int64) (int, error) { return p.device.WriteAt(b, p.at+off) }

// gathered is what became of the exchange of one attempt.
type gathered struct {
	exchange Exchange // nil: there is none
	spare    io.ReaderAt
	at       int64 // of spare on the disk
	byHTTP   int64
}

// note tells the machine, once it is a node, where the image still lies: it will want to give it to others.
func (g *gathered) note(img install.Image) *install.Gathered {
	if g.spare == nil {
		return nil
	}
	return &install.Gathered{SHA256: img.SHA256, Size: img.Size, Offset: g.at}
}

func (g *gathered) close() {
	if g.exchange != nil {
		_ = g.exchange.Close() // what others still want, they get from others
	}
}

// account says where the image came from, for the timeline.
func (g *gathered) account(size int64) string {
	if g.exchange == nil {
		return fmt.Sprintf("image: %s by HTTP", install.HumanSize(size))
	}
	fetched, given := g.exchange.Moved()
	return fmt.Sprintf("image: %s in pieces, %s by HTTP, %s given to others", install.HumanSize(fetched), install.HumanSize(g.byHTTP), install.HumanSize(given))
}

// gather brings the stored image onto the free end of the disk, by whatever way: pieces, and HTTP for those that do not come.
// Where there is no room for it, or nobody to exchange with, spare stays nil: then HTTP streams it all.
func (r *run) gather(ctx context.Context, cfg install.Config, disk *heldDisk, progress func(step)) (*gathered, error) {
	g := &gathered{}
	at, room := disk.spare(cfg.Image)
	if !room || r.alone || r.o.Join == nil {
		return g, nil
	}
	exchange, err := r.o.Join(ctx, cfg, r.client.meet)
	if err != nil {
		r.o.Logger.Warn("no exchange with others: the image comes by HTTP", "error", err)
		return g, ctx.Err()
	}
	g.exchange = exchange
	tell := func(done int64) { progress(step{bytes: done, percent: int(done * gatherShare / cfg.Image.Size)}) }
	space := part{disk.target, at}
	err = exchange.Fetch(ctx, space, disk.resumed, tell)
	if ctx.Err() != nil {
		return g, ctx.Err()
	}
	if err != nil {
		r.o.Logger.Warn("not all pieces have come: the rest comes by HTTP", "error", err)
		if err := exchange.Missing(func(off, n int64) error { return r.fill(ctx, cfg, space, off, n, g) }); err != nil {
			return g, err
		}
	}
	g.spare, g.at = io.NewSectionReader(space, 0, cfg.Image.Size), at
	return g, nil
}

// fill gets one stretch of the stored image by HTTP.
func (r *run) fill(ctx context.Context, cfg install.Config, to Spare, off, n int64, g *gathered) error {
	from := r.client.download(ctx, cfg.Image.URL, off, off+n)
	defer from.Close()
	copied, err := io.Copy(io.NewOffsetWriter(to, off), from)
	g.byHTTP += copied
	if err == nil && copied < n {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// source is the stored image for image.Write: from the disk if it was gathered there, else from the node.
func (r *run) source(ctx context.Context, cfg install.Config, g *gathered) (image.Source, func()) {
	s := image.Source{Format: image.Format(cfg.Image.Format), Size: cfg.Image.Size, SHA256: cfg.Image.SHA256}
	if g.spare != nil {
		s.Stream, s.Random = io.NewSectionReader(g.spare, 0, cfg.Image.Size), g.spare
		return s, func() {}
	}
	stream := r.client.download(ctx, cfg.Image.URL, 0, cfg.Image.Size)
	s.Stream, s.Random = stream, random{r.client, ctx, cfg.Image.URL, cfg.Image.Size}
	return s, func() { _ = stream.Close() }
}

// gatherShare is how much of the work gathering is, in percent; unpacking is the rest.
const gatherShare = 50

// step is how far the image is: bytes moved by what is under way, and percent of it all.
type step struct {
	bytes   int64
	percent int
}

// meet asks once: it is asked again soon.
func (c *client) meet(ctx context.Context, p install.Presence) (n install.Neighbours, err error) {
	raw, err := json.Marshal(p)
	if err != nil {
		return n, err
	}
	err = c.do(ctx, http.MethodPost, "/exchange", raw, func(body io.Reader) (err error) {
		n, err = install.DecodeNeighbours(body)
		return err
	})
	return n, err
}
