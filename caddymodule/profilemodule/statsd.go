package profilemodule

import (
	"context"
	"errors"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/DataDog/datadog-go/v5/statsd"
	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/metricsgate/metricsgate/caddymodule/internal/pool"
)

// changesCounter is the name under which changes are counted. No profile
// server before this one had any, so there is none to keep.
const changesCounter = "profile.metrics_optout.set"

// changeCounter tells a DogStatsD agent of changes. To count never waits: it
// adds to a sum in memory, which is sent every two seconds and on Close. What
// an agent that is away does not hear is lost.
type changeCounter struct{ client *statsd.Client }

// changeCounters are shared across reloads, with what is not sent yet.
var changeCounters = pool.New[*changeCounter]()

// newChangeCounter makes a counter for the agent at this address, which has
// been checked. It uses no network.
func newChangeCounter(address string) (*changeCounter, error) {
	options := []statsd.Option{
		statsd.WithoutTelemetry(),
		statsd.WithoutOriginDetection(), // or it would look up which container this is
		// There are six sums at most, which fit into one payload.
		statsd.WithWorkersCount(1), statsd.WithBufferPoolSize(8), statsd.WithSenderQueueSize(8),
		statsd.WithErrorHandler(logAgentAway(address)),
	}
	var client *statsd.Client
	var err error
	if strings.HasPrefix(address, unixPrefix) {
		client, err = statsd.New(address, options...) // connects when it sends
	} else {
		client, err = statsd.NewWithWriter(&agent{address: address}, options...)
	}
	if err != nil {
		return nil, err
	}
	return &changeCounter{client}, nil
}

const unixPrefix = "unix://"

// checkAgentAddress makes sure that an address is host:port or the path of a
// socket. The error leaves it out: it may have come from a placeholder.
func checkAgentAddress(address string) error {
	if path, ok := strings.CutPrefix(address, unixPrefix); ok {
		if !strings.HasPrefix(path, "/") {
			return errors.New("is not the path of a socket; write one such as unix:///var/run/datadog/dsd.socket")
		}
		return nil
	}
	host, port, err := net.SplitHostPort(address)
	if number, notOne := strconv.ParseUint(port, 10, 16); err != nil || notOne != nil || host == "" || number == 0 {
		return errors.New("is not an address; write <host>:<port>, such as 127.0.0.1:8125, or unix:///<path>")
	}
	return nil
}

// count tells of one change: to true or false, from user, browser or admin.
func (c *changeCounter) count(value, source string) {
	// It fails only without a client, or with one that works by channel.
	_ = c.client.Incr(changesCounter, []string{"value:" + value, "source:" + source}, 1)
}

// Close sends what was counted. It takes a little more than a second at most.
func (c *changeCounter) Close() { _ = c.client.Close() } // nobody is left to tell

// agent is a DogStatsD agent by UDP. Its name is resolved when there is
// something to send, in the client's own goroutine, so that a name server
// which does not answer delays neither a reload nor a request; and again after
// an error, since it may have moved.
type agent struct {
	address string
	conn    net.Conn
	failed  time.Time // when it could not be reached last
}

const (
	agentDialTimeout = time.Second
	agentDialPause   = 10 * time.Second
)

var errAgentAway = errors.New("the agent could not be reached a moment ago")

// Write sends a payload.
func (a *agent) Write(payload []byte) (int, error) {
	if a.conn == nil {
		if time.Since(a.failed) < agentDialPause {
			return 0, errAgentAway
		}
		dialer := net.Dialer{Timeout: agentDialTimeout}
		conn, err := dialer.DialContext(context.Background(), "udp", a.address)
		if err != nil {
			a.failed = time.Now()
			return 0, err
		}
		a.conn = conn
	}
	n, err := a.conn.Write(payload)
	if err != nil {
		_ = a.Close()
	}
	return n, err
}

// Close lets go of the socket.
func (a *agent) Close() error {
	if a.conn == nil {
		return nil
	}
	err := a.conn.Close()
	a.conn = nil
	return err
}

// logAgentAway returns what logs that changes are not counted: once a minute,
// as an agent that is away fails every payload.
func logAgentAway(address string) func(error) {
	logger := caddy.Log().Named(moduleID).WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(core, time.Minute, 1, 0)
	}))
	return func(err error) {
		logger.Warn("changes are not counted, since the statsd agent cannot be reached", zap.String("agent", address), zap.Error(err))
	}
}
