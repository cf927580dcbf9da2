package workset

import "context"

const (
	// giveUp is how many files in succession may fail before the rest of a pass is left out: a source that is gone costs half a
	// minute for each.
	giveUp = 3
	// maxBarren is how many passes in succession may bring nothing new before a node is warm without the rest.
	maxBarren = 2
)

// Pass is one attempt to have all files of a list here.
type Pass struct {
	Files  int
	Here   int
	Gone   int   // no source knows them any more: no later pass will bring them
	Failed int   // could not be fetched, or were not tried because others had failed
	Err    error // of the first that failed
}

// Walk goes through a list in its order. bring fetches one file, or finds it here; gone says of its error that no source knows the
// file. step, if set, hears of each file that was tried.
func Walk(ctx context.Context, l List, bring func(context.Context, File) error, gone func(error) bool, step func(File, error)) Pass {
	p := Pass{Files: len(l)}
	inRow := 0
	for i, f := range l {
		err := bring(ctx, f)
		if step != nil {
			step(f, err)
		}
		switch {
		case err == nil:
			p.Here++
			inRow = 0
			continue
		case gone(err):
			p.Gone++
			continue // says nothing about the source: it may have answered
		}
		p.Failed++
		if p.Err == nil {
			p.Err = err
		}
		if inRow++; inRow >= giveUp || ctx.Err() != nil {
			p.Failed += len(l) - i - 1
			return p
		}
	}
	return p
}

// Progress says whether a list still keeps a node from being warm. The zero value is that of a list that was never tried.
type Progress struct {
	Last   Pass
	best   int
	barren int // passes in succession that brought nothing new
	tried  bool
}

// Add takes the outcome of a pass.
func (p *Progress) Add(one Pass) {
	if p.barren++; one.Here > p.best {
		p.best, p.barren = one.Here, 0
	}
	p.Last, p.tried = one, true
}

// Complete says that another pass would bring nothing: all is here but what no source knows any more.
func (p Progress) Complete() bool { return p.tried && p.Last.Failed == 0 }

// Settled says that the list no longer keeps the node from being warm: it is complete, or passes bring nothing new. A list whose
// upstream has gone, or that was never complete anywhere, would else keep every node cold for ever: the seed could never leave.
func (p Progress) Settled() bool { return p.Complete() || p.barren >= maxBarren }
