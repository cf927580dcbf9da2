package lab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

var errClosed = errors.New("lab is closed")

// Cmd is an exec.Cmd that dies with the lab: it leads its own process group, the group is killed when its context ends
// or the lab closes, and the kernel kills it when this process dies. Use it like an exec.Cmd; fields that newCmd set
// (SysProcAttr, Cancel, WaitDelay) are not to be changed. Environment and Dir are free.
type Cmd struct {
	*exec.Cmd
	lab *Lab
	id  process
}

func newCmd(l *Lab, c *exec.Cmd) *Cmd {
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	c.Cancel = func() error {
		err := syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
		if errors.Is(err, syscall.ESRCH) {
			return os.ErrProcessDone // Wait then reports how it ended, not that we came late
		}
		return err
	}
	// A grandchild that left the group may hold our pipes open for ever.
	c.WaitDelay = 5 * time.Second
	return &Cmd{Cmd: c, lab: l}
}

// Start starts the program from the one thread that lives as long as the lab: Pdeathsig is delivered when the starting
// thread ends, not the process (prctl(2)), and the Go runtime may end any other thread.
func (c *Cmd) Start() error {
	if err := c.lab.forks.do(c.Cmd.Start); err != nil {
		return err
	}
	id, ok := processOf(c.Process.Pid)
	if !ok {
		return nil // ended already; Wait tells how
	}
	c.id = id
	if err := c.lab.state.addProcess(id); err != nil {
		id.kill()
		return errors.Join(err, c.Cmd.Wait())
	}
	return nil
}

// Wait is exec.Cmd.Wait.
func (c *Cmd) Wait() error {
	err := c.Cmd.Wait()
	if c.id.PID == 0 {
		return err
	}
	if drop := c.lab.state.dropProcess(c.id); err == nil {
		err = drop
	}
	return err
}

// Run is Start and Wait.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output runs the program and returns its standard output.
func (c *Cmd) Output() ([]byte, error) {
	var out bytes.Buffer
	c.Stdout = &out
	err := c.Run()
	return out.Bytes(), err
}

// CombinedOutput runs the program and returns its standard output and error.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	return out.Bytes(), err
}

// forker owns the operating system thread that starts all processes of a lab.
type forker struct {
	work chan func()
	quit chan struct{}
	done chan struct{}
	once sync.Once
}

func startForker() *forker {
	f := &forker{work: make(chan func()), quit: make(chan struct{}), done: make(chan struct{})}
	go f.run()
	return f
}

func (f *forker) run() {
	defer close(f.done)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for {
		select {
		case fn := <-f.work:
			fn()
		case <-f.quit:
			return
		}
	}
}

func (f *forker) do(fn func() error) error {
	result := make(chan error, 1)
	select {
	case f.work <- func() { result <- fn() }:
		return <-result
	case <-f.quit:
		return fmt.Errorf("start process: %w", errClosed)
	}
}

func (f *forker) stop() {
	f.once.Do(func() { close(f.quit) })
	<-f.done
}
