package swarm

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/hashicorp/go-memdb"
)

// rows lists the tables with a constructor for each, in the order of a snapshot.
var rows = []struct {
	table string
	fresh func() any
}{
	{"settings", func() any { return new(Settings) }}, {"machine", func() any { return new(Machine) }},
	{"node", func() any { return new(Node) }}, {"segment", func() any { return new(Segment) }},
	{"lease", func() any { return new(Lease) }}, {"reservation", func() any { return new(Reservation) }},
	{"ticket", func() any { return new(Ticket) }}, {"operator", func() any { return new(Operator) }},
	{"audit", func() any { return new(AuditEntry) }},
	{"profile", func() any { return new(Profile) }}, {"repo", func() any { return new(Repo) }}, {"artifact", func() any { return new(Artifact) }},
	{"set", func() any { return new(WorkingSet) }},
	{"event", func() any { return new(Event) }}, {"applied", func() any { return new(applied) }},
	{"counter", func() any { return new(counter) }},
}

// snapshotVersion is the first line of a snapshot. Since version 2 it ends with the number of its rows: one that was cut off
// at the end of a line is not taken for a whole one. Version 3 has the keys of nodes and operators, and former authorities.
const snapshotVersion = 3

// maxRow bounds one row, bytes: several times what one command can write.
const maxRow = 4 << 20

// Snapshot captures the state as it is now; the function it returns writes it, while Apply goes on: a line with the version,
// a line {"t":TABLE,"r":ROW} for each row, and a line {"rows":COUNT}.
func (s *State) Snapshot() func(w io.Writer) error {
	txn := s.db.Load().Txn(false)
	return func(w io.Writer) error {
		out := bufio.NewWriter(w)
		count := 0
		fmt.Fprintf(out, "{\"offshoot_snapshot\":%d}\n", snapshotVersion) // bufio keeps the first error for Flush
		for _, r := range rows {
			it, err := txn.Get(r.table, "id")
			if err != nil {
				return fmt.Errorf("write snapshot of %s: %w", r.table, err)
			}
			for raw := it.Next(); raw != nil; raw = it.Next() {
				row, err := json.Marshal(raw)
				if err != nil {
					return fmt.Errorf("write snapshot of %s: %w", r.table, err)
				}
				if _, err := fmt.Fprintf(out, "%s%s%s%s}\n", rowTable, r.table, rowRow, row); err != nil {
					return fmt.Errorf("write snapshot of %s: %w", r.table, err)
				}
				count++
			}
		}
		fmt.Fprintf(out, "{\"rows\":%d}\n", count)
		if err := out.Flush(); err != nil {
			return fmt.Errorf("write snapshot: %w", err)
		}
		return nil
	}
}

// What stands around table and row. Written and read by hand: there are hundreds of thousands.
const (
	rowTable = `{"t":"`
	rowRow   = `","r":`
)

// Restore replaces the whole state by a snapshot. On error the state is what it was.
func (s *State) Restore(r io.Reader) error {
	db, err := readSnapshot(r)
	if err != nil {
		return fmt.Errorf("read snapshot: %w", err)
	}
	s.db.Store(db)
	s.notify()
	return nil
}

// tableRow is a row on its way into the database.
type tableRow struct {
	table string
	row   any
}

// readSnapshot decodes in one goroutine and inserts in another: a node that restarts is waited for.
func readSnapshot(r io.Reader) (*memdb.MemDB, error) {
	var (
		reader  sync.WaitGroup
		readErr error // before batches is closed
		batches = make(chan []tableRow, 4)
		stop    = make(chan struct{})
	)
	reader.Go(func() {
		defer close(batches)
		readErr = readRows(r, func(batch []tableRow) bool {
			select {
			case batches <- batch:
				return true
			case <-stop:
				return false
			}
		})
	})
	defer reader.Wait()
	defer close(stop)
	db := empty()
	txn := db.Txn(true)
	defer txn.Abort()
	for batch := range batches {
		for _, r := range batch {
			if err := txn.Insert(r.table, r.row); err != nil {
				return nil, fmt.Errorf("a row of %s: %w", r.table, err)
			}
		}
	}
	if readErr != nil {
		return nil, readErr
	}
	txn.Commit()
	return db, nil
}

// batchRows is how many rows travel together.
const batchRows = 512

// readRows hands the rows of a snapshot over, in batches, until its end or until pass says no.
func readRows(r io.Reader, pass func([]tableRow) bool) error {
	fresh := map[string]func() any{}
	for _, r := range rows {
		fresh[r.table] = r.fresh
	}
	in := bufio.NewScanner(r)
	in.Buffer(make([]byte, 64<<10), maxRow)
	if err := readHead(in); err != nil {
		return err
	}
	var batch []tableRow
	for count := 0; in.Scan(); count++ {
		line, isRow := bytes.CutPrefix(in.Bytes(), []byte(rowTable))
		if !isRow {
			pass(batch)
			return readEnd(in, count)
		}
		name, row, ok := bytes.Cut(line, []byte(rowRow))
		row, closed := bytes.CutSuffix(row, []byte("}"))
		if !ok || !closed {
			return fmt.Errorf("line %d is no row", count+2)
		}
		table := string(name)
		blank, ok := fresh[table]
		if !ok {
			return fmt.Errorf("unknown table %q: upgrade this node", table)
		}
		object := blank()
		if err := decodeStrict(row, object); err != nil {
			return fmt.Errorf("a row of %s: %w", table, err)
		}
		if batch = append(batch, tableRow{table, object}); len(batch) == batchRows {
			if !pass(batch) {
				return nil // the other side knows why
			}
			batch = make([]tableRow, 0, batchRows)
		}
	}
	if err := in.Err(); err != nil {
		return err
	}
	return io.ErrUnexpectedEOF
}

func readHead(in *bufio.Scanner) error {
	if !in.Scan() {
		if err := in.Err(); err != nil {
			return err
		}
		return io.ErrUnexpectedEOF
	}
	var head struct {
		Version int `json:"offshoot_snapshot"`
	}
	if err := decodeStrict(in.Bytes(), &head); err != nil {
		return err
	}
	if head.Version != snapshotVersion {
		return fmt.Errorf("version %d, this offshoot reads %d", head.Version, snapshotVersion)
	}
	return nil
}

func readEnd(in *bufio.Scanner, count int) error {
	var end struct {
		Rows *int `json:"rows"`
	}
	if err := decodeStrict(in.Bytes(), &end); err != nil {
		return err
	}
	if end.Rows == nil || *end.Rows != count {
		return fmt.Errorf("%d rows, which is not what its end says", count)
	}
	if in.Scan() {
		return errors.New("trailing data")
	}
	return in.Err()
}
