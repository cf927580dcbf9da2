package api

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"offshoot/node/status"
	"offshoot/swarm"
)

// Profiler is the part of a Desk that concerns what machines are installed with. A document is the YAML that operators write.
type Profiler interface {
	// Profiles lists them, without their documents.
	Profiles() []status.Profile
	// Profile finds one, with its document.
	Profile(name string) (p status.Profile, ok bool, err error)
	// PutProfile writes a profile down, or only says what is wrong with it. With create it must not exist yet. A refusal names the
	// line of the document, or the file that cannot be rendered.
	PutProfile(ctx context.Context, actor, name string, document []byte, how PutHow) error
	// LintProfile says what an installer would choke on; none is good.
	LintProfile(name string) (findings []string, ok bool)
	// Render makes what a machine gets at its next network boot.
	Render(mac swarm.MAC, profile string) (status.Rendered, error)
}

// PutHow says how a profile is put.
type PutHow struct {
	Create bool // it must not exist yet
	Check  bool // say what is wrong, and write nothing down; artifacts need not be here yet
	// Former is the SHA-256, in hex, of the document that was changed: if the profile has another one by now, it stays. "" asks for nothing.
	Former string
}

func profile(q *request) (any, error) {
	p, ok, err := q.desk.Profile(q.PathValue("name"))
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, noProfile(q)
	}
	return p, nil
}

func noProfile(q *request) error {
	return fmt.Errorf("profile %q is %w: offshoot profile list", q.PathValue("name"), errMissing)
}

func lintProfile(q *request) (any, error) {
	findings, ok := q.desk.LintProfile(q.PathValue("name"))
	if !ok {
		return nil, noProfile(q)
	}
	return orEmpty(findings), nil
}

func putProfile(q *request) (any, error) {
	text, err := io.ReadAll(http.MaxBytesReader(q.w, q.Body, maxBody))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBad, err)
	}
	query := q.URL.Query()
	how := PutHow{Create: query.Has("create"), Check: query.Has("check"), Former: query.Get("former")}
	return nil, q.desk.PutProfile(q.Context(), q.caller.Actor(), q.PathValue("name"), text, how)
}

func dropProfile(q *request) (any, error) {
	return decide(q, func(struct{}) (swarm.Op, error) { return swarm.DropProfile{Name: q.PathValue("name")}, nil })
}

func render(q *request, mac swarm.MAC) (any, error) {
	return q.desk.Render(mac, q.URL.Query().Get("profile"))
}

// Profiles asks for what machines can be installed with.
func (c *Client) Profiles(ctx context.Context) ([]status.Profile, error) {
	return get[[]status.Profile](ctx, c, "/v1/profiles")
}

// Profile asks for one profile with its document.
func (c *Client) Profile(ctx context.Context, name string) (status.Profile, error) {
	return get[status.Profile](ctx, c, "/v1/profiles/"+url.PathEscape(name))
}

// PutProfile writes a profile down, or only has it checked.
func (c *Client) PutProfile(ctx context.Context, name string, document []byte, how PutHow) error {
	var query []string
	if how.Create {
		query = append(query, "create")
	}
	if how.Check {
		query = append(query, "check")
	}
	if how.Former != "" {
		query = append(query, "former="+how.Former)
	}
	path := "/v1/profiles/" + url.PathEscape(name) + "?" + strings.Join(query, "&")
	resp, err := c.do(ctx, http.MethodPut, path, strings.NewReader(string(document)))
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// LintProfile asks what an installer would choke on.
func (c *Client) LintProfile(ctx context.Context, name string) ([]string, error) {
	return get[[]string](ctx, c, "/v1/profiles/"+url.PathEscape(name)+"/lint")
}

// DropProfile removes a profile.
func (c *Client) DropProfile(ctx context.Context, name string) error {
	return c.call(ctx, "DELETE", "/v1/profiles/"+url.PathEscape(name), nil, nil)
}

// Render asks what a machine gets at its next network boot; of another profile than its own, if one is named.
func (c *Client) Render(ctx context.Context, mac swarm.MAC, profile string) (status.Rendered, error) {
	return get[status.Rendered](ctx, c, "/v1/machines/"+string(mac)+"/render?profile="+url.QueryEscape(profile))
}
