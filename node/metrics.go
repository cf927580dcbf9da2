package node

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"offshoot/node/internal/api"
)

// serveMetrics answers Prometheus, if this node was told to.
func (s *services) serveMetrics(ctx context.Context) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", s.node.o.Metrics)
	if err != nil {
		return fmt.Errorf("metrics on %s: %w", s.node.o.Metrics, err)
	}
	server := &http.Server{Handler: api.Metrics(&desk{s}), ReadTimeout: scrapeTime, WriteTimeout: scrapeTime, IdleTimeout: 5 * time.Minute}
	return serve(server, l)(ctx)
}

// scrapeTime bounds what whoever asks for metrics may take.
const scrapeTime = 10 * time.Second
