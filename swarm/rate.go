package swarm

import (
	"fmt"
	"strconv"
	"strings"
)

// Rate bounds bytes per second; 0 is no bound. People write it as ParseRate reads it.
type Rate int64

// Bounds of a rate that somebody sets. Below the least what moves stands still for longer than those who wait for it do.
const (
	minRate Rate = 10_000
	maxRate Rate = 1_000_000_000_000

	maxRateText = 40 // of what is repeated in an error
)

// units are what a rate is written in, those that String prefers first.
var units = []struct {
	name  string
	bytes float64
}{
	{"GB/s", 1e9}, {"MB/s", 1e6}, {"kB/s", 1e3}, {"B/s", 1},
	{"GiB/s", 1 << 30}, {"MiB/s", 1 << 20}, {"KiB/s", 1 << 10}, {"Gbit/s", 1e9 / 8}, {"Mbit/s", 1e6 / 8}, {"kbit/s", 1e3 / 8},
}

// ParseRate reads a number and a unit: 20MB/s, 1.5 MiB/s, 100Mbit/s. Units are taken as they are spelled only: Mb and MB differ by
// eight, and whoever mixes them up should hear of it.
func ParseRate(text string) (Rate, error) {
	trimmed := strings.TrimSpace(text)
	end := strings.IndexFunc(trimmed, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	if end < 0 {
		end = len(trimmed)
	}
	unit := strings.TrimSpace(trimmed[end:])
	number, err := strconv.ParseFloat(trimmed[:end], 64)
	if err != nil {
		return 0, fmt.Errorf("%q is no rate: want a number and a unit, as in 20MB/s, 500kB/s (bytes) or 100Mbit/s (bits)", clip(text, maxRateText))
	}
	for _, u := range units {
		if u.name != unit {
			continue
		}
		if bytes := number * u.bytes; bytes < float64(minRate) || bytes > float64(maxRate) {
			return 0, fmt.Errorf("%q: want a rate from %s to %s", clip(text, maxRateText), minRate, maxRate)
		}
		return Rate(number * u.bytes), nil
	}
	return 0, fmt.Errorf("%q: want its unit to be one of B/s, kB/s, MB/s, GB/s, KiB/s, MiB/s, GiB/s (bytes), kbit/s, Mbit/s, Gbit/s (bits), spelled like that", clip(text, maxRateText))
}

// String is the rate in the largest unit of bytes that shows it exactly.
func (r Rate) String() string {
	if r == 0 {
		return "none"
	}
	for _, u := range units {
		if n := int64(u.bytes); int64(r)%n == 0 {
			return strconv.FormatInt(int64(r)/n, 10) + u.name
		}
	}
	return "" // the loop has met B/s
}

// check says what is wrong with a rate, "" if nothing is, or if there is none.
func (r Rate) check(least Rate) string {
	if r != 0 && (r < least || r > maxRate) {
		return fmt.Sprintf("%d bytes per second: want %s to %s", int64(r), least, maxRate)
	}
	return ""
}
