package lab

import (
	"math/rand/v2"
	"net"
	"testing"
	"time"
)

// TestWeatherDoesToFramesWhatItSays counts what becomes of ten thousand frames.
func TestWeatherDoesToFramesWhatItSays(t *testing.T) {
	deaf := net.HardwareAddr{2, 0, 0, 0, 0, 7}
	frame := make([]byte, 60)
	from := append(append(make([]byte, 6), deaf...), make([]byte, 48)...)
	for _, c := range []struct {
		name     string
		weather  Weather
		frame    []byte
		lost     [2]int // at least and at most, of 10,000
		twice    [2]int
		overtook [2]int
	}{
		{"GoodCable", Weather{}, frame, [2]int{0, 0}, [2]int{0, 0}, [2]int{10_000, 10_000}},
		{"Cut", Weather{Loss: 1}, frame, [2]int{10_000, 10_000}, [2]int{0, 0}, [2]int{0, 0}},
		{"ATenthIsLost", Weather{Loss: 0.1}, frame, [2]int{800, 1200}, [2]int{0, 0}, [2]int{8800, 9200}},
		{"ATenthComesTwiceAndAThirdOvertakes", Weather{Duplicate: 0.1, Reorder: 0.3, Delay: time.Millisecond}, frame,
			[2]int{0, 0}, [2]int{800, 1200}, [2]int{2400, 3000}},
		{"DeafForOneOnly", Weather{Deaf: []net.HardwareAddr{deaf}}, frame, [2]int{0, 0}, [2]int{0, 0}, [2]int{10_000, 10_000}},
		{"DeafForItsSender", Weather{Deaf: []net.HardwareAddr{deaf}}, from, [2]int{10_000, 10_000}, [2]int{0, 0}, [2]int{0, 0}},
	} {
		t.Run(c.name, func(t *testing.T) {
			chance := rand.New(rand.NewPCG(1, 2))
			var lost, twice, overtook int
			for range 10_000 {
				switch at := c.weather.fate(c.frame, chance); {
				case len(at) == 0:
					lost++
				case len(at) == 2:
					twice++
				case at[0] == 0:
					overtook++
				}
			}
			for what, v := range map[string]struct {
				got  int
				want [2]int
			}{"lost": {lost, c.lost}, "came twice": {twice, c.twice}, "were not delayed": {overtook, c.overtook}} {
				if v.got < v.want[0] || v.got > v.want[1] {
					t.Errorf("%d of 10,000 %s, want %d to %d", v.got, what, v.want[0], v.want[1])
				}
			}
		})
	}
}
